"""Candidates: every source is asked about everything that any of them brought, and requests do not touch each other."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import LeakageError
from recsys.histories import days_since_epoch, read_histories, read_interactions
from recsys.recommend import find_candidates, recommend
from recsys.request import Interaction, Request
from recsys.retrieval.fit import TablesConfig, fit_retrieval, index_content, newest_rows, trending_scores
from recsys.retrieval.index import IndexConfig, build_index
from recsys.retrieval.places import best_of_new
from recsys.retrieval.retrieve import (
    FEEDBACK,
    SOURCES,
    TABLES,
    RetrievalConfig,
    retrieve,
    steps_from_newest,
)
from tests.builders import (
    CUTOFF,
    EXACT,
    LISTS,
    build_release,
    build_shop,
    events_frame,
    histories_of,
    mixed_requests,
    planted_taste,
    purchases,
    recipe,
    user_tower,
)

NOW = days_since_epoch(CUTOFF)


def small_retrieval(**config):
    """Five items; three shoppers walked 0 → 1 → 2, one 0 → 3. Item 4 is new, was never touched, has no embedding."""
    shoppers = np.repeat(np.arange(4), [3, 3, 3, 2])
    rows = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 3]
    days = NOW - np.array([3, 2, 1] * 3 + [2, 1])
    embeddings = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1], [0, 0]], np.float32)
    tables = TablesConfig(neighbours=5)
    return fit_retrieval(
        index_content(list("abcde"), embeddings, tables=tables, index=IndexConfig(), threads=1),
        NOW - np.array([30, 20, 10, np.nan, 1]),
        purchases(shoppers, rows, days),
        planted_taste(user_tower(dim=2), embeddings),
        build_index(list("abcde"), embeddings, IndexConfig(), threads=1),
        NOW,
        tables=tables,
        retrieval=RetrievalConfig(**config),
    )


def table_of(candidates, request):
    """row → {source: score} of one request, unknown ones left out."""
    first, last = candidates.offsets[request : request + 2]
    return {
        int(row): {name: float(score) for name, score in zip(SOURCES, scores) if not np.isnan(score)}
        for row, scores in zip(candidates.rows[first:last], candidates.scores[first:last])
    }


def test_sources_by_hand():
    retrieval = small_retrieval()
    histories = histories_of([(0, "purchase", 2.0), (1, "detail-page-view", 1.0)], [], now_days=NOW)
    seen, nobody = (table_of(retrieve(retrieval, histories), request) for request in (0, 1))
    assert set(seen) == {0, 1, 2, 3, 4}
    # From item 1, the newest: 2 came next three times. From item 0, a step older, weight 0.6: 2 came two steps later.
    scale = TablesConfig.log_scale
    direct, apart = np.log1p(3 * scale), np.log1p(3 * 2**-0.5 * scale)
    assert seen[2]["transitions"] == pytest.approx(direct + 0.6 * apart)
    assert seen[3]["transitions"] == pytest.approx(0.6 * np.log1p(scale))
    assert seen[2]["adjacent"] == 3.0  # only the newest item counts
    assert "adjacent" not in seen[3]
    assert seen[0]["reversed"] == pytest.approx(direct)
    assert (seen[0]["history"], seen[1]["history"]) == (pytest.approx(0.8), 1.0)
    assert "history" not in seen[2]
    assert seen[4] == {"new": 1.0}  # nothing but its arrival is known of it
    # Somebody unknown gets what sells and what is new, and no personal source speaks.
    assert set(nobody) == {0, 1, 2, 3, 4}
    assert all(set(known) <= {"trending", "new"} for known in nobody.values())
    assert nobody[2]["trending"] == pytest.approx(3 * 0.5)
    assert nobody[0]["trending"] == pytest.approx(3 * 0.125 + 0.25)
    assert [nobody[row].get("new") for row in range(5)] == [0.25, pytest.approx(1 / 3), 0.5, None, 1.0]


def test_what_the_newest_step_says_alone():
    # Items 0 and 1 were taken at one time, after 3: both are the newest step, and 3 is not part of it.
    past = [(3, "purchase", 2.0), (0, "purchase", 1.0), (1, "purchase", 1.0)]
    candidates = retrieve(small_retrieval(), histories_of(past, [], now_days=NOW))
    transitions = TABLES.index("transitions")
    of = dict(zip(candidates.rows[:5].tolist(), candidates.newest_step[:5, transitions].tolist()))
    scale = TablesConfig.log_scale
    assert of[2] == pytest.approx(np.log1p(3 * scale) + np.log1p(3 * 2**-0.5 * scale))
    assert of[3] == pytest.approx(np.log1p(scale))
    reversed_links = candidates.newest_step[:5, TABLES.index("reversed")]
    assert np.isnan(reversed_links[3])  # nobody took 3 before 0 or 1
    assert np.isnan(candidates.newest_step[5:]).all()  # who has no history has no newest step


def test_the_strongest_link_is_not_the_sum_of_all():
    past = [(0, "purchase", 2.0), (1, "purchase", 1.0)]
    candidates = retrieve(small_retrieval(), histories_of(past, now_days=NOW))
    of = dict(zip(candidates.rows.tolist(), candidates.strongest[:, TABLES.index("transitions")].tolist()))
    assert of[2] == pytest.approx(np.log1p(3 * TablesConfig.log_scale))  # from 1; the link from 0 is weaker
    assert of[3] == pytest.approx(np.log1p(TablesConfig.log_scale))
    assert np.isnan(of[4])


def test_the_best_candidates_speak_for_others():
    retrieval = small_retrieval()
    candidates = retrieve(retrieval, histories_of([(0, "purchase", 1.0)], now_days=NOW))
    best, weights = best_of_new(candidates.fused, candidates.rows != 0)
    assert candidates.rows[best].tolist() == [row for row in candidates.rows[np.argsort(-candidates.fused)] if row != 0]
    assert weights == pytest.approx(1 / np.arange(20, 20 + len(best)) / sum(1 / np.arange(20, 20 + len(best))))
    table = retrieval.tables["transitions"]
    expected = np.zeros(len(retrieval.taste))
    for row, weight in zip(candidates.rows[best], weights):
        linked = table.neighbours[row] >= 0
        expected[table.neighbours[row][linked]] += weight * table.weights[row][linked]
    assert candidates.feedback[:, FEEDBACK.index("transitions_from_best")] == pytest.approx(expected[candidates.rows])
    assert expected.any()


def test_what_sells_now_counts_each_buyer_once_as_of_their_newest_purchase():
    # One takes item 0 ten times, two take item 1 once each, one of them twice within a day.
    events = purchases([0] * 10 + [1, 1, 2], [0] * 10 + [1, 1, 1], [99.0] * 10 + [98.0, 99.0, 98.0])
    assert trending_scores(events, 3, 100.0, half_life_days=1.0) == pytest.approx([0.5, 0.5 + 0.25, 0.0])


def test_ranks_and_the_fused_order():
    candidates = retrieve(small_retrieval(), histories_of([(0, "purchase", 2.0), (1, "purchase", 1.0)], now_days=NOW))
    config = RetrievalConfig()
    for column, source in enumerate(SOURCES):
        scores, ranks = candidates.scores[:, column], candidates.ranks[:, column]
        known = ~np.isnan(scores)
        assert np.isnan(ranks[~known]).all(), source
        new = known & ~np.isin(candidates.rows, [0, 1])  # the shopper's own do not count
        assert sorted(ranks[new]) == list(range(1, new.sum() + 1))
        assert bool(np.all(np.diff(scores[new][np.argsort(ranks[new])]) <= 0))
        assert all(rank == 1 + (scores[new] > score).sum() for rank, score in zip(ranks[known], scores[known])), source
    weights = [config.fusion_weight[source] for source in SOURCES]
    by_hand = [sum(w / (20 + r) for w, r in zip(weights, ranks) if not np.isnan(r)) for ranks in candidates.ranks]
    assert candidates.fused == pytest.approx(by_hand)


def test_depth_bounds_what_each_source_brings():
    retrieval = small_retrieval(depth=1, trending_depth=0, new_depth=0)
    histories = histories_of([(0, "purchase", 1.0)], now_days=NOW)
    brought = set(retrieve(retrieval, histories).rows.tolist())
    best = {int(retrieval.tables[name].neighbours[0, 0]) for name in TABLES}
    vectors = retrieval.tower.user_vectors(
        retrieval.taste, histories.offsets, histories.rows, histories.event_types, histories.age_days
    )
    nearest = retrieval.taste_index.search(vectors[0], 2)[0].tolist()  # of each interest the first that is new
    new = {next((row for row in rows if row != 0), -1) for rows in nearest}
    assert brought == (best | {0} | new) - {-1}


def test_a_release_without_its_index_asks_the_tables():
    retrieval = replace(small_retrieval(trending_depth=0, new_depth=0), taste_index=None)
    candidates = retrieve(retrieval, histories_of([(0, "purchase", 1.0)], now_days=NOW))
    assert 2 in candidates.rows
    assert np.isnan(candidates.scores[:, SOURCES.index("taste")]).all()


def test_a_shopper_of_items_without_embedding_gets_no_arbitrary_neighbours():
    retrieval = small_retrieval(trending_depth=0, new_depth=0)
    tower = replace(retrieval.tower, inner_bias=np.zeros(8, np.float32))  # nothing in, nothing out
    candidates = retrieve(replace(retrieval, tower=tower), histories_of([(4, "purchase", 1.0)], now_days=NOW))
    assert candidates.rows.tolist() == [4]


def test_no_history_and_nothing_sold_gives_no_candidates():
    retrieval = replace(
        small_retrieval(),
        trending=np.zeros(5, np.float32),
        trending_rows=np.zeros(0, np.int32),
        newest=np.zeros(0, np.int32),
    )
    candidates = retrieve(retrieval, histories_of([], []))
    assert len(candidates) == 0
    assert candidates.offsets.tolist() == [0, 0, 0]
    assert candidates.scores.shape == candidates.ranks.shape == (0, len(SOURCES))


def test_a_narrow_filter_is_answered_exactly(release):
    histories = read_histories(mixed_requests(release.item_ids, 30), release.rows, 50)
    available = np.arange(len(release.item_ids)) % 20 == 3
    allowed = set(np.flatnonzero(available).tolist())
    retrieval = replace(release.retrieval, config=replace(release.retrieval.config, depth=25, trending_depth=5))
    usual, narrow = retrieve(retrieval, histories), retrieve(retrieval, histories, available)
    vectors = retrieval.tower.user_vectors(
        retrieval.taste, histories.offsets, histories.rows, histories.event_types, histories.age_days
    )
    embedding, joined = SOURCES.index("taste"), 0
    for request in range(30):
        before, after = table_of(usual, request), table_of(narrow, request)
        assert set(after) == set(before) | allowed
        # What was there says what it said, and what joined is scored by whoever knows it.
        assert {row: after[row] for row in before} == before
        joined += len(allowed - set(before))
        if vectors[request].any():
            first, last = narrow.offsets[request : request + 2]
            there = retrieval.taste[narrow.rows[first:last]].any(axis=1)
            assert np.array_equal(~np.isnan(narrow.scores[first:last, embedding]), there)
    assert joined > 0


def test_where_nothing_is_taken_twice_nobodys_past_is_a_candidate(release):
    requests = mixed_requests(release.item_ids, 60)
    everything = replace(release.retrieval, config=replace(release.retrieval.config, most=len(release.item_ids)))
    new_only = replace(everything, config=replace(everything.config, repeats=False))
    for available in (None, np.arange(len(release.item_ids)) % 20 == 3):
        histories = read_histories(requests, release.rows, 2)
        usual, new = (retrieve(retrieval, histories, available) for retrieval in (everything, new_only))
        dropped = 0
        for request in range(len(requests)):
            past = set(histories.had_by(request).tolist())
            before, after = (
                set(came.rows[came.offsets[request] : came.offsets[request + 1]].tolist()) for came in (usual, new)
            )
            assert not after & past
            assert bool(after) == bool(before - past)
            dropped += len(before & past)
        assert dropped > 0


def test_a_filter_does_not_count_what_the_shopper_had_as_found(release):
    allowed = set(range(0, 20))
    retrieval = replace(
        release.retrieval,
        config=replace(release.retrieval.config, repeats=False, depth=4, trending_depth=0, new_depth=0),
    )
    available = np.isin(np.arange(len(release.item_ids)), list(allowed))
    candidates = retrieve(retrieval, histories_of([(row, "purchase", 1.0) for row in range(12)]), available)
    assert len(allowed & set(candidates.rows.tolist())) >= 4


def test_who_had_everything_has_no_candidates_where_nothing_is_taken_twice(release):
    past = [Interaction(item_id, "purchase", CUTOFF - timedelta(days=1)) for item_id in release.item_ids]
    closed = replace(
        release, retrieval=replace(release.retrieval, config=replace(release.retrieval.config, repeats=False))
    )
    asked = Request(requested_at=CUTOFF, history=past, limit=5)
    assert len(find_candidates(closed, [asked])[1]) == 0
    (slate,) = recommend(closed, [asked])
    assert len(slate.items) == 5  # the shop's page is full all the same


def test_a_filter_that_leaves_enough_candidates_adds_none(release):
    histories = read_histories(mixed_requests(release.item_ids, 30), release.rows, 50)
    usual = retrieve(release.retrieval, histories)
    everything = np.ones(len(release.item_ids), bool)
    short = replace(release.retrieval, config=replace(release.retrieval.config, depth=1))
    wide = replace(short, config=replace(short.config, exact_items=everything.sum() - 1))
    for retrieval, available in ((release.retrieval, everything), (short, everything), (wide, everything)):
        came = retrieve(retrieval, histories, available)
        assert np.array_equal(came.offsets, retrieve(retrieval, histories).offsets)
    assert len(usual) > 0


def test_no_requests_give_no_candidates():
    assert retrieve(small_retrieval(), histories_of()).offsets.tolist() == [0]


def test_steps_count_distinct_times():
    histories = histories_of(
        [(0, "purchase", 5.0), (1, "purchase", 5.0), (2, "purchase", 3.0), (3, "purchase", 0.0)],
        [],
        [(0, "purchase", 0.0), (1, "purchase", 0.0)],
    )
    assert steps_from_newest(histories).tolist() == [2, 2, 1, 0, 0, 0]
    assert steps_from_newest(histories_of([], [])).tolist() == []


@pytest.fixture(scope="module", params=["flat", "ivf"])
def release(request):
    shop, vectors = build_shop(n_items=400)
    release = build_release(shop, vectors, recipe({"flat": EXACT, "ivf": LISTS}[request.param]), ranker=False)
    assert release.manifest.index_kind == request.param
    return release


@settings(max_examples=8)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 40), min_size=1, max_size=6), st.sampled_from([None, 30, 1]))
def test_a_request_gets_the_same_bits_in_any_batch(release, seed, sizes, every):
    requests = mixed_requests(release.item_ids, sum(sizes), seed)
    available = None if every is None else np.arange(len(release.item_ids)) % every == 0

    def ask(some):
        return retrieve(release.retrieval, read_histories(some, release.rows, 50), available)

    whole, start = ask(requests), 0
    for size in sizes:
        part = ask(requests[start : start + size])
        first, last = whole.offsets[start], whole.offsets[start + size]
        assert np.array_equal(part.offsets, whole.offsets[start : start + size + 1] - first)
        assert np.array_equal(part.rows, whole.rows[first:last])
        for said in ("scores", "ranks", "newest_step", "strongest", "feedback", "fused"):
            assert np.array_equal(getattr(part, said), getattr(whole, said)[first:last], equal_nan=True)
        start += size


def test_rows_are_distinct_and_sorted(release):
    candidates = retrieve(release.retrieval, read_histories(mixed_requests(release.item_ids, 50), release.rows, 50))
    for first, last in zip(candidates.offsets[:-1], candidates.offsets[1:]):
        assert bool(np.all(np.diff(candidates.rows[first:last]) > 0))


def test_trending_halves_with_each_half_life():
    events = purchases([0, 1, 2], [0, 0, 1], [9, 10, 8])
    assert trending_scores(events, 3, 10.0, 1.0) == pytest.approx([1.5, 0.25, 0])
    assert trending_scores(events, 3, 10.0, 2.0) == pytest.approx([1 + 2**-0.5, 0.5, 0])


def test_views_trend_where_nothing_is_sold():
    seen = [("u1", "detail-page-view", "b", 1.0), ("u2", "detail-page-view", "b", 1.0)]
    views = read_interactions(events_frame(*seen), ["a", "b"])
    now = days_since_epoch(CUTOFF)
    assert trending_scores(views, 2, now, 1.0).tolist() == [0, 1.0]
    # One sale, and views count no more, at no moment: not even before that sale.
    mixed = read_interactions(events_frame(*seen, ("u1", "purchase", "a", 0.5)), ["a", "b"])
    assert trending_scores(mixed, 2, now, 0.5).tolist() == [0.5, 0]
    assert trending_scores(mixed.select(mixed.time_days < now - 0.75), 2, now, 0.5).tolist() == [0, 0]


def test_newest_leaves_out_the_unknown_and_the_future():
    assert newest_rows(np.array([5.0, np.nan, 9.0, 11.0, 9.0, 10.0]), 10.0).tolist() == [5, 2, 4, 0]


def test_events_from_the_release_or_later_are_refused():
    content = index_content(["a"], np.ones((1, 2), np.float32), tables=TablesConfig(), index=IndexConfig(), threads=1)
    for late in (NOW, NOW + 1):
        with pytest.raises(
            LeakageError, match=r"expected events before 2026-03-01T00:00:00\+00:00, came one at 2026-03-0[12]T"
        ):
            fit_retrieval(
                content,
                np.array([np.nan]),
                purchases([0], [0], [late]),
                planted_taste(user_tower(2), np.ones((1, 2), np.float32)),
                content.index,
                NOW,
                tables=TablesConfig(),
                retrieval=RetrievalConfig(),
            )


def test_a_shop_without_purchases_still_has_tables(release):
    from recsys.histories import read_interactions
    from recsys.retrieval.fit import count_tables

    views = events_frame(("ann", "detail-page-view", "a", 2), ("ann", "detail-page-view", "b", 1))
    tables = count_tables(read_interactions(views, ["a", "b"]), 2, TablesConfig())
    assert {name: table.neighbours[0, 0] for name, table in tables.items()} == {
        "transitions": 1,
        "adjacent": 1,
        "reversed": -1,
        "copurchase": 1,
    }


def test_only_the_best_by_the_fused_order_go_on():
    whole = retrieve(
        small_retrieval(most=100), histories_of([(0, "purchase", 2.0), (1, "purchase", 1.0)], now_days=NOW)
    )
    cut = retrieve(small_retrieval(most=2), histories_of([(0, "purchase", 2.0), (1, "purchase", 1.0)], now_days=NOW))
    best = np.sort(np.argsort(-whole.fused, kind="stable")[:2])
    assert len(whole) > 2
    for name in ("rows", "scores", "ranks", "newest_step", "strongest", "fused"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(whole, name)[best])
