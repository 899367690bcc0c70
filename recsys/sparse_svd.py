"""Truncated SVD of a sparse matrix that always ends, and with the same bits."""

import numpy as np
import numpy.typing as npt
from scipy import sparse

OVERSAMPLING = 16  # directions beside the wanted ones, of which the worst are dropped
ROUNDS = 8  # of subspace iteration: each sharpens small gaps between singular values
BLOCK_ROWS = 65_536


def main_axes(
    matrix: sparse.csr_matrix, rank: int, seed: int = 0
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The largest singular values of ``matrix`` [n, m] and their right singular vectors.

    Randomised subspace iteration: exact to rounding where rank + OVERSAMPLING reaches min(n, m), and everywhere near
    enough for likeness. A Lanczos iteration (ARPACK) is sharper, but gives up on matrices with many equal singular
    values, as the declared attributes of a small shop have.

    Args:
        matrix: any sparse one.
        rank: 1 ≤ rank ≤ min(n, m).
        seed: of the random start.
    Returns:
        values float64 [rank], largest first, and axes float64 [rank, m], orthonormal.
    Source: Halko, Martinsson & Tropp 2011, "Finding structure with randomness", algorithm 4.4, on XᵀX.
    """
    wide = min(rank + OVERSAMPLING, *matrix.shape)
    basis = np.random.default_rng(seed).standard_normal((matrix.shape[1], wide))
    for _ in range(ROUNDS):
        basis = np.linalg.qr(_times_gram(matrix, basis)).Q
    squares, turn = np.linalg.eigh(basis.T @ _times_gram(matrix, basis))
    best = np.arange(wide)[::-1][:rank]
    return np.sqrt(np.maximum(squares[best], 0)), (basis @ turn[:, best]).T


def _times_gram(matrix: sparse.csr_matrix, basis: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """XᵀX times ``basis`` [m, d], a block of X's rows at a time."""
    out = np.zeros_like(basis)
    for start in range(0, matrix.shape[0], BLOCK_ROWS):
        block = matrix[start : start + BLOCK_ROWS].astype(np.float64)
        out += block.T @ (block @ basis)
    return out
