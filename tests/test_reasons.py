"""Reasons name the source in which an item stands highest, and the past item that brought it there."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.ranking.features import FEATURES, SPACES
from recsys.reasons import _looks_at, explain, why_alike, why_filled
from recsys.recommend import score_inputs
from recsys.request import Reason
from recsys.retrieval.items import ItemTable, empty_table
from recsys.retrieval.retrieve import FEEDBACK, SOURCES, TABLES, Candidates
from recsys.search_index import SearchIndex
from recsys.words import build_words
from tests.builders import build_release, build_shop, histories_of, mixed_requests, recipe

IDS = list("abcdef")
TITLES = ["A hat", "A coat", "", "A {tie}", "Socks", "Gloves"]


@pytest.fixture(scope="module")
def release():
    """A real release whose first six items have names, links and vectors that are known."""
    made = build_release(*build_shop(), recipe(), ranker=False)
    vectors = np.array([[1, 0], [0, 1], [0.6, 0.8], [0.8, 0.6], [0, 0], [1, 0]], np.float32)
    links = dict.fromkeys(TABLES, empty_table(6))
    # 0 → 3 weighs 5, 1 → 3 weighs 2.
    heavy = ItemTable(
        np.array([[3], [3], [-1], [-1], [-1], [-1]], np.int32), np.array([[5], [2], [0], [0], [0], [0]], np.float32)
    )
    links |= {"transitions": heavy, "adjacent": heavy}
    quarter = np.array([[0], [0.25], [0], [0], [0], [0]], np.float32)
    links["copurchase"] = ItemTable(np.array([[-1], [3], [-1], [-1], [-1], [-1]], np.int32), quarter)
    tower = replace(
        made.retrieval.tower, item_turn=np.zeros((4 * vectors.shape[1], made.retrieval.tower.dim), np.float32)
    )
    retrieval = replace(made.retrieval, tables=links, embeddings=vectors, tower=tower)
    tables = replace(made.tables, spaces=dict.fromkeys(SPACES, vectors))
    return replace(made, item_ids=IDS, titles=TITLES, retrieval=retrieval, tables=tables)


@pytest.fixture(scope="module")
def release_with_ranker():
    return build_release(*build_shop(), recipe())


def reason_of(release, row, history, **ranks):
    matrix = np.full((1, len(SOURCES)), np.nan, np.float32)
    for source, rank in ranks.items():
        matrix[0, SOURCES.index(source)] = rank
    of_tables, feedback = matrix[:, : len(TABLES)], matrix[:, : len(FEEDBACK)]
    candidates = Candidates(
        np.array([0, 0, 1]),
        np.array([row], np.int32),
        matrix,
        matrix,
        of_tables,
        of_tables,
        feedback,
        np.zeros(1, np.float32),
    )
    ((reason,),) = explain(release, candidates, [0], histories_of([], history), 1)
    return reason


SEEN = [(0, "purchase", 3.0), (1, "purchase", 2.0), (2, "detail-page-view", 1.0)]


def test_the_source_is_where_the_item_stands_highest(release):
    assert reason_of(release, 3, SEEN, transitions=2, copurchase=1).source == "copurchase"
    assert reason_of(release, 3, SEEN, transitions=2, copurchase=7).source == "transitions"
    # A personal source explains better than "popular", up to three times the rank.
    assert reason_of(release, 3, SEEN, transitions=3, trending=1).source == "transitions"
    assert reason_of(release, 3, SEEN, transitions=4, trending=1).source == "trending"


def test_the_past_item_is_the_one_that_weighed_most(release):
    # 0 → 3 is 2.5 times as heavy as 1 → 3, but two steps old against one: 5 · 0.6² against 2 · 0.6.
    reason = reason_of(release, 3, SEEN, transitions=1)
    assert (reason.item_id, reason.text) == ("a", "Often chosen after “A hat”")
    # Right after: only the newest item counts, however heavy the older ones' links are.
    newest_first = [(0, "purchase", 3.0), (1, "purchase", 2.0)]
    assert reason_of(release, 3, newest_first, adjacent=1).item_id == "b"


def test_likeness_names_the_nearest_and_the_newest_of_equals(release):
    assert reason_of(release, 3, SEEN, taste=1).item_id == "c"
    twins = [(0, "purchase", 3.0), (5, "purchase", 2.0)]  # the same vector
    assert reason_of(release, 3, twins, taste=1).item_id == "f"


def test_an_item_without_a_title_is_named_by_its_id_and_braces_are_text(release):
    assert reason_of(release, 3, SEEN, taste=1).text == "Fits the taste shown by “c”"
    assert reason_of(release, 5, [(3, "purchase", 1.0)], content=1).text == "Resembles “A {tie}”"


def test_shares_are_of_the_fused_score_where_there_is_no_ranker(release):
    weights = dict.fromkeys(SOURCES, 0.0) | {"copurchase": 1.0, "content": 0.5, "attributes": 0.5}
    config = replace(release.retrieval.config, fusion_weight=weights)
    # Of item 3's embedding [0.8, 0.6], the picture is [0.8, 0] and the words are [0, 0.6].
    parts = {"image": np.zeros((6, 2)), "text": np.zeros((6, 2))}
    parts["image"][3], parts["text"][3] = [0.8, 0], [0, 0.6]
    search = SearchIndex(build_words([]), build_words([]), parts, np.zeros(6, np.uint64), {})
    split = replace(release, retrieval=replace(release.retrieval, config=config), search=search)
    shares = reason_of(split, 3, [(2, "purchase", 1.0)], copurchase=1, content=5, attributes=30).shares
    # 1/21 of behaviour, 0.5/25 of likeness to [0.6, 0.8] (of which 0.48 are the picture's and 0.48 the words'), 0.5/50.
    owed = {"behaviour": 1 / 21, "attributes": 0.5 / 50, "image": 0.25 / 25, "text": 0.25 / 25}
    total = sum(owed.values())
    assert shares == pytest.approx({name: value / total for name, value in owed.items()}, abs=1e-4)
    # Without parts, what is owed to likeness cannot be told apart, and is left out.
    assert set(reason_of(replace(split, search=None), 3, SEEN, copurchase=1, content=5).shares) == {"behaviour"}


def test_who_has_no_past_gets_shares_of_what_ordered_for_them(release):
    weights = dict.fromkeys(SOURCES, 1.0) | {"trending": 0.0}
    config = replace(release.retrieval.config, fusion_weight=weights)
    tuned = replace(release, retrieval=replace(release.retrieval, config=config))
    assert reason_of(tuned, 3, [], trending=1, new=1).shares["behaviour"] > 0.99
    assert reason_of(tuned, 3, SEEN, trending=1, new=1).shares == {"attributes": 1.0}


@pytest.mark.parametrize("history", [[], SEEN])
def test_what_no_source_speaks_for_is_said_to_fill(release, history):
    row = int(np.argmin(release.retrieval.trending))
    assert reason_of(release, row, [event for event in history if event[0] != row]) == why_filled(release, row)


def test_shares_are_of_the_rankers_own_score(release_with_ranker):
    release = release_with_ranker
    requests = mixed_requests(release.item_ids, 40, seed=2)
    histories, candidates, features = score_inputs(release, requests)
    owed = release.ranker.contributions(features)
    assert owed.shape == (len(candidates), len(FEATURES))
    # TreeSHAP is exact: with the model's mean, the same for every row, the contributions are the score.
    mean = release.ranker.score(features) - owed.sum(axis=1)
    assert mean == pytest.approx(np.full(len(mean), mean[0]), abs=1e-3)
    place = int(np.argmax(histories.lengths))
    start, stop = candidates.offsets[place], candidates.offsets[place + 1]
    for (reason,) in explain(release, candidates, list(range(start, stop)), histories, place, features):
        assert set(reason.shares) <= {"image", "text", "reviews", "attributes", "behaviour"}
        assert sum(reason.shares.values()) == pytest.approx(1, abs=1e-3) or reason.shares == {}


def test_every_feature_looks_at_something_that_a_person_knows():
    groups = {name: _looks_at(name) for name in (*FEATURES, *SOURCES)}
    assert groups["image_nearest"] == "image"
    assert groups["text_last"] == "text"
    assert groups["review_mean"] == "reviews"
    assert groups["content_score"] == groups["content_newest"] == groups["fused_mean"] == "embedding"
    assert groups["taste_rank"] == groups["taste"] == "taste"
    assert groups["price_cents"] == groups["same_brand_share"] == groups["attributes_last"] == "attributes"
    assert groups["rrf_share"] == groups["rrf_rank"] == groups["transitions_from_best"] == "behaviour"
    assert (groups["image_to_best"], groups["taste_to_best"]) == ("image", "taste")
    assert groups["rrf_score"] == groups["transitions_score"] == groups["sales_share_7d"] == "behaviour"
    assert groups["history_length"] is groups["n_candidates"] is None


def test_items_alike_share_out_what_was_asked_for(release):
    spaces = dict(release.tables.spaces) | {"image": np.array([[1, 0]] * 6), "text": np.array([[1, 0], [0.5, 0.8]] * 3)}
    made = replace(release, tables=replace(release.tables, spaces=spaces))
    reason = why_alike(made, "b", "d", {"image": 2.0, "text": 1.0, "behaviour": 4.0})
    # Likeness 1 in pictures, 0.89 in words, 0.25 bought together.
    assert reason.shares == pytest.approx({"image": 2 / 3.89, "text": 0.89 / 3.89, "behaviour": 1 / 3.89}, abs=1e-4)
    assert (reason.source, reason.item_id, reason.text) == ("content", "b", "Resembles “A coat”")
    assert why_alike(made, "b", "d", {"behaviour": 1.0}).text == "Bought together with “A coat”"


@pytest.mark.parametrize(
    ("event_type", "text"),
    [
        ("detail-page-view", "You looked at it before"),
        ("add-to-cart", "You had it in your cart"),
        ("purchase", "You bought it before"),
        ("rating", "You rated it"),
    ],
)
def test_an_item_of_the_own_past_says_what_was_done_with_it(release, event_type, text):
    past = [(1, event_type, 3.0), (1, "detail-page-view", 2.0), (0, "purchase", 1.0)]
    reason = reason_of(release, 1, past, transitions=1)
    assert (reason.source, reason.item_id, reason.text) == ("history", "b", text)


def test_what_fills_the_slate_sells_or_is_at_least_there(release):
    trending = release.retrieval.trending
    selling, unsold = int(trending.argmax()), int(trending.argmin())
    assert trending[selling] > trending[unsold] == 0
    assert why_filled(release, selling) == Reason(source="trending", text="Popular now")
    assert why_filled(release, unsold) == Reason(source="new", text="From the catalogue")


@pytest.mark.parametrize(("source", "text"), [("trending", "Popular now"), ("new", "New in the shop")])
def test_somebody_unknown_gets_a_reason_without_a_past_item(release, source, text):
    reason = reason_of(release, 3, [], **{source: 1})
    assert (reason.source, reason.item_id, reason.text) == (source, None, text)
