"""FEATURES by hand, and the same bits for a request in any batch."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import LeakageError
from recsys.histories import read_histories
from recsys.ranking.features import (
    FEATURES,
    ITEM_FEATURES,
    SPACES,
    FeatureTables,
    compute_features,
    fit_item_features,
)
from recsys.recommend import score_inputs
from recsys.retrieval.retrieve import FEEDBACK, SOURCES, TABLES, Candidates
from tests.builders import EXACT, LISTS, build_release, build_shop, histories_of, mixed_requests, purchases, recipe

NAN = float("nan")
N_ITEMS = 5
PRICES = np.array([100, 200, 400, NAN, 50], np.float32)
# Unit vectors; item 3 has none.
VECTORS = np.array([[1, 0], [0, 1], [0.6, 0.8], [0, 0], [0.8, 0.6]], np.float32)


def tables(as_of_days=90.0):
    items = np.zeros((N_ITEMS, len(ITEM_FEATURES)), np.float32)
    items[:, ITEM_FEATURES.index("price_cents")] = PRICES
    items[:, 0] = np.arange(N_ITEMS)
    return FeatureTables(
        as_of_days=as_of_days,
        items=items,
        created_at_days=np.array([10.0, 20.0, NAN, 40.0, 50.0]),
        category=np.array([0, 0, 1, -1, 1], np.int32),
        brand=np.array([0, 1, 0, -1, 1], np.int32),
        family=np.array([0, 1, 0, -1, 1], np.int32),
        attributes=np.array([[0, 1, 2], [1, 2, 3], [4, -1, -1], [-1, -1, -1], [0, 1, -1]], np.int32),
        spaces=dict.fromkeys(SPACES, VECTORS),
    )


def candidates_of(*of_each):
    """Candidates (rows of each request) that every source scores 3, 2, 1, …"""
    rows = np.array([row for rows in of_each for row in rows], np.int32)
    scores = np.concatenate([np.arange(len(each), 0, -1) for each in of_each if len(each)])[:, None]
    scores = np.repeat(scores, len(SOURCES), axis=1).astype(np.float32)
    offsets = np.cumsum([0, *(len(each) for each in of_each)], dtype=np.int64)
    of_tables = scores[:, : len(TABLES)]
    return Candidates(
        offsets,
        rows,
        scores=scores,
        ranks=scores,
        newest_step=of_tables / 2,
        strongest=of_tables / 4,
        feedback=scores[:, : len(FEEDBACK)] / 8,
        fused=np.arange(len(rows), dtype=np.float32),
    )


def features_of(candidates, histories, **of_tables):
    matrix = compute_features(candidates, histories, tables(**of_tables))
    assert matrix.dtype == np.float32
    return {name: matrix[:, column] for column, name in enumerate(FEATURES)}


def same(came, expected):
    return came == pytest.approx(expected, nan_ok=True)


@pytest.fixture(scope="module")
def by_hand():
    """One request with a past of items 0, 1, 0, 3 (bought, seen, seen, bought), and one of nobody."""
    past = [(0, "purchase", 8.0), (1, "detail-page-view", 4.0), (0, "detail-page-view", 4.0), (3, "purchase", 1.0)]
    return features_of(candidates_of([0, 1, 2, 3], [0, 4]), histories_of(past, []))


def test_names_are_distinct_and_every_source_has_its_own():
    assert len(set(FEATURES)) == len(FEATURES)
    assert all(f"{source}_score" in FEATURES and f"{source}_rank" in FEATURES for source in SOURCES)
    assert all(f"{table}_share" in FEATURES and f"{table}_newest" in FEATURES for table in TABLES)


def test_features_of_the_candidates(by_hand):
    assert same(by_hand["transitions_score"], [4, 3, 2, 1, 2, 1])
    assert same(by_hand["new_rank"], [4, 3, 2, 1, 2, 1])
    # Of the best that is new to the shopper: row 2 alone, and both for nobody.
    assert same(by_hand["content_share"], [2, 1.5, 1, 0.5, 1, 0.5])
    assert same(by_hand["linear_newest"], [2, 1.5, 1, 0.5, 1, 0.5])
    assert same(by_hand["linear_strongest"], [1, 0.75, 0.5, 0.25, 0.5, 0.25])
    assert same(by_hand["copurchase_from_best"], [0.5, 0.375, 0.25, 0.125, 0.25, 0.125])
    assert same(by_hand["rrf_score"], range(6))
    # As above: row 2 leads what is new to the shopper, and row 4 leads for nobody.
    assert same(by_hand["rrf_share"], [0, 0.5, 1, 1.5, 0.8, 1])
    assert same(by_hand["rrf_rank"], [2, 2, 1, 1, 2, 1])
    assert same(by_hand["n_candidates"], [4, 4, 4, 4, 2, 2])
    assert same(by_hand[ITEM_FEATURES[0]], [0, 1, 2, 3, 0, 4])


def test_features_of_the_shopper(by_hand):
    assert same(by_hand["history_length"], [4] * 4 + [0] * 2)
    assert same(by_hand["history_distinct_items"], [3] * 4 + [0] * 2)
    assert same(by_hand["history_purchases"], [2] * 4 + [0] * 2)
    assert same(by_hand["days_since_last_event"], [1] * 4 + [NAN] * 2)


def test_features_of_candidate_and_history(by_hand):
    assert same(by_hand["item_age_days"], [90, 80, NAN, 60, 90, 50])
    assert same(by_hand["times_in_history"], [2, 1, 0, 1, 0, 0])
    assert same(by_hand["times_purchased"], [1, 0, 0, 1, 0, 0])
    assert same(by_hand["days_since_touched"], [4, 4, NAN, 1, NAN, NAN])
    assert same(by_hand["same_category_share"], [0.75, 0.75, 0, NAN, NAN, NAN])
    assert same(by_hand["same_brand_share"], [0.5, 0.25, 0.5, NAN, NAN, NAN])
    assert same(by_hand["same_family_as_last"], [0, 0, 0, NAN, NAN, NAN])
    # Prices known of the past: 100, 200, 100.
    mean = 400 / 3
    assert same(by_hand["price_to_history"], [100 / mean, 200 / mean, 400 / mean, NAN, NAN, NAN])
    assert same(by_hand["shared_attributes_last"], [NAN] * 6)  # the newest item has none


def test_attributes_shared_with_the_newest_item():
    came = features_of(candidates_of([0, 1, 2, 3, 4]), histories_of([(2, "purchase", 2.0), (0, "purchase", 1.0)]))
    assert same(came["shared_attributes_last"], [1, 2 / 4, 0, NAN, 2 / 3])
    assert same(came["same_family_as_last"], [1, 0, 1, NAN, 0])
    assert same(came["same_category_as_last"], [1, 1, 0, NAN, 0])


def test_things_bought_together_last_have_no_order():
    together = [(1, "purchase", 1.0), (2, "purchase", 1.0)]
    matrices = []
    for receipt in (together, together[::-1]):
        came = features_of(candidates_of([0, 1, 2, 4]), histories_of([(0, "purchase", 2.0), *receipt]))
        assert same(came["shared_attributes_last"], [2 / 4, 1, 1, 1 / 4])  # the likest of both: 1, 1, 2, 1
        assert same(came["same_family_as_last"], [1, 1, 1, 1])
        assert same(came["fused_last"], [0.6, 1, 1, 0.96])
        matrices.append(np.column_stack(list(came.values())))
    assert same(*matrices)


def test_likeness_leaves_out_what_has_no_vector():
    came = features_of(candidates_of([0, 1, 2, 3]), histories_of([(0, "purchase", 2.0), (1, "purchase", 1.0)]))
    assert same(came["fused_last"], [0, 1, 0.8, NAN])
    assert same(came["fused_mean"], [0.8 / 1.8, 1 / 1.8, (0.8 * 0.6 + 0.8) / 1.8, NAN])
    assert same(came["fused_nearest"], [1, 1, 0.8, NAN])
    # The newest item has no picture: unknown, and not "unlike".
    came = features_of(candidates_of([0, 1, 2, 3]), histories_of([(1, "purchase", 2.0), (3, "purchase", 1.0)]))
    assert same(came["image_last"], [NAN] * 4)
    assert same(came["image_mean"], [0, 1, 0.8, NAN])
    assert same(came["image_nearest"], [0, 1, 0.8, NAN])
    # Nothing in the past has one.
    came = features_of(candidates_of([0]), histories_of([(3, "purchase", 1.0)]))
    assert all(np.isnan(came[f"{space}_{what}"]).all() for space in SPACES for what in ("last", "mean", "nearest"))


def test_likeness_to_the_best_candidates():
    # Fused order 0 < 1 < 2 < 3; what the shopper has (0) and what has no vector (3) do not speak.
    came = features_of(candidates_of([0, 1, 2, 3]), histories_of([(0, "purchase", 1.0)]))
    first, second, third = 1 / 20, 1 / 21, 1 / 22  # of rows 3, 2 and 1
    total = first + second + third
    mean = np.array([second * 0.6, second * 0.8 + third]) / total
    assert same(came["text_to_best"], [mean[0], mean[1], 0.6 * mean[0] + 0.8 * mean[1], NAN])


def test_likeness_may_be_negative_and_is_not_rounded_up_to_zero():
    spaces = dict.fromkeys(SPACES, np.array([[1, 0], [-1, 0], [0, 0], [0, 0], [0, 0]], np.float32))
    opposite = replace(tables(), spaces=spaces)
    histories = histories_of([(2, "purchase", 2.0), (0, "purchase", 1.0)])
    matrix = compute_features(candidates_of([1]), histories, opposite)
    assert matrix[0, FEATURES.index("text_nearest")] == -1


def test_a_table_of_the_future_is_refused():
    with pytest.raises(LeakageError, match=r"at or after 1970-04-11T12:00:00\+00:00, .* came one at 1970-04-11T00:00"):
        features_of(candidates_of([0]), histories_of([], now_days=100.0), as_of_days=100.5)
    features_of(candidates_of([0]), histories_of([], now_days=100.0), as_of_days=100.0)


def test_no_candidates_give_no_rows():
    empty = Candidates(
        np.zeros(3, np.int64),
        np.zeros(0, np.int32),
        np.zeros((0, len(SOURCES)), np.float32),
        np.zeros((0, len(SOURCES)), np.float32),
        np.zeros((0, len(TABLES)), np.float32),
        np.zeros((0, len(TABLES)), np.float32),
        np.zeros((0, len(FEEDBACK)), np.float32),
        np.zeros(0, np.float32),
    )
    histories = histories_of([(0, "purchase", 1.0)], [])
    assert compute_features(empty, histories, tables()).shape == (0, len(FEATURES))


@pytest.fixture(scope="module", params=["flat", "ivf"])
def release(request):
    shop, vectors = build_shop(n_items=400)
    return build_release(shop, vectors, recipe({"flat": EXACT, "ivf": LISTS}[request.param]), ranker=False)


@settings(max_examples=8)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_a_request_gets_the_same_bits_in_any_batch(release, seed, sizes):
    requests = mixed_requests(release.item_ids, sum(sizes), seed)
    _, candidates, whole = score_inputs(release, requests)
    start = 0
    for size in sizes:
        _, _, part = score_inputs(release, requests[start : start + size])
        first, last = candidates.offsets[start], candidates.offsets[start + size]
        assert np.array_equal(part, whole[first:last], equal_nan=True)
        start += size


def test_features_know_nothing_of_the_histories_of_others(release):
    one, other = mixed_requests(release.item_ids, 2, seed=5)
    histories = read_histories([one, other], release.rows, 50)
    assert len(histories) == 2
    _, _, alone = score_inputs(release, [one])
    for seed in range(3):
        company = mixed_requests(release.item_ids, 5, seed=seed)
        assert np.array_equal(score_inputs(release, [one, *company])[2][: len(alone)], alone, equal_nan=True)


ITEMS = {
    "price_cents": np.array([100, 300, 200, NAN, 0], np.float32),
    "category": np.array([0, 0, 0, 0, 1], np.int32),
    "review_rows": np.array([0, 0, 1, 1], np.int32),
    "review_ratings": np.array([5, 3, 1, NAN], np.float32),
}


def item_features(events, as_of_days=100.0, **changes):
    matrix = fit_item_features(events, as_of_days, **{**ITEMS, **changes})
    return dict(zip(ITEM_FEATURES, matrix.T))


def test_item_features_by_hand():
    # Item 0 was sold to shoppers 0 and 1 in the last day and to 0 long ago; item 1 four days ago; the others never.
    events = purchases([0, 0, 1, 2], [0, 0, 0, 1], [60.0, 99.5, 99.75, 96.0])
    came = item_features(events)
    assert came["sales_share_1d"] == pytest.approx(np.log1p([1e6, 0, 0, 0, 0]))
    assert came["sales_share_7d"] == pytest.approx(np.log1p(np.array([2, 1, 0, 0, 0]) / 3 * 1e6))
    assert came["interest_share_30d"] == pytest.approx(np.log1p(np.array([2, 1, 0, 0, 0]) / 3 * 1e6))
    assert came["sales_trend"] == pytest.approx(came["sales_share_1d"] - came["sales_share_30d"])
    assert same(came["days_since_last_sale"], [0.25, 4, NAN, NAN, NAN])
    assert same(came["sales_per_shopper"], [3 / 2, 1, NAN, NAN, NAN])
    assert same(came["category_sales_place"], [1, 2, 3, 4, 1])
    assert same(came["price_cents"], ITEMS["price_cents"])
    assert same(came["price_in_category"], [0.5, 1.5, 1, NAN, NAN])
    assert same(came["review_mean"], [(8 + 15) / 7, (1 + 15) / 6, 3, 3, 3])
    assert same(came["review_count"], [2, 2, 0, 0, 0])


def test_who_takes_ten_of_a_thing_is_one_shopper_who_wants_it():
    came = item_features(purchases([0] * 10 + [1, 2], [0] * 10 + [1, 1], [99.5] * 12))
    assert came["sales_share_1d"] == pytest.approx(np.log1p(np.array([1, 2, 0, 0, 0]) / 3 * 1e6))


def test_interest_is_of_everybody_who_had_to_do_with_it_and_pieces_are_counted_by_buyer():
    events = purchases([0, 1, 2], [0, 1, 1], [99.5, 99.5, 99.5])
    codes = np.array([4, 1, 1], np.int8)  # a purchase and two views
    events = type(events)(events.shoppers, events.rows, codes, events.time_days, np.array([3, 1, 1], np.float32))
    came = item_features(events)
    assert came["sales_share_1d"] == pytest.approx(np.log1p([1e6, 0, 0, 0, 0]))
    assert came["interest_share_1d"] == pytest.approx(np.log1p(np.array([1, 2, 0, 0, 0]) / 3 * 1e6))
    assert came["sales_per_shopper"][0] == 3


def test_a_shop_of_unknowns_has_unknown_features():
    came = item_features(
        purchases([], [], []),
        price_cents=np.full(5, NAN, np.float32),
        category=np.full(5, -1, np.int32),
        review_rows=np.zeros(0, np.int32),
        review_ratings=np.zeros(0, np.float32),
    )
    for name in (
        "days_since_last_sale",
        "sales_per_shopper",
        "category_sales_place",
        "price_in_category",
        "review_mean",
    ):
        assert np.isnan(came[name]).all(), name
    assert came["sales_share_30d"].tolist() == [0] * 5
