"""The linear item model: EASE where there is behaviour only, and content's word where nobody ever bought."""

import numpy as np
import pytest
from scipy import sparse

from recsys.retrieval.linear import linear_table

SHOPPERS = np.array([0, 0, 1, 1, 2, 2, 2, 3, 3], np.int32)
ROWS = np.array([0, 1, 0, 1, 0, 1, 2, 2, 3], np.int32)


def dense(table, n_items):
    weights = np.zeros((n_items, n_items))
    for row, (neighbours, values) in enumerate(zip(table.neighbours, table.weights)):
        weights[row, neighbours[neighbours >= 0]] = values[neighbours >= 0]
    return weights


def ease(gram, penalty):
    inverse = np.linalg.inv(gram + penalty * np.eye(len(gram)))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return np.maximum(weights, 0)


def fit(content=(), n_items=4, max_items=10, k=10):
    return linear_table(SHOPPERS, ROWS, content, n_items=n_items, penalty=2.0, max_items=max_items, block_items=0, k=k)


def test_without_content_it_is_ease_over_what_two_shoppers_took():
    taken = np.zeros((4, 4))
    taken[SHOPPERS, ROWS] = 1
    expected = np.zeros((4, 4))
    expected[:3, :3] = ease((taken.T @ taken)[:3, :3], 2.0)  # item 3 has one shopper
    assert dense(fit(), 4) == pytest.approx(expected, abs=1e-6)


def test_content_is_stacked_below_the_interactions():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6, 3)).astype(np.float32)
    vectors[5] = 0  # neither behaviour nor content
    traits = sparse.csr_matrix(rng.binomial(1, 0.5, (6, 8)).astype(np.float32) * (np.arange(6) < 5)[:, None])
    centred = vectors - vectors[:5].mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    taken = np.zeros((4, 5))
    taken[SHOPPERS, ROWS] = 1
    told = traits[:5].toarray()
    expected = np.zeros((6, 6))
    expected[:5, :5] = ease(taken.T @ taken + 3 * centred[:5] @ centred[:5].T + 0.5 * told @ told.T, 2.0)
    table = fit([(vectors, 3.0), (traits, 0.5)], n_items=6)
    assert dense(table, 6) == pytest.approx(expected, abs=1e-5)


def test_what_nobody_bought_follows_what_it_resembles():
    vectors = np.array([[1, 0], [0, 1], [-1, 0], [0, -1], [0.9, 0.1]], np.float32)
    table = fit([(vectors, 5.0)], n_items=5)
    assert table.neighbours[0, 0] == 4 or 4 in table.neighbours[0]
    assert dense(table, 5)[0, 4] > dense(table, 5)[2, 4]


def test_the_most_bought_are_kept_and_a_weight_of_zero_leaves_content_out():
    vectors = np.eye(4, dtype=np.float32)
    assert set(fit([(vectors, 1.0)], max_items=2).neighbours[[0, 1]].ravel().tolist()) <= {-1, 0, 1}
    assert (fit([(vectors, 1.0)], max_items=2).neighbours[[2, 3]] == -1).all()
    assert np.array_equal(fit([(vectors, 0.0)]).neighbours, fit().neighbours)
    nothing = np.zeros(0, np.int32)
    empty = linear_table(nothing, nothing, [], n_items=4, penalty=1.0, max_items=4, block_items=0, k=3)
    assert (empty.neighbours == -1).all()
    only_content = linear_table(
        nothing, nothing, [(vectors, 1.0)], n_items=4, penalty=1.0, max_items=4, block_items=0, k=3
    )
    assert len(only_content) == 4


def test_past_the_first_inverse_the_rest_is_solved_in_blocks_of_what_is_alike():
    """Two kinds of items, each bought by shoppers of its own; the blocks that content makes are those kinds."""
    rng = np.random.default_rng(0)
    kind = np.repeat([0, 1], 6)
    vectors = (np.eye(2)[kind] + 0.1 * rng.normal(size=(12, 2))).astype(np.float32)
    shoppers = np.repeat(np.arange(80), 3).astype(np.int32)
    rows = np.concatenate([rng.choice(6, 3, replace=False) + 6 * (user % 2) for user in range(80)]).astype(np.int32)
    arguments = {"n_items": 12, "penalty": 2.0, "k": 11}
    whole = linear_table(shoppers, rows, [(vectors, 0.1)], max_items=12, block_items=0, **arguments)
    parts = linear_table(shoppers, rows, [(vectors, 0.1)], max_items=0, block_items=6, **arguments)
    inside = kind[:, None] == kind
    assert (dense(parts, 12)[~inside] == 0).all()
    # What a block does not see hardly matters where nobody buys across.
    assert np.corrcoef(dense(whole, 12)[inside], dense(parts, 12)[inside])[0, 1] > 0.9
    assert (dense(parts, 12)[inside] > 0).sum() > 30
