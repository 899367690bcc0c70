"""How good a slate is: per user first, so that two policies can be compared user by user; the mean is the caller's.

Every accuracy metric takes the same three arrays:

* ``recommended``: int32 [q, width], the rows shown to each of ``q`` users, best first; ``-1`` is an empty place. A row
  may stand only once in a slate.
* ``offsets``: int64 [q + 1] and ``rows``: int32 [m], the relevant rows of user ``u`` are
  ``rows[offsets[u]:offsets[u + 1]]``: at least one, none negative, none twice. A relevant item that the release does
  not know keeps a row of its own past the catalogue, so that it counts as missed rather than not at all.

``k`` is the number of places that count, the slate's width where it is left out. All candidates of the catalogue take
part: nothing here samples negatives (Krichene and Rendle 2020, "On sampled metrics for item recommendation").
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.errors import SchemaError

Rows = NDArray[np.int32]
Offsets = NDArray[np.int64]
PerUser = NDArray[np.float32]
Hits = NDArray[np.bool_]

SLATES_AT_ONCE = 4096  # diversity gathers this many slates' embeddings: 4096 × 12 × 128-d is 25 MiB


def recall_at_k(recommended: Rows, offsets: Offsets, rows: Rows, k: int | None = None) -> PerUser:
    """Share of a user's relevant items that are in the first k places; float32 [q].

    ``|relevant ∩ top k| / |relevant|``.

    Source: Manning, Raghavan and Schütze 2008, *Introduction to Information Retrieval*, §8.3.

    >>> recommended = np.array([[7, 2, 5]], np.int32)  # the user bought 5, 7, 8 and 9: two of four are shown
    >>> recall_at_k(recommended, np.array([0, 4]), np.array([5, 7, 8, 9], np.int32)).tolist()
    [0.5]
    """
    hits, n_relevant = _hits(recommended, offsets, rows, k)
    return _recall(hits, n_relevant)


def hit_rate_at_k(recommended: Rows, offsets: Offsets, rows: Rows, k: int | None = None) -> PerUser:
    """1 where at least one relevant item is in the first k places, else 0; float32 [q].

    Source: Deshpande and Karypis 2004, "Item-based top-N recommendation algorithms".

    >>> recommended = np.array([[7, 2, 5], [1, 2, 3]], np.int32)
    >>> hit_rate_at_k(recommended, np.array([0, 1, 2]), np.array([5, 9], np.int32)).tolist()
    [1.0, 0.0]
    """
    hits, _ = _hits(recommended, offsets, rows, k)
    return _hit_rate(hits)


def average_precision_at_k(recommended: Rows, offsets: Offsets, rows: Rows, k: int | None = None) -> PerUser:
    """Mean precision at the places of the hits, over the most hits that were possible; float32 [q]. Its mean is MAP@k.

    ``Σ_{i ≤ k} precision@i · hit_i / min(k, |relevant|)``.

    Source: Kaggle, "H&M Personalized Fashion Recommendations", evaluation (MAP@12).

    >>> recommended = np.array([[7, 2, 5]], np.int32)  # hits in places 1 and 3: (1/1 + 2/3) / min(3, 4)
    >>> average_precision_at_k(recommended, np.array([0, 4]), np.array([5, 7, 8, 9], np.int32)).round(4).tolist()
    [0.5555999875068665]
    """
    hits, n_relevant = _hits(recommended, offsets, rows, k)
    return _average_precision(hits, n_relevant)


def ndcg_at_k(recommended: Rows, offsets: Offsets, rows: Rows, k: int | None = None) -> PerUser:
    """Discounted gain of the hits over that of the best possible order, binary relevance; float32 [q].

    ``Σ_{i ≤ k} hit_i / log2(i + 1)`` over ``Σ_{i ≤ min(k, |relevant|)} 1 / log2(i + 1)``.

    Source: Järvelin and Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques".

    >>> recommended = np.array([[2, 7, 5]], np.int32)  # one relevant item, in place 2: 1 / log2(3)
    >>> ndcg_at_k(recommended, np.array([0, 1]), np.array([7], np.int32)).round(4).tolist()
    [0.6309000253677368]
    """
    hits, n_relevant = _hits(recommended, offsets, rows, k)
    return _ndcg(hits, n_relevant)


def mrr(recommended: Rows, offsets: Offsets, rows: Rows, k: int | None = None) -> PerUser:
    """One over the place of the first hit, 0 without a hit; float32 [q]. Its mean is the mean reciprocal rank.

    Source: Voorhees 1999, "The TREC-8 question answering track report".

    >>> recommended = np.array([[2, 7, 5]], np.int32)
    >>> mrr(recommended, np.array([0, 2]), np.array([5, 7], np.int32)).tolist()
    [0.5]
    """
    hits, _ = _hits(recommended, offsets, rows, k)
    return _reciprocal_rank(hits)


def accuracy_metrics(recommended: Rows, offsets: Offsets, rows: Rows, k: int | None = None) -> dict[str, PerUser]:
    """All of the above under the names that reports show, with the hits looked up once.

    >>> recommended = np.array([[7, 2, 5]], np.int32)
    >>> list(accuracy_metrics(recommended, np.array([0, 1]), np.array([5], np.int32)))
    ['NDCG@3', 'MAP@3', 'Recall@3', 'HitRate@3', 'MRR@3']
    """
    hits, n_relevant = _hits(recommended, offsets, rows, k)
    places = hits.shape[1]
    return {
        f"NDCG@{places}": _ndcg(hits, n_relevant),
        f"MAP@{places}": _average_precision(hits, n_relevant),
        f"Recall@{places}": _recall(hits, n_relevant),
        f"HitRate@{places}": _hit_rate(hits),
        f"MRR@{places}": _reciprocal_rank(hits),
    }


def found_at_k(recommended: Rows, offsets: Offsets, rows: Rows, k: int | None = None) -> Hits:
    """Which relevant items are in the first k places: bool [m], in the order of ``rows``.

    Recall seen from the items: the mean over those of one age or category says how well that kind is found.

    >>> recommended = np.array([[7, 2, 5]], np.int32)
    >>> found_at_k(recommended, np.array([0, 3]), np.array([5, 8, 7], np.int32)).tolist()
    [True, False, True]
    """
    top, relevant_keys, _ = _keys(recommended, offsets, rows, k)
    return np.isin(relevant_keys, top)


def coverage(recommended: Rows, n_items: int) -> float:
    """Share of the catalogue that is shown to anybody, in [0, 1].

    Source: Ge, Delgado-Battenfeld and Jannach 2010, "Beyond accuracy" (catalogue coverage).

    >>> coverage(np.array([[0, 1], [1, -1]], np.int32), n_items=4)
    0.5
    """
    return float((_exposure(recommended, n_items) > 0).mean())


def gini(recommended: Rows, n_items: int) -> float:
    """How unevenly the places are spread over the catalogue: 0 when every item is shown equally often, near 1 when one
    item takes all.

    ``Σ_i (2i − n − 1) x_i / (n Σ x)`` over the exposures x in ascending order. 0 when nothing is shown.

    Source: Gini 1912; for recommenders Fleder and Hosanagar 2009, "Blockbuster culture's next rise or fall".

    >>> gini(np.array([[0, 1], [2, 3]], np.int32), n_items=4)
    0.0
    >>> gini(np.array([[0], [0]], np.int32), n_items=4)
    0.75
    """
    exposure = np.sort(_exposure(recommended, n_items)).astype(np.float64)
    total = exposure.sum()
    if total == 0:
        return 0.0
    order = np.arange(1, n_items + 1)
    return float(((2 * order - n_items - 1) * exposure).sum() / (n_items * total))


def novelty(recommended: Rows, popularity: NDArray[np.int64]) -> PerUser:
    """Mean self-information of the shown items, bits: high where little-bought items are shown; float32 [q].

    ``mean −log2 p_i`` with ``p_i = (count_i + 1) / Σ_j (count_j + 1)``, so that an item nobody bought stays finite. NaN
    for an empty slate.

    Args:
        recommended: int32 [q, width].
        popularity: how often each row was bought, int64 [n_items].

    Source: Zhou et al. 2010, "Solving the apparent diversity-accuracy dilemma of recommender systems".

    >>> novelty(np.array([[0, 1], [2, -1]], np.int32), np.array([3, 1, 1])).tolist()  # p = 1/2, 1/4, 1/4
    [1.5, 2.0]
    """
    _exposure(recommended, len(popularity))  # checks the rows
    smoothed = np.asarray(popularity, np.float64) + 1
    bits = -np.log2(smoothed / smoothed.sum())
    return _mean_of_shown(bits[np.maximum(recommended, 0)], recommended >= 0)


def diversity(recommended: Rows, embeddings: NDArray[np.float32]) -> PerUser:
    """Intra-list diversity: one minus the mean cosine over the pairs of a slate, in [0, 2]; float32 [q].

    With unit vectors v of the m items of a slate the mean cosine is ``(|Σ v|² − m) / (m (m − 1))``. Items whose vector
    is zero (nothing is known of them) take no part. NaN for a slate with fewer than two others.

    Args:
        recommended: int32 [q, width].
        embeddings: float32 [n_items, d], of any length; they are normalised here.

    Source: Ziegler et al. 2005, "Improving recommendation lists through topic diversification".

    >>> diversity(np.array([[0, 1], [0, 2]], np.int32), np.array([[1, 0], [1, 0], [0, 1]], np.float32)).tolist()
    [0.0, 1.0]
    """
    _exposure(recommended, len(embeddings))
    lengths = np.linalg.norm(embeddings, axis=1)
    known = lengths > 0
    scale = np.divide(1, lengths, out=np.zeros_like(lengths), where=known)
    result = np.full(len(recommended), np.nan, np.float32)
    for start in range(0, len(recommended), SLATES_AT_ONCE):
        slates = recommended[start : start + SLATES_AT_ONCE]
        shown = (slates >= 0) & known[np.maximum(slates, 0)]
        weights = np.where(shown, scale[np.maximum(slates, 0)], 0)
        total = np.einsum("qkd,qk->qd", embeddings[np.maximum(slates, 0)], weights, optimize=True).astype(np.float64)
        m = shown.sum(axis=1).astype(np.float64)
        pairs = m * (m - 1)
        cosine = np.divide((total**2).sum(axis=1) - m, pairs, out=np.full(len(m), np.nan), where=pairs > 0)
        result[start : start + SLATES_AT_ONCE] = 1 - cosine
    return np.where(np.isnan(result), result, np.maximum(result, 0)).astype(np.float32)


@dataclass(frozen=True)
class Segments:
    """A division of users (or of relevant items) into named groups.

    ``codes`` int8 [n] points into ``labels``.
    """

    name: str
    labels: tuple[str, ...]
    codes: NDArray[np.int8]


def history_segments(lengths: NDArray[np.int64]) -> Segments:
    """Users by how many events their history holds.

    >>> history_segments(np.array([0, 4, 400])).codes.tolist()
    [0, 2, 5]
    """
    labels = ("none", "1–2", "3–5", "6–10", "11–20", "over 20")
    return Segments("events in the history", labels, np.digitize(lengths, [1, 3, 6, 11, 21]).astype(np.int8))


def age_segments(age_days: NDArray[np.float32]) -> Segments:
    """Items by how long they had been on offer, days; NaN where the shop does not say.

    >>> segments = age_segments(np.array([2.5, 400, np.nan], np.float32))
    >>> [segments.labels[code] for code in segments.codes]
    ['under a week', 'over a year', 'unknown']
    """
    labels = ("under a week", "1–4 weeks", "1–3 months", "3–12 months", "over a year", "unknown")
    codes = np.digitize(age_days, [7, 28, 91, 365])
    return Segments("age of the item", labels, np.where(np.isnan(age_days), 5, codes).astype(np.int8))


def mean_by_segment(values: NDArray[np.float32], segments: Segments) -> dict[str, tuple[float, int]]:
    """Mean and size of each segment that is not empty, in the order of its labels; NaN values take no part.

    >>> mean_by_segment(np.array([1, 0, 0.5], np.float32), history_segments(np.array([0, 0, 7])))
    {'none': (0.5, 2), '6–10': (0.5, 1)}
    """
    if len(values) != len(segments.codes):
        raise SchemaError(f"segments: expected one of {len(values)} values each, came {len(segments.codes)} codes")
    counted = ~np.isnan(values)
    sizes = np.bincount(segments.codes[counted], minlength=len(segments.labels))
    sums = np.bincount(segments.codes[counted], weights=values[counted], minlength=len(segments.labels))
    return {
        label: (float(total / size), int(size)) for label, total, size in zip(segments.labels, sums, sizes) if size > 0
    }


def recall_by_segment(found: Hits, offsets: Offsets, segments: Segments) -> dict[str, PerUser]:
    """Recall among the relevant items of one kind: label → per user, NaN where a user has none of that kind.

    Args:
        found: from :func:`found_at_k`, bool [m].
        offsets: the users' parts of it, int64 [q + 1].
        segments: of the relevant items, [m].

    >>> found = np.array([True, False, True])
    >>> ages = age_segments(np.array([1, 1, 100], np.float32))
    >>> recalls = recall_by_segment(found, np.array([0, 2, 3]), ages)
    >>> {label: recall.tolist() for label, recall in recalls.items()}
    {'under a week': [0.5, nan], '3–12 months': [nan, 1.0]}
    """
    if len(found) != len(segments.codes) or len(found) != offsets[-1]:
        raise SchemaError(
            f"found: expected one for each of {len(segments.codes)} relevant items in segments and {offsets[-1]} in "
            f"offsets, came {len(found)}"
        )
    q, n_labels = len(offsets) - 1, len(segments.labels)
    cells = np.repeat(np.arange(q), np.diff(offsets)) * n_labels + segments.codes
    sizes = np.bincount(cells, minlength=q * n_labels).reshape(q, n_labels)
    hits = np.bincount(cells, weights=found, minlength=q * n_labels).reshape(q, n_labels)
    recall = np.divide(hits, sizes, out=np.full((q, n_labels), np.nan), where=sizes > 0).astype(np.float32)
    return {label: recall[:, code] for code, label in enumerate(segments.labels) if sizes[:, code].any()}


def _recall(hits: Hits, n_relevant: NDArray[np.int64]) -> PerUser:
    recall: PerUser = (hits.sum(axis=1) / n_relevant).astype(np.float32)
    return recall


def _hit_rate(hits: Hits) -> PerUser:
    return np.asarray(hits.any(axis=1), np.float32)


def _average_precision(hits: Hits, n_relevant: NDArray[np.int64]) -> PerUser:
    places = hits.shape[1]
    precision = np.cumsum(hits, axis=1) / np.arange(1, places + 1)
    average: PerUser = ((precision * hits).sum(axis=1) / np.minimum(places, n_relevant)).astype(np.float32)
    return average


def _ndcg(hits: Hits, n_relevant: NDArray[np.int64]) -> PerUser:
    places = hits.shape[1]
    discounts = 1 / np.log2(np.arange(2, places + 2))
    best = np.cumsum(discounts)[np.minimum(places, n_relevant) - 1]
    gain: PerUser = (hits @ discounts / best).astype(np.float32)
    return gain


def _reciprocal_rank(hits: Hits) -> PerUser:
    first: NDArray[np.int64] = np.argmax(hits, axis=1) + 1
    return np.where(hits.any(axis=1), 1 / first, 0).astype(np.float32)


def _hits(recommended: Rows, offsets: Offsets, rows: Rows, k: int | None) -> tuple[Hits, NDArray[np.int64]]:
    """Where the relevant items stand, bool [q, k], and how many each user has, int64 [q]."""
    top, relevant_keys, _ = _keys(recommended, offsets, rows, k)
    return np.isin(top, relevant_keys), np.diff(offsets)


def _keys(
    recommended: Rows, offsets: Offsets, rows: Rows, k: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Check the input and give each (user, row) pair one number: the places' [q, k], negative where empty, and the
    relevant items' [m]."""
    if recommended.ndim != 2 or recommended.dtype.kind != "i":
        raise SchemaError(
            f"recommended: expected integers [users, places], came {recommended.dtype} {list(recommended.shape)}"
        )
    q, width = recommended.shape
    k = width if k is None else k
    if not 1 <= k <= width:
        raise SchemaError(f"k: expected 1 to {width}, the places of a slate, came {k}")
    if len(offsets) != q + 1 or (q > 0 and (offsets[0] != 0 or offsets[-1] != len(rows))):
        ends = f"{offsets[0]} to {offsets[-1]}" if len(offsets) else "nothing"
        raise SchemaError(
            f"offsets: expected {q + 1} from 0 to {len(rows)} for {q} users, came {len(offsets)} from {ends}"
        )
    n_relevant = np.diff(offsets)
    if (n_relevant < 1).any():
        empty = int(np.argmax(n_relevant < 1))
        raise SchemaError(f"relevance: expected at least one item a user, came none for user {empty} of {q}")
    if len(rows) and rows.min() < 0:
        raise SchemaError(f"relevance: expected rows from 0 up, came {rows.min()}")
    stride = max(int(rows.max(initial=-1)), int(recommended.max(initial=-1))) + 1
    users = np.arange(q, dtype=np.int64)
    relevant_keys = np.repeat(users, n_relevant) * stride + rows
    places = np.where(recommended >= 0, users[:, None] * stride + recommended, -1)
    _refuse_twice(relevant_keys, stride, "relevance")
    _refuse_twice(places[places >= 0], stride, "recommended")
    return places[:, :k], relevant_keys, stride


def _refuse_twice(keys: NDArray[np.int64], stride: int, name: str) -> None:
    ordered = np.sort(keys)
    twice = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(twice):
        user, row = divmod(int(ordered[twice[0]]), stride)
        raise SchemaError(f"{name}: expected each row once for a user, came row {row} twice for user {user}")


def _exposure(recommended: Rows, n_items: int) -> NDArray[np.int64]:
    """How often each row is shown, int64 [n_items]."""
    if n_items < 1:
        raise SchemaError(f"n_items: expected at least 1, came {n_items}")
    shown = recommended[recommended >= 0]
    if len(shown) and shown.max() >= n_items:
        raise SchemaError(f"recommended: expected rows below {n_items}, the catalogue's size, came {shown.max()}")
    return np.bincount(shown, minlength=n_items)


def _mean_of_shown(values: NDArray[np.float64], shown: Hits) -> PerUser:
    sizes = shown.sum(axis=1)
    sums = np.where(shown, values, 0).sum(axis=1)
    mean: PerUser = np.divide(sums, sizes, out=np.full(len(sizes), np.nan), where=sizes > 0).astype(np.float32)
    return mean
