"""Item→item tables against counts made by hand."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from recsys.retrieval import items
from recsys.retrieval.index import IndexConfig, build_index
from recsys.retrieval.items import (
    content_table,
    copurchase_table,
    empty_table,
    log_transition_weights,
    top_of_product,
    top_table,
    transition_counts,
)
from tests.builders import purchases


def test_transitions_are_directed_and_fade_with_distance():
    # One shopper walks 0 → 1 → 2, another 0 → 1.
    walks = purchases([0, 0, 0, 1, 1], [0, 1, 2, 0, 1], [1, 2, 3, 1, 2])
    counts = transition_counts(walks, 4, max_distance=2, distance_power=0.5).toarray()
    expected = np.zeros((4, 4))
    expected[0, 1], expected[1, 2], expected[0, 2] = 2.0, 1.0, 2**-0.5
    assert counts == pytest.approx(expected)


def test_distance_is_cut_off():
    walk = purchases([0, 0, 0], [0, 1, 2], [1, 2, 3])
    counts = transition_counts(walk, 3, max_distance=1, distance_power=0.0).toarray()
    assert counts.tolist() == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]


def test_a_receipt_has_no_order():
    basket = purchases([0, 0], [0, 1], [5, 5])
    assert transition_counts(basket, 2, max_distance=3, distance_power=0.5).toarray().tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("receipt", [[0, 1, 2], [0, 2, 1], [2, 1, 0]])
def test_all_of_a_receipt_is_one_step_before_what_comes_next(receipt):
    walk = purchases([0, 0, 0, 0], [*receipt, 3], [1, 1, 1, 2])
    for power in (0.0, 0.5):
        counts = transition_counts(walk, 4, max_distance=1, distance_power=power).toarray()
        assert counts.tolist() == [[0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [0, 0, 0, 0]]


def test_view_cart_and_purchase_of_one_item_are_one_step():
    walk = purchases([0, 0, 0, 0, 1], [0, 0, 0, 1, 1], [1, 2, 3, 4, 5])
    counts = transition_counts(walk, 2, max_distance=2, distance_power=0.5).toarray()
    assert counts.tolist() == [[0, 1], [0, 0]]  # not 0 →→ 1 as well, and nothing across shoppers


def test_coming_back_to_an_item_counts_no_diagonal():
    walk = purchases([0, 0, 0], [0, 1, 0], [1, 2, 3])
    counts = transition_counts(walk, 2, max_distance=2, distance_power=0.5).toarray()
    assert counts.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("events", [purchases([], [], []), purchases([0], [1], [1])])
def test_too_little_to_count_gives_empty_tables(events):
    assert transition_counts(events, 3, max_distance=5, distance_power=0.5).nnz == 0
    table = copurchase_table(events.shoppers, events.rows, 3, 5, shrinkage=1.0, heavy_shopper_power=0.25)
    assert table.neighbours.tolist() == [[-1], [-1], [-1]]


def test_log_weights():
    counts = sparse.csr_matrix([[0.0, 3.0], [0.5, 0.0]])
    weights = log_transition_weights(counts, scale=0.5).toarray()
    assert weights == pytest.approx(np.log1p([[0, 3 * 0.5], [0.5 * 0.5, 0]]))
    assert counts[0, 1] == 3.0  # what came is not changed


def dense(table):
    """Weights [n, n] of a table, 0 where there is no link."""
    out = np.zeros((len(table), len(table)))
    rows, places = np.nonzero(table.neighbours >= 0)
    out[rows, table.neighbours[rows, places]] = table.weights[rows, places]
    return out


def test_copurchase_cosine_by_hand():
    # Shopper 0 took items 0 and 1 (item 0 twice), shopper 1 took 0, 1 and 2, shopper 2 took 2 only.
    shoppers, rows = np.array([0, 0, 0, 1, 1, 1, 2]), np.array([0, 1, 0, 0, 1, 2, 2])
    cosine = dense(copurchase_table(shoppers, rows, 3, 3, shrinkage=1.0, heavy_shopper_power=1.0))
    expected = np.zeros((3, 3))
    expected[0, 1] = expected[1, 0] = (1 / 2 + 1 / 3) / (2 + 1)
    expected[0, 2] = expected[2, 0] = expected[1, 2] = expected[2, 1] = (1 / 3) / (2 + 1)
    assert cosine == pytest.approx(expected)
    plain = dense(copurchase_table(shoppers, rows, 3, 3, shrinkage=0.0, heavy_shopper_power=0.0))
    assert plain[0, 1] == pytest.approx(1.0)
    assert plain[0, 2] == pytest.approx(0.5)


@pytest.mark.parametrize("pairs", [1, 50, 10**6])
def test_how_much_is_multiplied_at_once_changes_nothing(pairs, monkeypatch):
    monkeypatch.setattr(items, "PAIRS", pairs)
    left = sparse.csr_matrix(np.random.default_rng(0).integers(-4, 5, (30, 9)).clip(0))
    product = (left @ left.T).toarray()
    whole = np.where(product > 0, product * np.arange(30)[:, None] + np.arange(30), 0)  # told apart by row and column
    np.fill_diagonal(whole, 0)
    table = top_of_product(left, left.T.tocsr(), 4, lambda row, column, value: value * row + column)
    expected = top_table(sparse.csr_matrix(whole), 4)
    assert np.array_equal(table.neighbours, expected.neighbours)
    assert table.weights == pytest.approx(expected.weights)


def test_who_buys_everything_takes_no_memory_of_all_pairs():
    n = 3_000
    tracemalloc.start()
    rows = np.arange(n, dtype=np.int32)
    table = copurchase_table(np.zeros(n, np.int32), rows, n, 2, shrinkage=1.0, heavy_shopper_power=0.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * n * n  # bytes; all pairs at once take some 50 each
    assert table.neighbours[[0, 1, 2, n - 1]].tolist() == [[1, 2], [0, 2], [0, 1], [0, 1]]
    assert table.weights == pytest.approx(n**-0.5 / 2)


def test_top_table_keeps_the_heaviest_and_the_lower_row_of_equals():
    matrix = sparse.csr_matrix([[0, 1, 5, 5], [2, 0, -1, 0], [0, 0, 0, 0], [1, 1, 1, 0]], dtype=float)
    table = top_table(matrix, 2)
    assert table.neighbours.tolist() == [[2, 3], [0, -1], [-1, -1], [0, 1]]
    assert table.weights.tolist() == [[5, 5], [2, 0], [0, 0], [1, 1]]
    assert (table.neighbours.dtype, table.weights.dtype) == (np.int32, np.float32)
    assert len(table) == 4


@given(st.integers(1, 8), st.integers(1, 6), st.integers(0, 10_000))
def test_top_table_agrees_with_sorting_each_row(n_items, k, seed):
    dense = np.random.default_rng(seed).integers(-1, 4, (n_items, n_items)).astype(float)
    table = top_table(sparse.csr_matrix(dense), k)
    for row in range(n_items):
        best = [int(column) for column in np.argsort(-dense[row], kind="stable")[:k] if dense[row, column] > 0]
        assert [column for column in table.neighbours[row].tolist() if column >= 0] == best


def test_content_neighbours():
    embeddings = np.array([[1, 0], [0.6, 0.8], [0, 0], [0, 1], [-1, 0]], np.float32)
    index = build_index(list("abcde"), embeddings, IndexConfig(), threads=1)
    table = content_table(embeddings, index.search_many, 2)
    assert table.neighbours.tolist() == [[1, -1], [3, 0], [-1, -1], [1, -1], [-1, -1]]
    assert table.weights == pytest.approx(np.array([[0.6, 0], [0.8, 0.6], [0, 0], [0.8, 0], [0, 0]]))


def test_a_twin_is_not_mistaken_for_the_item_itself():
    embeddings = np.repeat(np.eye(2, dtype=np.float32), [4, 1], axis=0)
    index = build_index(list("abcde"), embeddings, IndexConfig(), threads=1)
    table = content_table(embeddings, index.search_many, 2)
    for row in range(4):
        mine = table.neighbours[row].tolist()
        assert row not in mine
        assert set(mine) <= {0, 1, 2, 3}
        assert len(set(mine)) == 2
    assert table.neighbours[4].tolist() == [-1, -1]


@pytest.mark.parametrize("embeddings", [np.zeros((3, 4), np.float32), np.eye(3, 4, dtype=np.float32)[:1]])
def test_nothing_resembles_where_fewer_than_two_have_an_embedding(embeddings):
    index = build_index(["a"] * len(embeddings), embeddings, IndexConfig(), threads=1)
    assert content_table(embeddings, index.search_many, 5).neighbours.max() == -1
    assert empty_table(len(embeddings)).neighbours.max() == -1
