"""Why an item is in a slate, in data and in words."""

from collections.abc import Sequence

import numpy as np

from recsys.histories import Histories
from recsys.ranking.features import FeatureTables
from recsys.request import Reason
from recsys.retrieval.retrieve import SOURCES, TABLES, Candidates, Retrieval

_WORDS = {
    "transitions": "Often chosen after “{title}”",
    "adjacent": "Often chosen right after “{title}”",
    "reversed": "Often chosen before “{title}”",
    "copurchase": "Bought together with “{title}”",
    "content": "Resembles “{title}”",
    "embedding": "Fits the taste shown by “{title}”",
    "history": "You looked at it before",
    "trending": "Popular now",
    "new": "New in the shop",
}


def explain(
    candidates: Candidates,
    positions: Sequence[int],
    histories: Histories,
    request: int,
    retrieval: Retrieval,
    tables: FeatureTables,
    item_ids: Sequence[str],
    titles: Sequence[str],
) -> list[tuple[Reason, ...]]:
    """One reason for each of ``positions`` (into ``candidates``): the source in which the item stands highest.

    The past item named is the one with the heaviest link to it in that source; shares compare the picture, the words
    and the behaviour (co-purchase and transitions) of the two.
    """
    start, stop = histories.offsets[request], histories.offsets[request + 1]
    past = histories.rows[start:stop]
    reasons: list[tuple[Reason, ...]] = []
    for position in positions:
        row = int(candidates.rows[position])
        ranks = candidates.ranks[position]
        # A personal source explains better than "popular", unless it barely knows the item.
        handicap = np.where(np.isin(SOURCES, ("trending", "new")), 3.0, 1.0) if len(past) else np.ones(len(SOURCES))
        weighted = np.where(np.isnan(ranks), np.inf, ranks * handicap)
        source = SOURCES[int(np.argmin(weighted))]
        if source in ("trending", "new") or len(past) == 0:
            reasons.append((Reason(source=source, text=_WORDS[source]),))
            continue
        cause = _cause(source, row, past, retrieval, tables)
        title = titles[cause] or item_ids[cause]
        reasons.append(
            (
                Reason(
                    source=source,
                    item_id=item_ids[cause],
                    shares=_shares(row, cause, retrieval, tables),
                    text=_WORDS[source].format(title=title),
                ),
            )
        )
    return reasons


def _cause(source: str, row: int, past: np.ndarray, retrieval: Retrieval, tables: FeatureTables) -> int:
    """The past item with the heaviest link to ``row``; the newest of equals."""
    if source == "history":
        return row
    if source in TABLES:
        links = np.array([_link(retrieval, source, int(item), row) for item in past])
    else:
        vectors = np.asarray(tables.spaces["fused"][past], np.float32)
        links = vectors @ np.asarray(tables.spaces["fused"][row], np.float32)
    return int(past[len(past) - 1 - int(np.argmax(links[::-1]))])


def _link(retrieval: Retrieval, table: str, item: int, row: int) -> float:
    neighbours = retrieval.tables[table].neighbours[item]
    place = np.flatnonzero(neighbours == row)
    return float(retrieval.tables[table].weights[item, place[0]]) if len(place) else 0.0


def _shares(row: int, cause: int, retrieval: Retrieval, tables: FeatureTables) -> dict[str, float]:
    """How much of the likeness is picture, words and behaviour: each clipped to [0, 1], then made to sum to 1."""

    def cosine(space: str) -> float:
        vectors = tables.spaces[space]
        return max(0.0, float(np.asarray(vectors[row], np.float32) @ np.asarray(vectors[cause], np.float32)))

    # A co-purchase cosine is small even between close companions: its root is on the scale of the other two.
    behaviour = max(_link(retrieval, "copurchase", cause, row), _link(retrieval, "copurchase", row, cause)) ** 0.5
    parts = {"image": cosine("image"), "text": cosine("text"), "behaviour": min(behaviour, 1.0)}
    total = sum(parts.values())
    return {name: round(value / total, 4) for name, value in parts.items()} if total > 0 else {}
