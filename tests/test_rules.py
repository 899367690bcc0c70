"""What may be shown: in stock, not excluded, best first, never twice."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.ranking.rules import fill, select

ALL = np.ones(10, bool)
ROWS = np.array([7, 3, 5, 1], np.int32)


def test_the_best_come_first_and_equals_in_the_order_given():
    assert select(ROWS, np.array([1, 3, 2, 3], np.float32), (), ALL, 3).tolist() == [1, 3, 2]
    assert select(ROWS, np.array([1, 3, 2, 3], np.float32), (), ALL, 0).tolist() == []


def test_what_is_forbidden_or_out_of_stock_is_left_out():
    scores = np.array([4, 3, 2, 1], np.float32)
    stock = ALL.copy()
    stock[7] = False
    assert select(ROWS, scores, {5, 9}, stock, 4).tolist() == [1, 3]
    assert stock.sum() == 9  # what came is not changed
    assert select(ROWS[:0], scores[:0], {5}, stock, 4).tolist() == []


def test_a_score_that_is_not_finite_ranks_last():
    scores = np.array([np.nan, -5, np.inf, -np.inf], np.float32)
    assert select(ROWS, scores, (), ALL, 4).tolist() == [1, 0, 2, 3]


def test_fill_goes_through_the_lists_in_turn():
    lists = (np.array([3, 1, 3], np.int32), np.array([1, 4, 5], np.int32))
    assert fill([2], lists, {4}, ALL, 4) == [3, 1, 5]
    assert fill([2], lists, {4}, ALL, 3) == [3, 1]
    assert fill([2], lists, {4}, ALL, 1) == []
    assert fill([2], lists, set(), np.zeros(10, bool), 4) == []


@given(
    st.lists(st.integers(0, 599), max_size=5, unique=True),
    st.lists(st.lists(st.integers(0, 599), max_size=600), max_size=3),
    st.sets(st.integers(0, 599), max_size=300),
    st.integers(0, 20),
    st.integers(0, 2**31),
)
def test_fill_agrees_with_walking_the_lists(chosen, lists, forbidden, limit, seed):
    stock = np.random.default_rng(seed).random(600) < 0.5
    added = fill(chosen, [np.array(rows, np.int32) for rows in lists], forbidden, stock, limit)
    expected = []
    for row in [row for rows in lists for row in rows]:
        if len(chosen) + len(expected) < limit and stock[row] and row not in {*chosen, *expected, *forbidden}:
            expected.append(row)
    assert added == expected
