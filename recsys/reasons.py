"""Why an item is in a slate, in data and in words."""

from collections.abc import Sequence

import numpy as np

from recsys.artifacts import Release
from recsys.histories import Float32, Histories, Int32
from recsys.request import Reason
from recsys.retrieval.retrieve import SOURCES, TABLES, Candidates, steps_from_newest
from recsys.schema import EVENT_TYPES

_WORDS = {
    "transitions": "Often chosen after “{title}”",
    "adjacent": "Often chosen right after “{title}”",
    "reversed": "Often chosen before “{title}”",
    "copurchase": "Bought together with “{title}”",
    "linear": "Goes with “{title}”",
    "content": "Resembles “{title}”",
    "attributes": "Shares traits with “{title}”",
    "taste": "Fits the taste shown by “{title}”",
    "trending": "Popular now",
    "new": "New in the shop",
}
_PAST = {
    "purchase": "You bought it before",
    "add-to-cart": "You had it in your cart",
    "rating": "You rated it",
    "detail-page-view": "You looked at it before",
}
_IMPERSONAL = ("trending", "new")
# A personal source explains better than "popular", unless it barely knows the item.
_HANDICAP = np.array([3.0 if source in _IMPERSONAL else 1.0 for source in SOURCES])


def explain(
    release: Release, candidates: Candidates, positions: Sequence[int], histories: Histories, request: int
) -> list[tuple[Reason, ...]]:
    """One reason for each of ``positions`` (into ``candidates``) of one request.

    An item of the shopper's own past says so. For any other it is the source in which it stands highest, and the past
    item that weighed most there; shares compare the picture, the words and the behaviour of the two.
    """
    start, stop = histories.offsets[request], histories.offsets[request + 1]
    past, types = histories.rows[start:stop], histories.event_types[start:stop]
    steps = steps_from_newest(histories)[start:stop]
    return [(_reason(release, candidates, position, past, types, steps),) for position in positions]


def why_filled(release: Release, row: int) -> Reason:
    """The reason of an item that only fills the slate: it sells, or it is at least there."""
    source = "trending" if release.retrieval.trending[row] > 0 else "new"
    return Reason(source=source, text=_WORDS[source] if source == "trending" else "From the catalogue")


def _reason(
    release: Release, candidates: Candidates, position: int, past: Int32, types: np.ndarray, steps: Float32
) -> Reason:
    row = int(candidates.rows[position])
    own = np.flatnonzero(past == row)
    if len(own):
        text = _PAST[EVENT_TYPES[types[own].max()]]  # a rating says more than a purchase, that more than a view
        return Reason(source="history", item_id=release.item_ids[row], text=text)
    ranks = candidates.ranks[position]
    source = SOURCES[int(np.argmin(np.where(np.isnan(ranks), np.inf, ranks * _HANDICAP)))]
    if source in _IMPERSONAL or len(past) == 0:
        return Reason(source=source, text=_WORDS[source])
    cause = _cause(release, source, row, past, steps)
    title = release.titles[cause] or release.item_ids[cause]
    return Reason(
        source=source,
        item_id=release.item_ids[cause],
        shares=_shares(release, row, cause),
        text=_WORDS[source].format(title=title),
    )


def _cause(release: Release, source: str, row: int, past: Int32, steps: Float32) -> int:
    """The past item that weighed most for ``row``, fading with age as in retrieval; the newest of equals."""
    if source in TABLES:
        links = np.array([_link(release, source, int(item), row) for item in past])
        links *= release.retrieval.config.step_decay[source] ** steps
    else:
        fused = release.tables.spaces["fused"]
        links = np.asarray(fused[past], np.float32) @ np.asarray(fused[row], np.float32)
    return int(past[len(past) - 1 - int(np.argmax(links[::-1]))])


def _link(release: Release, table: str, item: int, row: int) -> float:
    place = np.flatnonzero(release.retrieval.tables[table].neighbours[item] == row)
    return float(release.retrieval.tables[table].weights[item, place[0]]) if len(place) else 0.0


def _shares(release: Release, row: int, cause: int) -> dict[str, float]:
    """How much of the likeness is picture, words and behaviour: each clipped to [0, 1], then made to sum to 1."""

    def cosine(space: str) -> float:
        vectors = release.tables.spaces[space]
        return max(0.0, float(np.asarray(vectors[row], np.float32) @ np.asarray(vectors[cause], np.float32)))

    # A co-purchase cosine is small even between close companions: its root is on the scale of the other two.
    behaviour = max(_link(release, "copurchase", cause, row), _link(release, "copurchase", row, cause)) ** 0.5
    parts = {"image": cosine("image"), "text": cosine("text"), "behaviour": min(behaviour, 1.0)}
    total = sum(parts.values())
    return {name: round(value / total, 4) for name, value in parts.items()} if total > 0 else {}
