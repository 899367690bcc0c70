"""Reasons name the source in which an item stands highest, and the past item that brought it there."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.ranking.features import SPACES
from recsys.reasons import explain, why_filled
from recsys.request import Reason
from recsys.retrieval.items import ItemTable, empty_table
from recsys.retrieval.retrieve import SOURCES, TABLES, Candidates
from tests.builders import build_release, build_shop, histories_of, recipe

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
    retrieval = replace(made.retrieval, tables=links, embeddings=vectors)
    tables = replace(made.tables, spaces=dict.fromkeys(SPACES, vectors))
    return replace(made, item_ids=IDS, titles=TITLES, retrieval=retrieval, tables=tables)


def reason_of(release, row, history, **ranks):
    matrix = np.full((1, len(SOURCES)), np.nan, np.float32)
    for source, rank in ranks.items():
        matrix[0, SOURCES.index(source)] = rank
    candidates = Candidates(np.array([0, 0, 1]), np.array([row], np.int32), matrix, matrix, np.zeros(1, np.float32))
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


def test_shares_compare_picture_words_and_behaviour(release):
    shares = reason_of(release, 3, [(1, "purchase", 1.0)], copurchase=1).shares
    # Cosine 0.6 in both spaces, and the root of a co-purchase cosine of 0.25.
    assert shares == pytest.approx({"image": 0.6 / 1.7, "text": 0.6 / 1.7, "behaviour": 0.5 / 1.7}, abs=1e-4)
    assert sum(shares.values()) == pytest.approx(1, abs=2e-4)
    # An item without picture and words, never bought with the other: nothing to share out.
    assert reason_of(release, 4, [(1, "purchase", 1.0)], taste=1).shares == {}


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
    assert (reason.source, reason.item_id, reason.shares, reason.text) == (source, None, {}, text)
