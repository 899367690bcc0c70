"""Why an item is in a slate, in data and in words."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from recsys.artifacts import Release
from recsys.histories import Float32, Histories, Int32
from recsys.ranking.features import FEATURES, SPACES
from recsys.request import Reason
from recsys.retrieval.places import RRF
from recsys.retrieval.retrieve import SOURCES, TABLES, WITHOUT_PAST, Candidates, steps_from_newest
from recsys.retrieval.users import taste_content
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
    release: Release,
    candidates: Candidates,
    positions: Sequence[int],
    histories: Histories,
    request: int,
    features: Float32 | None = None,
) -> list[tuple[Reason, ...]]:
    """One reason for each of ``positions`` (into ``candidates``) of one request.

    An item of the shopper's own past says so. For any other it is the source in which it stands highest, and the past
    item that weighed most there. Shares are of the item's own score: see _score_shares().

    Args:
        release, candidates, histories: of the batch.
        positions: of the items to explain.
        request: position of their request in the batch.
        features: of every candidate, what the ranker saw.
    """
    start, stop = histories.offsets[request], histories.offsets[request + 1]
    past, types = histories.rows[start:stop], histories.event_types[start:stop]
    steps = steps_from_newest(histories)[start:stop]
    known = bool(histories.known[request])
    shares = _score_shares(release, candidates, features, known, positions, past) if len(positions) else []
    return [
        (replace(_reason(release, candidates, position, past, types, steps), shares=mine),)
        for position, mine in zip(positions, shares)
    ]


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
    if np.isnan(ranks).all():  # no source speaks for it: it is a candidate because few may be shown
        return why_filled(release, row)
    source = SOURCES[int(np.argmin(np.where(np.isnan(ranks), np.inf, ranks * _HANDICAP)))]
    if source in _IMPERSONAL or len(past) == 0:
        return Reason(source=source, text=_WORDS[source])
    cause = _cause(release, source, row, past, steps)
    title = release.titles[cause] or release.item_ids[cause]
    return Reason(
        source=source,
        item_id=release.item_ids[cause],
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


def embedding_shares(release: Release, vector: Float32, row: int) -> dict[str, float]:
    """How much of ``vector``'s inner product with an item's embedding is owed to each of the item's modalities.

    The embedding is the sum of what each modality adds to it (see embedding_parts()), so the inner product is a sum
    too, and nothing is estimated. What speaks against the match counts as 0; the rest sums to 1. Empty where the
    release holds no parts, or nothing speaks for the match.
    """
    parts = release.search.parts if release.search is not None else {}
    return shared_out({name: float(np.asarray(part[row], np.float32) @ vector) for name, part in parts.items()})


def shared_out(parts: Mapping[str, float]) -> dict[str, float]:
    """What speaks for an item, made to sum to 1; empty where nothing does.

    >>> shared_out({"image": 3.0, "text": 1.0, "reviews": -2.0})
    {'image': 0.75, 'text': 0.25}
    """
    total = sum(value for value in parts.values() if value > 0)
    return {name: round(value / total, 4) for name, value in parts.items() if value > 0}


def why_alike(release: Release, item_id: str, other_id: str, weights: Mapping[str, float] | None = None) -> Reason:
    """The reason of an answer of :meth:`Release.similar`, with the shares of its score.

    Args:
        release: knows both.
        item_id: what was asked about.
        other_id: what was answered.
        weights: as given to it; each one's share is that of its weighted likeness. None: the fused embedding's.
    """
    asked, row = release.rows[item_id], release.rows[other_id]
    if weights is None:
        shares = embedding_shares(release, np.asarray(release.tables.spaces["fused"][asked], np.float32), row)
    else:
        shares = shared_out(
            {name: weight * release.likeness_of(name, [asked], row) for name, weight in weights.items()}
        )
    behaves = max(shares, key=lambda name: shares[name], default="") == "behaviour"
    source = "copurchase" if behaves else "content"
    title = release.titles[asked] or item_id
    return Reason(source=source, item_id=item_id, shares=shares, text=_WORDS[source].format(title=title))


def _score_shares(
    release: Release,
    candidates: Candidates,
    features: Float32 | None,
    known: bool,
    positions: Sequence[int],
    past: Int32,
) -> list[dict[str, float]]:
    """How much of each candidate's score is owed to image, text, reviews, attributes and behaviour.

    Where the ranker ordered: its features' exact contributions (TreeSHAP), summed by what they look at; elsewhere: each
    source's summand of the fused score. What compares embeddings is shared out over the modalities by
    embedding_shares(), asked by the mean of the shopper's past. What is the same for every candidate (the shopper's own
    features) is left out.

    Source: Lundberg et al. 2020, Nature Machine Intelligence 2.
    """
    rows = candidates.rows[np.asarray(positions, int)]
    if release.ranker is not None and features is not None and known:
        names, owed = FEATURES, release.ranker.contributions(features[positions])
    else:
        weight_of = release.retrieval.config.fusion_weight if known else WITHOUT_PAST
        weights = np.array([weight_of[source] for source in SOURCES], np.float32)
        names, owed = SOURCES, np.nan_to_num(weights / (RRF + candidates.ranks[positions]))
    groups = [_looks_at(name) for name in names]
    mean = np.asarray(release.tables.spaces["fused"][past], np.float32).mean(axis=0) if len(past) else None
    shares = []
    for row, mine in zip(rows.tolist(), owed):
        parts: dict[str, float] = {}
        for group, value in zip(groups, mine.tolist()):
            if group is not None:
                parts[group] = parts.get(group, 0.0) + value
        by_taste = parts.pop("taste", 0.0)
        by_content = by_taste * _owed_to_content(release, row) if by_taste > 0 else 0.0
        parts["behaviour"] = parts.get("behaviour", 0.0) + by_taste - by_content
        by_meaning = parts.pop("embedding", 0.0) + by_content
        if by_meaning > 0 and mean is not None:
            for name, share in embedding_shares(release, mean, row).items():
                parts[name] = parts.get(name, 0.0) + share * by_meaning
        shares.append(shared_out(parts))
    return shares


def _owed_to_content(release: Release, row: int) -> float:
    """How far an item's place in the taste space is that of its content alone, [0, 1]: 1 for one that nobody took."""
    content = taste_content([np.asarray(release.tables.spaces[name][[row]], np.float32) for name in SPACES])
    by_content = release.retrieval.tower.item_vectors(content)[0]
    return float(np.clip(by_content @ np.asarray(release.retrieval.taste[row], np.float32), 0, 1))


_SHOPPERS_OWN = ("history_length", "history_distinct", "history_purchases", "days_since_last_event", "n_candidates")
_LOOKS_AT = (
    (("image_",), "image"),
    (("text_",), "text"),
    (("review",), "reviews"),
    (("fused_", "content"), "embedding"),
    (("taste",), "taste"),  # in part content, in part what shoppers made of it
    (("attribute", "shared_attributes", "same_", "price", "item_age", "new"), "attributes"),
)


def _looks_at(name: str) -> str | None:
    """What a feature or a source looks at: "embedding" and "taste" are shared out further; None: nothing of it."""
    if name.startswith(_SHOPPERS_OWN):
        return None
    return next((group for starts, group in _LOOKS_AT if name.startswith(starts)), "behaviour")
