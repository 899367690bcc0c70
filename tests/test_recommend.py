"""The request, whole: full and clean slates for anybody, equal alone and in a batch, from every rung of the ladder."""

import json
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.answers import answer_requests
from recsys.artifacts import save_release
from recsys.errors import LeakageError
from recsys.recommend import BATCH, recommend
from recsys.request import RUNGS, Interaction, Request
from recsys.retrieval.retrieve import SOURCES
from tests.builders import CUTOFF, EXACT, LISTS, build_release, build_shop, mixed_requests, recipe

NOBODY = Request(requested_at=CUTOFF)


@pytest.fixture(scope="module")
def release():
    return build_release(*build_shop())


@pytest.fixture(scope="module", params=["flat", "ivf"])
def larger(request):
    release = build_release(
        *build_shop(n_items=400, n_shoppers=300), recipe({"flat": EXACT, "ivf": LISTS}[request.param])
    )
    assert release.manifest.index_kind == request.param
    assert release.ranker is not None
    return release


def shopper(*item_ids, event_type="detail-page-view", **fields):
    """A request at CUTOFF of somebody who touched these items, one a day."""
    history = [
        Interaction(item_id, event_type, CUTOFF - timedelta(days=len(item_ids) - n))
        for n, item_id in enumerate(item_ids)
    ]
    return Request(requested_at=CUTOFF, history=history, **fields)


def ids_of(slate):
    return [item.item_id for item in slate.items]


def without_sales(release):
    retrieval = release.retrieval
    return replace(
        release,
        retrieval=replace(retrieval, trending=np.zeros_like(retrieval.trending), trending_rows=np.zeros(0, np.int32)),
    )


@settings(max_examples=8)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_a_request_gets_the_same_slate_in_any_batch(larger, seed, sizes):
    requests = mixed_requests(larger.item_ids, sum(sizes), seed)
    whole, start = recommend(larger, requests), 0
    for size in sizes:
        assert recommend(larger, requests[start : start + size]) == whole[start : start + size]
        start += size
    assert recommend(larger, requests[::-1]) == whole[::-1]


def test_more_requests_than_one_batch_come_in_order(release):
    requests = mixed_requests(release.item_ids, BATCH + 30, seed=3)
    slates = recommend(release, requests)
    assert slates == [recommend(release, [request])[0] for request in requests]
    assert recommend(release, []) == []


def test_batches_beside_each_other_come_in_order(release):
    requests = mixed_requests(release.item_ids, 2 * BATCH + 30, seed=4)
    assert answer_requests(release, requests, threads=2) == answer_requests(release, requests)


@settings(max_examples=8)
@given(st.integers(0, 10_000), st.floats(0, 1))
def test_a_slate_keeps_every_promise(larger, seed, share_in_stock):
    rng = np.random.default_rng(seed)
    available = rng.random(len(larger.item_ids)) < share_in_stock
    for request, slate in zip(
        requests := mixed_requests(larger.item_ids, 40, seed), recommend(larger, requests, available=available)
    ):
        shown = ids_of(slate)
        banned = {*request.exclude_item_ids, *request.item_ids}
        if request.exclude_purchased:
            banned |= {event.item_id for event in request.history if event.event_type == "purchase"}
        allowed = {item_id for item_id, there in zip(larger.item_ids, available) if there} - banned
        assert len(set(shown)) == len(shown)
        assert set(shown) <= allowed
        assert len(shown) == min(request.limit, len(allowed))  # full, as long as there is anything left
        assert [item.rank for item in slate.items] == list(range(1, len(shown) + 1))
        scores = [item.score for item in slate.items]
        assert np.isfinite(scores).all()
        assert scores == sorted(scores, reverse=True)
        assert slate.fallback in RUNGS
        assert all(len(item.reasons) == (1 if request.explain else 0) for item in slate.items)


def test_what_the_release_has_in_stock_is_what_is_shown(release):
    sold_out = {item_id for item_id, there in zip(release.item_ids, release.in_stock) if not there}
    assert sold_out
    (slate,) = recommend(release, [replace(shopper("red-001", "red-002"), limit=len(release.item_ids))])
    assert set(ids_of(slate)) == set(release.item_ids) - sold_out
    everything = np.ones(len(release.item_ids), bool)
    (slate,) = recommend(release, [replace(NOBODY, limit=1000)], available=everything)
    assert sorted(ids_of(slate)) == release.item_ids


def test_where_nothing_is_taken_twice_what_is_owned_fills_a_slate_last(release):
    """Sources that bring a handful: the rest of a long slate is filled, and the best seller is the shopper's own."""
    few = {"repeats": False, "depth": 2, "trending_depth": 2, "new_depth": 0}
    scant = replace(
        release, retrieval=replace(release.retrieval, config=replace(release.retrieval.config, **few)), ranker=None
    )
    best = [row for row in release.retrieval.trending_rows.tolist() if release.in_stock[row]][:5]
    owned = [release.item_ids[row] for row in best]
    asked = shopper(*owned, event_type="purchase", limit=int(release.in_stock.sum()) - len(owned))
    (slate,) = recommend(scant, [asked])
    assert slate.n_candidates < asked.limit == len(slate.items)
    assert not set(owned) & set(ids_of(slate))
    # Only a slate that nothing else can fill holds what the shopper has, behind all that is new.
    (slate,) = recommend(scant, [replace(asked, limit=len(release.item_ids))])
    assert set(ids_of(slate)[-len(owned) :]) == set(owned)
    (slate,) = recommend(scant, [replace(asked, limit=len(release.item_ids), exclude_purchased=True)])
    assert not set(owned) & set(ids_of(slate))


def test_taste_decides(release):
    for taste in ("red", "blue", "green", "gold"):
        (slate,) = recommend(release, [shopper(f"{taste}-005", f"{taste}-006", f"{taste}-007", limit=8)])
        mine = sum(item_id.startswith(taste) for item_id in ids_of(slate))
        assert mine >= 6, (taste, ids_of(slate))


@pytest.mark.parametrize(
    "request_",
    [
        NOBODY,
        replace(NOBODY, user_id="nobody knows", session_id="nor this"),
        shopper("never heard of", "nor of this"),
        replace(NOBODY, placement="cart", item_ids=["unknown 1", "unknown 2"]),
        replace(NOBODY, placement="product", item_ids=["unknown"]),
        shopper("red-001", event_type="impression"),
    ],
)
def test_whoever_is_unknown_gets_what_sells_now(release, request_):
    slate = recommend(release, [request_])[0]
    assert slate.fallback == "trending"
    assert len(slate.items) == 12
    plain = recommend(release, [NOBODY])[0]
    assert ids_of(slate) == ids_of(plain)


def test_a_newcomer_gets_the_order_of_what_sells_and_not_the_rankers(release):
    selling = replace(release.retrieval.config, fusion_weight=dict.fromkeys(SOURCES, 0.0) | {"trending": 1.0})
    release = replace(release, retrieval=replace(release.retrieval, config=selling))
    nobody, known = replace(NOBODY, limit=5), shopper("red-005", "red-006", limit=5)
    (slate,) = recommend(release, [nobody])
    best = [row for row in release.retrieval.trending_rows.tolist() if release.in_stock[row]]
    assert ids_of(slate) == [release.item_ids[row] for row in best[:5]]
    # In one batch with somebody known, both get what is theirs, and the known one the ranker's order.
    (ranked,) = recommend(release, [known])
    assert recommend(release, [nobody, known]) == [slate, ranked]
    assert ids_of(ranked) != ids_of(recommend(replace(release, ranker=None), [known])[0])


@pytest.mark.parametrize("number", [0, 1, 2, 3])  # without picture, words, both; without category, price and arrival
def test_a_page_of_an_item_that_lacks_something_is_answered(release, number):
    for placement in ("product", "cart", "home"):
        asked = replace(NOBODY, placement=placement, item_ids=[f"red-00{number}"], explain=True)
        slate = recommend(release, [asked])[0]
        assert slate.fallback == "full"
        assert len(slate.items) == 12
        assert f"red-00{number}" not in ids_of(slate)


def test_every_rung_of_the_ladder_names_itself(release):
    known = shopper("red-005", "red-006")
    no_index = replace(release, retrieval=replace(release.retrieval, taste_index=None))
    no_ranker = replace(release, ranker=None)
    unsold = without_sales(release)
    empty_handed = replace(unsold, retrieval=replace(unsold.retrieval, newest=np.zeros(0, np.int32)))
    rungs = {
        "full": (release, known),
        "without_ranker": (no_ranker, known),
        "item_to_item": (no_index, known),
        "trending": (release, NOBODY),
        "newest": (unsold, NOBODY),
    }
    assert tuple(rungs) == RUNGS
    for rung, (made, request) in rungs.items():
        (slate,) = recommend(made, [replace(request, explain=True)])
        assert (slate.fallback, len(slate.items)) == (rung, 12)
    assert recommend(replace(no_index, ranker=None), [known])[0].fallback == "item_to_item"
    # Not even arrivals are known: the catalogue itself is shown.
    (slate,) = recommend(empty_handed, [replace(NOBODY, explain=True)])
    assert (slate.fallback, len(slate.items)) == ("newest", 12)


def test_newest_shows_the_newest(release):
    (slate,) = recommend(replace(without_sales(release), ranker=None), [replace(NOBODY, limit=3)])
    in_stock = [row for row in release.retrieval.newest.tolist() if release.in_stock[row]]
    expected = {release.item_ids[row] for row in in_stock[:3]}
    assert set(ids_of(slate)) == expected


def test_a_narrow_shelf_where_nothing_sells_is_newest_first(release):
    few = np.zeros(len(release.item_ids), bool)
    few[release.retrieval.newest[20:30]] = True  # beyond those that the source of new items speaks for
    for made in (release, replace(release, ranker=None)):
        (slate,) = recommend(without_sales(made), [NOBODY], available=few)
        assert ids_of(slate) == [release.item_ids[row] for row in release.retrieval.newest[20:30]]
        assert slate.fallback == "newest"


def test_a_known_item_that_nothing_links_to_is_answered_by_what_sells(release):
    # red-002 has no embedding; here nobody ever touched it either.
    row = release.row_of("red-002")
    tables = {}
    for name, table in release.retrieval.tables.items():
        neighbours = np.where(table.neighbours == row, -1, table.neighbours)
        neighbours[row] = -1
        tables[name] = replace(table, neighbours=neighbours)
    tower = replace(release.retrieval.tower, inner_bias=np.zeros(8, np.float32))
    taste = release.retrieval.taste.copy()
    taste[row] = 0
    lonely = replace(release, retrieval=replace(release.retrieval, tables=tables, tower=tower, taste=taste))
    (slate,) = recommend(lonely, [replace(NOBODY, placement="product", item_ids=["red-002"])])
    assert slate.fallback == "trending"


class _Broken:
    """A ranker that answers NaN for some: no real one can be brought to do so."""

    def __init__(self, bad):
        self.bad = bad

    def score(self, features):
        scores = np.linspace(1, 0, len(features), dtype=np.float32)
        scores[self.bad] = np.nan
        return scores


def test_a_score_that_is_not_finite_ranks_last_and_never_leaves(release):
    everything = np.ones(len(release.item_ids), bool)
    broken = replace(release, ranker=_Broken(slice(0, 5)))
    request = replace(shopper("red-005", "blue-006"), limit=200)
    (slate,) = recommend(broken, [request], available=everything)
    assert np.isfinite([item.score for item in slate.items]).all()
    json.dumps([item.score for item in slate.items], allow_nan=False)
    (plain,) = recommend(replace(release, ranker=_Broken(slice(0, 0))), [request], available=everything)
    n = plain.n_candidates
    assert ids_of(slate)[: n - 5] == ids_of(plain)[5:n]
    assert set(ids_of(slate)[n - 5 : n]) == set(ids_of(plain)[:5])


def test_a_request_from_before_the_release_is_refused(release):
    with pytest.raises(
        LeakageError, match=r"at or after 2026-03-01T00:00:00\+00:00, .* came one at 2026-02-28T23:59:59"
    ):
        recommend(release, [NOBODY, replace(NOBODY, requested_at=CUTOFF - timedelta(seconds=1))])


def test_torch_is_never_needed(release, tmp_path):
    saved = save_release(release, tmp_path)
    code = f"""
import sys
from datetime import datetime
from recsys.artifacts import load_release
from recsys.recommend import recommend
from recsys.request import Interaction, Request
now = datetime.fromisoformat({CUTOFF.isoformat()!r})
release = load_release({str(tmp_path / saved.manifest.version)!r})
past = [Interaction("red-001", "purchase", now)]
(slate,) = recommend(release, [Request(requested_at=now, history=past, explain=True)])
heavy = {{"torch", "torchvision", "timm", "transformers"}} & {{name.split(".")[0] for name in sys.modules}}
print(slate.fallback, len(slate.items), sorted(heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "full 12 []"


def test_who_has_no_past_gets_what_sells_whatever_the_sources_count_for_others(release):
    counts = release.retrieval.config.fusion_weight | {"trending": 0.025, "new": 4.0}
    config = replace(release.retrieval.config, fusion_weight=counts)
    made = replace(release, ranker=None, retrieval=replace(release.retrieval, config=config))
    (slate,) = recommend(made, [Request(requested_at=CUTOFF, limit=5)], available=np.ones(len(made.item_ids), bool))
    sells = [made.item_ids[row] for row in made.retrieval.trending_rows[:5]]
    assert [item.item_id for item in slate.items] == sells
