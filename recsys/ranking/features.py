"""FEATURES and compute_features(): one definition, for training and for serving.

Nothing here reads a clock or a database: time is the request's, everything else is the release's. Unknown is NaN, and
LightGBM splits on missing.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recsys.errors import LeakageError
from recsys.histories import PURCHASE, Float32, Float64, Histories, Int32, Interactions
from recsys.retrieval.retrieve import SOURCES, TABLES, Candidates, rank_within, steps_from_newest

POPULARITY_WINDOWS_DAYS = (1, 3, 7, 30)
SPACES = ("fused", "image", "text")  # embedding spaces in which a candidate is compared with the history

_SOURCE_FEATURES = tuple(f"{source}_{what}" for source in SOURCES for what in ("score", "rank")) + tuple(
    f"{table}_share" for table in TABLES
)
ITEM_FEATURES = (
    *(f"sales_share_{days}d" for days in POPULARITY_WINDOWS_DAYS),  # of all sales in the window, ×1e6, log1p
    *(f"interest_share_{days}d" for days in POPULARITY_WINDOWS_DAYS),  # the same over every event
    "sales_trend",  # log ratio of the shortest window's share to the longest one's
    "days_since_last_sale",
    "sales_per_shopper",  # pieces per distinct buyer: is it bought again and again?
    "category_sales_place",  # 1 = best seller of its category
    "price_cents",
    "price_in_category",  # ratio to the category's median
    "review_mean",  # stars, shrunk towards the shop's mean by five reviews
    "review_count",
)
_SHOPPER_FEATURES = (
    "history_length",
    "history_distinct_items",
    "history_purchases",
    "days_since_last_event",
)
_PAIR_FEATURES = (
    "item_age_days",
    "times_in_history",
    "times_purchased",
    "days_since_touched",
    "same_category_share",  # of the history's events
    "same_brand_share",
    "same_family_share",
    "same_family_as_last",
    "same_category_as_last",
    "price_to_history",  # ratio to the mean price in the history
    "shared_attributes_last",  # Jaccard of attributes with the newest item
)
_SPACE_FEATURES = tuple(f"{space}_{what}" for space in SPACES for what in ("last", "mean", "nearest"))

FEATURES: tuple[str, ...] = (
    *_SOURCE_FEATURES,
    "fused_score",
    "n_candidates",
    *ITEM_FEATURES,
    *_SHOPPER_FEATURES,
    *_PAIR_FEATURES,
    *_SPACE_FEATURES,
)


@dataclass(frozen=True)
class FeatureTables:
    """What the features know of each item, as of one moment.

    Attributes:
        as_of_days: days since 1970 UTC; no request before it may be served from these.
        items: float32 [n, len(ITEM_FEATURES)].
        created_at_days: float64 [n], NaN where unknown.
        category, brand, family: int32 [n], codes; -1 where unknown.
        attributes: int32 [n, a], codes of "name=value" tokens, ascending, -1 beyond an item's own.
        spaces: for each of SPACES float32 or float16 [n, d], unit norm or zero.
    """

    as_of_days: float
    items: Float32
    created_at_days: Float64
    category: Int32
    brand: Int32
    family: Int32
    attributes: Int32
    spaces: Mapping[str, Float32]


def compute_features(candidates: Candidates, histories: Histories, tables: FeatureTables) -> Float32:
    """One row of FEATURES, in order, for each candidate.

    Args:
        candidates: from retrieve(), for the same requests as ``histories``.
        histories: q requests.
        tables: as of a moment no later than any request.
    Returns:
        float32 [c, len(FEATURES)], NaN where unknown; rows in the order of ``candidates``.

    Raises:
        LeakageError: ``tables.as_of_days`` is later than some request.
    """
    if len(histories) and tables.as_of_days > float(histories.requested_at_days.min()) + 1e-9:
        raise LeakageError(
            f"expected requests at or after day {tables.as_of_days:.6f} (since 1970 UTC, when the tables were fitted), "
            f"came one at {histories.requested_at_days.min():.6f}"
        )
    out = np.full((len(candidates), len(FEATURES)), np.nan, np.float32)
    column = 0
    for block in (
        _source_block(candidates),
        tables.items[candidates.rows],
        _shopper_block(candidates, histories),
        _pair_block(candidates, histories, tables),
        _space_block(candidates, histories, tables),
    ):
        out[:, column : column + block.shape[1]] = block
        column += block.shape[1]
    return out


def _source_block(candidates: Candidates) -> Float32:
    n_sources = len(SOURCES)
    block = np.empty((len(candidates), 2 * n_sources + len(TABLES) + 2), np.float32)
    block[:, 0 : 2 * n_sources : 2] = candidates.scores
    block[:, 1 : 2 * n_sources : 2] = candidates.ranks
    request = candidates.request_of
    n_requests = len(candidates.offsets) - 1
    for place, _ in enumerate(TABLES):
        score = np.nan_to_num(candidates.scores[:, place])
        best = np.zeros(n_requests, np.float32)
        np.maximum.at(best, request, score)
        with np.errstate(invalid="ignore", divide="ignore"):
            block[:, 2 * n_sources + place] = candidates.scores[:, place] / best[request]
    block[:, -2] = candidates.fused
    block[:, -1] = np.diff(candidates.offsets)[request]
    return block


def _shopper_block(candidates: Candidates, histories: Histories) -> Float32:
    lengths = histories.lengths
    n_requests = len(histories)
    request_of = histories.request_of
    block = np.full((n_requests, len(_SHOPPER_FEATURES)), np.nan, np.float32)
    block[:, 0] = lengths
    pairs = np.unique(request_of * (histories.rows.max(initial=0) + 1) + histories.rows)
    block[:, 1] = np.bincount(pairs // (histories.rows.max(initial=0) + 1), minlength=n_requests)
    block[:, 2] = np.bincount(request_of[histories.event_types == PURCHASE], minlength=n_requests)
    known = lengths > 0
    block[known, 3] = histories.age_days[histories.offsets[1:][known] - 1]
    return block[candidates.request_of]


def _pair_block(candidates: Candidates, histories: Histories, tables: FeatureTables) -> Float32:
    """Candidate against history: every (candidate, event) pair of a request, reduced over its events."""
    block = np.full((len(candidates), len(_PAIR_FEATURES)), np.nan, np.float32)
    request = candidates.request_of
    rows = candidates.rows
    block[:, 0] = histories.requested_at_days[request] - tables.created_at_days[rows]
    pair, event = _pairs(candidates, histories)
    n = len(candidates)
    if len(pair) == 0:
        block[:, 1:3] = 0
        return block

    def count(mask: np.ndarray) -> np.ndarray:
        return np.bincount(pair[mask], minlength=n).astype(np.float32)

    past = histories.rows[event]
    same_item = rows[pair] == past
    block[:, 1] = count(same_item)
    block[:, 2] = count(same_item & (histories.event_types[event] == PURCHASE))
    touched = np.full(n, np.inf, np.float32)
    np.minimum.at(touched, pair[same_item], histories.age_days[event[same_item]])
    block[:, 3] = np.where(np.isinf(touched), np.nan, touched)
    lengths = np.where(histories.lengths > 0, histories.lengths, np.nan)[request]
    for column, codes in ((4, tables.category), (5, tables.brand), (6, tables.family)):
        mine = codes[rows]
        block[:, column] = np.where(mine >= 0, count(mine[pair] == codes[past]) / lengths, np.nan)
    known = histories.lengths > 0
    last = np.zeros(len(histories), np.int64)
    last[known] = histories.rows[histories.offsets[1:][known] - 1]
    has_last = known[request]
    for column, codes in ((7, tables.family), (8, tables.category)):
        mine = codes[rows]
        block[:, column] = np.where(has_last & (mine >= 0), mine == codes[last[request]], np.nan)
    price = tables.items[:, ITEM_FEATURES.index("price_cents")]
    with np.errstate(invalid="ignore", divide="ignore"):
        paid = price[past]
        priced = ~np.isnan(paid)
        mean_paid = np.bincount(pair[priced], weights=paid[priced], minlength=n) / count(priced)
        block[:, 9] = price[rows] / mean_paid
    block[:, 10] = np.where(has_last, _jaccard(tables.attributes[rows], tables.attributes[last[request]]), np.nan)
    return block


def _pairs(candidates: Candidates, histories: Histories) -> tuple[np.ndarray, np.ndarray]:
    """Every candidate beside every event of its request: positions in the candidates and in the history."""
    lengths = histories.lengths[candidates.request_of]
    pair = np.repeat(np.arange(len(candidates)), lengths)
    starts = np.cumsum(lengths) - lengths
    event = np.arange(len(pair)) - np.repeat(starts - histories.offsets[:-1][candidates.request_of], lengths)
    return pair, event


def _jaccard(left: Int32, right: Int32) -> Float32:
    """|A ∩ B| / |A ∪ B| of rows of codes padded with -1, float32 [c]; NaN where either is empty."""
    shared = np.zeros(len(left), np.float32)
    for column in range(left.shape[1]):
        mine = left[:, column]
        shared += (mine >= 0) & (right == mine[:, None]).any(axis=1)
    union = (left >= 0).sum(axis=1) + (right >= 0).sum(axis=1) - shared
    empty = (left[:, :1] < 0).any(axis=1) | (right[:, :1] < 0).any(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(empty, np.nan, shared / union).astype(np.float32)


def _space_block(candidates: Candidates, histories: Histories, tables: FeatureTables) -> Float32:
    """Cosine to the newest item, to the (recency-weighted) mean of the history, and to its nearest item.

    One matrix product a request, and not one for the batch: so a request gets the same bits alone and in company.
    """
    block = np.full((len(candidates), len(_SPACE_FEATURES)), np.nan, np.float32)
    weights = np.float32(0.8) ** steps_from_newest(histories)
    bounds = candidates.offsets.tolist()
    for place, space in enumerate(SPACES):
        vectors = tables.spaces[space]
        mine = np.asarray(vectors[candidates.rows], np.float32)
        past = np.asarray(vectors[histories.rows], np.float32)
        absent = ~np.any(mine != 0, axis=1)
        for request, (start, stop) in enumerate(histories.spans()):
            if start == stop:
                continue
            first, last = bounds[request], bounds[request + 1]
            cosine = mine[first:last] @ past[start:stop].T
            target = block[first:last, 3 * place : 3 * place + 3]
            target[:, 0] = cosine[:, -1]
            target[:, 1] = cosine @ weights[start:stop] / weights[start:stop].sum()
            target[:, 2] = cosine.max(axis=1)
        block[absent, 3 * place : 3 * place + 3] = np.nan
    return block


def fit_item_features(
    events: Interactions,
    as_of_days: float,
    *,
    price_cents: Float32,
    category: Int32,
    review_rows: Int32,
    review_ratings: Float32,
) -> Float32:
    """ITEM_FEATURES of every item from what happened before ``as_of_days``.

    Args:
        events: all before ``as_of_days``.
        as_of_days: days since 1970 UTC.
        price_cents: float32 [n], NaN where unknown.
        category: int32 [n], -1 where unknown.
        review_rows, review_ratings: int32 and float32 [r], reviews written before ``as_of_days``; NaN: no stars given.
    Returns:
        float32 [n, len(ITEM_FEATURES)].
    """
    n_items = len(price_cents)
    out = np.full((n_items, len(ITEM_FEATURES)), np.nan, np.float32)
    purchases = events.of_type("purchase")
    sales = purchases if len(purchases) else events
    n_windows = len(POPULARITY_WINDOWS_DAYS)
    for group, counted in enumerate((sales, events)):
        for place, window in enumerate(POPULARITY_WINDOWS_DAYS):
            recent = counted.rows[counted.time_days >= as_of_days - window]
            share = np.bincount(recent, minlength=n_items) / max(len(recent), 1)
            out[:, group * n_windows + place] = np.log1p(share * 1e6)
    column = 2 * n_windows
    out[:, column] = out[:, 0] - out[:, n_windows - 1]
    last_sale = np.full(n_items, -np.inf)
    np.maximum.at(last_sale, sales.rows, sales.time_days)
    out[:, column + 1] = np.where(np.isinf(last_sale), np.nan, as_of_days - last_sale)
    pieces = np.bincount(sales.rows, weights=sales.quantities, minlength=n_items)
    buyers = np.bincount(np.unique(sales.shoppers.astype(np.int64) * n_items + sales.rows) % n_items, minlength=n_items)
    with np.errstate(invalid="ignore", divide="ignore"):
        out[:, column + 2] = pieces / buyers
    out[:, column + 3] = np.where(category >= 0, rank_within(category, pieces), np.nan)
    out[:, column + 4] = price_cents
    out[:, column + 5] = price_cents / _group_median(price_cents, category)
    rated = ~np.isnan(review_ratings)
    stars = np.bincount(review_rows[rated], weights=review_ratings[rated], minlength=n_items)
    counts = np.bincount(review_rows[rated], minlength=n_items)
    if rated.any():
        out[:, column + 6] = (stars + 5 * review_ratings[rated].mean()) / (counts + 5)
    out[:, column + 7] = np.bincount(review_rows, minlength=n_items)
    return out


def _group_median(values: Float32, group: Int32) -> Float32:
    """The median of each one's group, NaN outside any group or where no value of the group is known."""
    known = np.flatnonzero(~np.isnan(values) & (group >= 0))
    medians = np.full(int(group.max(initial=-1)) + 2, np.nan, np.float32)  # the last place is that of -1
    if len(known):
        order = known[np.lexsort((values[known], group[known]))]
        grouped = group[order]
        starts = np.flatnonzero(np.concatenate([[True], grouped[1:] != grouped[:-1]]))
        stops = np.append(starts[1:], len(order))
        middle = (values[order[(starts + stops - 1) // 2]] + values[order[(starts + stops) // 2]]) / 2
        medians[grouped[starts]] = middle
    return medians[group]
