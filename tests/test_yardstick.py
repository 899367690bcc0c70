"""The yardstick that every policy is held against."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from recsys.errors import SchemaError
from recsys.evaluation.compare import NO_DIFFERENCE
from recsys.evaluation.requests import EvaluationSet
from recsys.evaluation.yardstick import build_yardstick, compare_policies
from recsys.request import Interaction, Request, Slate, SlateItem

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
DAYS = NOW.timestamp() / 86_400
ITEM_IDS = ["a", "b", "c", "d"]


def slate_of(*item_ids: str) -> Slate:
    items = tuple(SlateItem(item_id, rank, -rank) for rank, item_id in enumerate(item_ids, start=1))
    return Slate(items, "full", "v1")


def request_of(user_id: str | None, *past: str) -> Request:
    history = [Interaction(item_id, "purchase", NOW - timedelta(days=2)) for item_id in past]
    return Request(NOW, user_id=user_id, session_id="s1", history=history)


@pytest.fixture
def requests() -> EvaluationSet:
    asked = [request_of("ann", "a", "b"), request_of("bob"), request_of(None)]
    return EvaluationSet(asked, [["a", "d"], ["b"], ["unheard of"]], NOW, NOW + timedelta(days=1))


@pytest.fixture
def yardstick(requests):
    embeddings = np.array([[1, 0], [0, 1], [1, 0], [0, 0]], np.float32)
    created = np.array([DAYS - 1, DAYS - 400, np.nan, DAYS - 10])
    return build_yardstick(requests, ITEM_IDS, np.array([3, 1, 0, 0]), embeddings, created, k=2)


def test_slates_become_rows_of_the_catalogue(yardstick):
    rows = yardstick.slate_rows([slate_of("d", "a", "b"), slate_of("c"), slate_of()])
    assert rows.tolist() == [[3, 0], [2, -1], [-1, -1]]


def test_per_user_figures_by_hand(yardstick):
    shown = yardstick.slate_rows([slate_of("a", "b"), slate_of("c", "a"), slate_of("a", "d")])
    figures = yardstick.per_user(shown)
    assert next(iter(figures)) == "NDCG@2"  # the one to decide on
    assert figures["NDCG@2"] == pytest.approx([1 / (1 + 1 / math.log2(3)), 0, 0])
    assert figures["Recall@2"].tolist() == [0.5, 0, 0]
    assert figures["novelty (bits)"][0] == pytest.approx((-math.log2(4 / 8) - math.log2(2 / 8)) / 2)
    assert figures["diversity"] == pytest.approx([1, 0, np.nan], nan_ok=True)
    assert yardstick.catalogue(shown)["coverage"] == 1


def test_segments_by_history_and_by_age(yardstick):
    shown = yardstick.slate_rows([slate_of("a", "b"), slate_of("b"), slate_of("c")])
    segments = yardstick.by_segment(shown)
    history = segments["NDCG@2 by events in the history"]
    assert list(history) == ["none", "1–2"]
    assert history["none"] == pytest.approx([np.nan, 1, 0], nan_ok=True)
    age = segments["Recall@2 by age of the item"]
    expected = {
        "under a week": [1, np.nan, np.nan],
        "1–4 weeks": [0, np.nan, np.nan],
        "over a year": [np.nan, 1, np.nan],
        "unknown": [np.nan, np.nan, 0],
    }
    assert list(age) == list(expected)
    for label, recalls in expected.items():
        assert age[label] == pytest.approx(recalls, nan_ok=True), label


def test_policies_are_compared_where_both_are_defined(yardstick):
    a = yardstick.per_user(yardstick.slate_rows([slate_of("a"), slate_of("c"), slate_of("b")]))
    b = yardstick.per_user(yardstick.slate_rows([slate_of("a", "b"), slate_of("b"), slate_of("b")]))
    comparisons = compare_policies(a, b)
    assert "diversity" not in comparisons  # A shows single items: nothing to compare
    assert comparisons["Recall@2"].difference == pytest.approx(1 / 3)
    assert comparisons["Recall@2"].verdict == NO_DIFFERENCE  # of three users


def test_arrays_that_do_not_fit_are_refused(requests):
    with pytest.raises(SchemaError, match=r"4 rows, one an item, came .*'popularity': 3"):
        build_yardstick(requests, ITEM_IDS, np.zeros(3, np.int64), np.zeros((4, 2), np.float32), np.zeros(4), 2)
    nobody = EvaluationSet([], [], NOW, NOW + timedelta(days=1))
    with pytest.raises(SchemaError, match="expected shoppers who took something"):
        build_yardstick(nobody, [], np.zeros(0, np.int64), np.zeros((0, 2), np.float32), np.zeros(0), 2)
