"""FEATURES and compute_features(): one definition, for training and for serving.

Nothing here reads a clock or a database: time is the request's, everything else is the release's. Unknown is NaN, and
LightGBM splits on missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.errors import LeakageError
from recsys.histories import (
    PURCHASE,
    Float32,
    Float64,
    Histories,
    Int32,
    Int64,
    Interactions,
    moment_of,
    newest_of_each,
)
from recsys.retrieval.places import best_of_new, rank_within
from recsys.retrieval.retrieve import (
    FEEDBACK,
    SOURCES,
    TABLES,
    Candidates,
    steps_from_newest,
)

Bool = npt.NDArray[np.bool_]

POPULARITY_WINDOWS_DAYS = (1, 3, 7, 30)
MOST_LAST = 10  # things bought together last, whose attributes are compared
SPACES = ("fused", "image", "text", "attributes")  # embedding spaces in which a candidate is compared with the history

_SOURCE_FEATURES = (
    *(f"{source}_{what}" for source in SOURCES for what in ("score", "rank")),
    *(f"{table}_share" for table in TABLES),  # of the best score
    *(f"{table}_newest" for table in TABLES),  # the score by the newest step of the history alone
    *(f"{table}_strongest" for table in TABLES),  # the heaviest single link from the history
    *FEEDBACK,  # how near it is to the best of the other candidates
    "rrf_score",
    "rrf_share",  # of the best one
    "rrf_rank",
    "n_candidates",
)
ITEM_FEATURES = (
    *(f"sales_share_{days}d" for days in POPULARITY_WINDOWS_DAYS),  # of all buyers in the window, ×1e6, log1p
    *(f"interest_share_{days}d" for days in POPULARITY_WINDOWS_DAYS),  # the same of who had to do with it at all
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
    "shared_attributes_last",  # Jaccard of attributes with the newest item, the likest of those bought together
)
_SPACE_FEATURES = tuple(f"{space}_{what}" for space in SPACES for what in ("last", "mean", "nearest", "to_best"))

FEATURES: tuple[str, ...] = (
    *_SOURCE_FEATURES,
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
    spaces: Mapping[str, npt.NDArray[Any]]


def compute_features(
    candidates: Candidates, histories: Histories, tables: FeatureTables, only: Bool | None = None
) -> Float32:
    """One row of FEATURES, in order, for each candidate.

    Args:
        candidates: from retrieve(), for the same requests as ``histories``.
        histories: q requests.
        tables: as of a moment no later than any request.
        only: bool [q], the requests that somebody wants to know of; the rows of the others stay NaN. None: all.
    Returns:
        float32 [c, len(FEATURES)], NaN where unknown; rows in the order of ``candidates``.

    Raises:
        LeakageError: ``tables.as_of_days`` is later than some request.
    """
    refuse_leakage(histories, tables.as_of_days)
    out = np.full((len(candidates), len(FEATURES)), np.nan, np.float32)
    bounds = candidates.offsets.tolist()
    steps = steps_from_newest(histories)
    for request, (start, stop) in enumerate(histories.spans()):
        if only is not None and not only[request]:
            continue
        mine, past = slice(bounds[request], bounds[request + 1]), slice(start, stop)
        rows, past_rows = candidates.rows[mine], histories.rows[past]
        block, now_days = out[mine], histories.requested_at_days[request]
        fresh = ~np.isin(rows, past_rows)
        _source_features(block[:, _SOURCES], candidates, mine, fresh)
        block[:, _ITEMS] = tables.items[rows]
        block[:, _AGE] = now_days - tables.created_at_days[rows]
        block[:, _COUNTS] = 0
        if start == stop:
            continue
        bought = histories.event_types[past] == PURCHASE
        _shopper_features(block[:, _SHOPPER], past_rows, bought, histories.age_days[past])
        _pair_features(block[:, _PAIR], rows, past_rows, bought, histories.age_days[past], steps[past] == 0, tables)
        best = best_of_new(candidates.fused[mine], fresh)
        _space_features(block[:, _SPACE], rows, past_rows, steps[past], best, tables)
    return out


def refuse_leakage(histories: Histories, as_of_days: float) -> None:
    """Refuse requests that are older than what is to answer them.

    Raises:
        LeakageError: ``as_of_days`` is later than some request.
    """
    if len(histories) and as_of_days > float(histories.requested_at_days.min()) + 1e-9:
        raise LeakageError(
            f"expected requests at or after {moment_of(as_of_days).isoformat()}, where the release's own data "
            f"end, came one at {moment_of(float(histories.requested_at_days.min())).isoformat()}"
        )


def _columns(names: Sequence[str]) -> slice:
    """Where these neighbours in FEATURES stand."""
    start = FEATURES.index(names[0])
    return slice(start, start + len(names))


_SOURCES, _ITEMS, _SHOPPER, _PAIR, _SPACE = (
    _columns(names) for names in (_SOURCE_FEATURES, ITEM_FEATURES, _SHOPPER_FEATURES, _PAIR_FEATURES, _SPACE_FEATURES)
)
_AGE = FEATURES.index("item_age_days")
# What is not unknown but none where there is no history.
_COUNTS = [FEATURES.index(name) for name in (*_SHOPPER_FEATURES[:3], "times_in_history", "times_purchased")]


def _source_features(out: Float32, candidates: Candidates, mine: slice, fresh: Bool) -> None:
    """What the sources say; shares are of the best score among the ``fresh``: what the shopper's past does not hold."""
    n_sources, n_tables = len(SOURCES), len(TABLES)
    scores = candidates.scores[mine]
    out[:, 0 : 2 * n_sources : 2] = scores
    out[:, 1 : 2 * n_sources : 2] = candidates.ranks[mine]
    of_tables = scores[:, :n_tables]
    best = np.fmax.reduce(of_tables[fresh] if fresh.any() else of_tables, axis=0, initial=0)
    best[best <= 0] = np.nan
    shares = 2 * n_sources
    fused = candidates.fused[mine]
    of_new = fused[fresh] if fresh.any() else fused
    out[:, shares:] = np.column_stack(
        (
            of_tables / best,
            candidates.newest_step[mine],
            candidates.strongest[mine],
            candidates.feedback[mine],
            fused,
            fused / max(float(of_new.max(initial=0)), 1e-9),
            1 + len(of_new) - np.sort(of_new).searchsorted(fused, side="right"),
            np.full(len(out), len(out)),
        )
    )


def _shopper_features(out: Float32, past: Int32, bought: Bool, age_days: Float32) -> None:
    out[:, 0] = len(past)
    out[:, 1] = len(set(past.tolist()))
    out[:, 2] = bought.sum()
    out[:, 3] = age_days[-1]


def _pair_features(
    out: Float32, rows: Int32, past: Int32, bought: Bool, age_days: Float32, newest: Bool, tables: FeatureTables
) -> None:
    """Every event of the history against every candidate, [h, c], reduced over the events; column 0 stands already.

    What is ``newest`` [h] is one step: of things bought together, the one most like a candidate counts as the last.
    """
    same = past[:, None] == rows
    each = np.ones(len(past), np.float32)
    out[:, 1] = each @ same
    out[:, 2] = bought.astype(np.float32) @ same
    touched = np.where(same, age_days[:, None], np.float32(np.inf)).min(axis=0)
    out[:, 3] = np.where(np.isinf(touched), np.nan, touched)
    for column, last_column, codes in ((4, 8, tables.category), (5, None, tables.brand), (6, 7, tables.family)):
        mine = codes[rows]
        unknown = mine < 0
        alike: Bool = np.equal(codes[past][:, None], mine)
        out[:, column] = np.where(unknown, np.nan, each @ alike / np.float32(len(past)))
        if last_column is not None:
            out[:, last_column] = np.where(unknown, np.nan, alike[newest].any(axis=0))
    price = tables.items[:, ITEM_FEATURES.index("price_cents")]
    paid = price[past]
    paid = paid[~np.isnan(paid)]
    if paid.any():
        out[:, 9] = price[rows] / paid.mean()
    mine = tables.attributes[rows]
    last = tables.attributes[np.unique(past[newest])[:MOST_LAST]]
    out[:, 10] = np.fmax.reduce([_jaccard(mine, each) for each in last])


def _jaccard(left: Int32, right: Int32) -> Float32:
    """|A ∩ B| / |A ∪ B| of rows of codes [c, a] and one of them [a], padded with -1; NaN where either is empty."""
    right = right[right >= 0]
    out = np.full(len(left), np.nan, np.float32)
    sizes = (left >= 0).sum(axis=1)
    if len(right):
        shared = np.isin(left, right).sum(axis=1)
        np.divide(shared, sizes + len(right) - shared, out=out, where=sizes > 0, casting="same_kind")
    return out


def _space_features(
    out: Float32, rows: Int32, past: Int32, steps: Float32, best: tuple[Int64, Float32], tables: FeatureTables
) -> None:
    """Cosine to the newest item (of those bought together, the nearest), to the recency-weighted history, to its
    nearest item, and the mean one to the ``best`` candidates, see best_of_new().

    What has no vector in a space is unknown there, and not unlike: the newest item's absence leaves the first unknown,
    an older one's counts for nothing in the other two.
    """
    weights = np.float32(0.8) ** steps
    for place, space in enumerate(SPACES):
        vectors = tables.spaces[space]
        mine = np.asarray(vectors[rows], np.float32)
        target = out[:, 4 * place : 4 * place + 4]
        target[:, 3] = mine @ (best[1] @ mine[best[0]])
        target[~mine.any(axis=1), 3] = np.nan
        theirs = np.asarray(vectors[past], np.float32)
        known: Bool = np.logical_or.reduce(theirs != 0, axis=1)
        if not known.any():
            continue
        cosine = theirs[known] @ mine.T
        newest = steps[known] == 0
        if newest.any():
            target[:, 0] = cosine[newest].max(axis=0)
        target[:, 1] = weights[known] @ cosine / weights[known].sum()
        target[:, 2] = cosine.max(axis=0)
        target[~mine.any(axis=1)] = np.nan


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
    sales = events.taken
    n_windows = len(POPULARITY_WINDOWS_DAYS)
    for group, counted in enumerate((sales, events)):
        shoppers = newest_of_each(counted, n_items)  # who takes ten of a thing is one shopper who wants it
        for place, window in enumerate(POPULARITY_WINDOWS_DAYS):
            recent = shoppers.rows[shoppers.time_days >= as_of_days - window]
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
        ratio = price_cents / _group_median(price_cents, category)
    out[:, column + 3] = np.where(category >= 0, rank_within(category, pieces), np.nan)
    out[:, column + 4] = price_cents
    out[:, column + 5] = np.where(np.isfinite(ratio), ratio, np.nan)
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
