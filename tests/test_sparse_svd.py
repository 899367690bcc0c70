"""main_axes() against the dense decomposition."""

import numpy as np
import pytest
from scipy import sparse

from recsys import sparse_svd
from recsys.sparse_svd import main_axes


def test_it_agrees_with_the_dense_one(monkeypatch):
    monkeypatch.setattr(sparse_svd, "BLOCK_ROWS", 70)  # several blocks, the last one short
    rng = np.random.default_rng(0)
    left, right = np.linalg.qr(rng.standard_normal((300, 60))).Q, np.linalg.qr(rng.standard_normal((120, 60))).Q
    sizes = 0.8 ** np.arange(60)
    matrix = left * sizes @ right.T
    values, axes = main_axes(sparse.csr_matrix(matrix), 10)
    assert values == pytest.approx(sizes[:10], rel=1e-6)
    assert axes @ axes.T == pytest.approx(np.eye(10), abs=1e-9)
    assert np.abs(axes @ right[:, :10]) == pytest.approx(np.eye(10), abs=1e-4)


@pytest.mark.parametrize("rank", [1, 5, 30])
def test_equal_singular_values_are_no_trouble(rank):
    # Every item has one of thirty values of one attribute: thirty singular values, all the same.
    matrix = sparse.csr_matrix(np.tile(np.eye(30, dtype=np.float32), (20, 1)))
    values, axes = main_axes(matrix, rank)
    assert values == pytest.approx(np.sqrt(20))
    assert axes @ axes.T == pytest.approx(np.eye(rank), abs=1e-9)


def test_a_matrix_of_lower_rank_than_asked_for():
    values, axes = main_axes(sparse.csr_matrix(np.outer([1.0, 2.0, 2.0], [3.0, 4.0])), 2)
    assert values == pytest.approx([15, 0], abs=1e-6)
    assert np.abs(axes[0]) == pytest.approx([0.6, 0.8])


def test_two_nights_get_the_same_bits():
    matrix = sparse.random(200, 80, 0.1, format="csr", rng=np.random.default_rng(1), dtype=np.float32)
    assert all(np.array_equal(*pair) for pair in zip(main_axes(matrix, 12), main_axes(matrix, 12)))
