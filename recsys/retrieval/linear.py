"""The closed-form linear item model: which items, together, predict which.

Counting looks at two items at a time; this inverts the whole item–item matrix, so what two items share with a third is
explained away. One matrix inverse, no training loop, no seed.
"""

from collections.abc import Sequence

import numpy as np
from scipy import linalg, sparse

from recsys.histories import Float32, Int32
from recsys.retrieval.items import ItemTable

BLOCK = 1_024  # rows of a product computed at once


def linear_table(
    shoppers: Int32,
    rows: Int32,
    content: Sequence[tuple[Float32 | sparse.csr_matrix, float]],
    *,
    n_items: int,
    penalty: float,
    max_items: int,
    block_items: int,
    k: int,
) -> ItemTable:
    """EASE with content: B = I − P·diag(1/diag P), P = (XᵀX + Σ α·F·Fᵀ + λI)⁻¹, zero diagonal.

    The content is stacked below the interactions, as if each dimension of it were α shoppers who "took" the items that
    score high in it: an item with few buyers borrows the company of those that resemble it, and one that nobody ever
    bought has links through them alone.

    The inverse is dense, n² memory and n³ time, so one of ``max_items`` holds the items with the most shoppers. The
    rest is cut into blocks of at most ``block_items`` that resemble one another, each with an inverse of its own: time
    grows with the number of items, not with its cube. What that costs: a link between two blocks is not found here, but
    by the tables that count.

    Args:
        shoppers, rows: int32 [m], who took what; repeats count once.
        content: (F, α) pairs: F [n, d], unit norm or zero rows, dense ones are centred; α in shoppers, 0 leaves it out.
        n_items: n.
        penalty: λ, in shoppers.
        max_items: size of the first inverse: 4,000 need 60 MiB and a second or two of one core, 16,000 need 1 GiB and
            forty.
        block_items: of the others; 0 leaves the rest without links.
        k: neighbours kept of each item, the largest positive weights.
    Returns:
        Row j holds B[j, ·]: what having j says about every other item.
    Source: Steck 2019, arXiv:1905.03375; side information stacked as in Jeunen et al. 2020 (CEASE).
    """
    used = [(vectors, weight) for vectors, weight in content if weight > 0]
    pairs = np.unique(shoppers.astype(np.int64) * n_items + rows)
    who, what = np.divmod(pairs, n_items)
    buyers = np.bincount(what, minlength=n_items)
    # With one shopper and no content, an item's column is that shopper's history and nothing is learned.
    teaches = buyers >= 2
    for vectors, _ in used:
        teaches |= np.asarray(abs(vectors).sum(axis=1)).ravel() > 0
    ranked = np.argsort(-buyers, kind="stable")
    ranked = ranked[teaches[ranked]]
    blocks = [np.sort(ranked[:max_items])]
    if block_items:
        dense = next((vectors for vectors, _ in used if isinstance(vectors, np.ndarray)), None)
        blocks += _alike(np.sort(ranked[max_items:]), dense, block_items)
    shape = (int(who.max(initial=-1)) + 1, n_items)
    taken = sparse.csr_matrix((np.ones(len(what), np.float32), (who, what)), shape=shape).tocsc()
    neighbours = np.full((n_items, k), -1, np.int32)
    values = np.zeros((n_items, k), np.float32)
    width = 1
    for chosen in blocks:
        if len(chosen) < 2:
            continue
        mine = taken[:, chosen]
        gram = (mine.T @ mine).toarray()
        for vectors, weight in used:
            _add_likeness(gram, vectors[chosen], weight)
        gram[np.diag_indices_from(gram)] += penalty
        width = max(width, _keep_heaviest(_zero_diagonal_weights(gram), chosen, neighbours, values))
    return ItemTable(neighbours[:, :width], values[:, :width])


def _alike(rows: np.ndarray, vectors: Float32 | None, most: int) -> list[np.ndarray]:
    """``rows`` in parts of at most ``most``, halved again and again along the axis in which they differ most."""
    if len(rows) <= most:
        return [rows] if len(rows) else []
    half = len(rows) // 2
    if vectors is None:
        return _alike(rows[:half], None, most) + _alike(rows[half:], None, most)
    centred = vectors[rows] - vectors[rows].mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    order = np.argsort(centred @ axes[:, -1], kind="stable")
    return [part for side in (order[:half], order[half:]) for part in _alike(np.sort(rows[side]), vectors, most)]


def _add_likeness(gram: Float32, vectors: Float32 | sparse.csr_matrix, weight: float) -> None:
    """gram += weight · F·Fᵀ, in place; dense vectors are centred first, so that what all share counts for nothing."""
    if isinstance(vectors, np.ndarray):
        present = np.linalg.norm(vectors, axis=1) > 0
        if not present.any():
            return
        vectors = np.where(present[:, None], vectors - vectors[present].mean(axis=0), 0)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    for start in range(0, len(gram), BLOCK):
        block = vectors[start : start + BLOCK] @ vectors.T
        gram[start : start + BLOCK] += np.float32(weight) * (
            block if isinstance(block, np.ndarray) else block.toarray()
        )


def _zero_diagonal_weights(gram: Float32) -> Float32:
    """B of a symmetric positive definite matrix, in its place: nothing else of its size is made."""
    # Transposed, a symmetric matrix is itself in the order of columns that LAPACK overwrites.
    factor, failed = linalg.lapack.spotrf(gram.T, lower=False, overwrite_a=True)
    if failed:
        raise ValueError(f"expected a positive definite matrix; raise the penalty (LAPACK spotrf: {failed})")
    inverse, _ = linalg.lapack.spotri(factor, lower=False, overwrite_c=True)
    scale = -np.diag(inverse)
    for start in range(0, len(inverse), BLOCK):  # only the upper half was written: mirror it
        stop = min(start + BLOCK, len(inverse))
        square = np.triu(inverse[start:stop, start:stop])
        inverse[start:stop, start:stop] = square + np.triu(square, 1).T
        inverse[stop:, start:stop] = inverse[start:stop, stop:].T
    weights: Float32 = inverse.T  # the same, in the order of rows again
    weights /= scale
    np.fill_diagonal(weights, 0)
    return weights


def _keep_heaviest(weights: Float32, chosen: np.ndarray, neighbours: Int32, values: Float32) -> int:
    """Write the largest positive weights of each row, by rows of the catalogue; returns how many columns are in use."""
    k = min(neighbours.shape[1], len(chosen) - 1)
    for start in range(0, len(chosen), BLOCK):
        block = weights[start : start + BLOCK]
        best = np.argpartition(-block, k - 1, axis=1)[:, :k]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(block, best, 1), axis=1, kind="stable"), 1)
        found = np.take_along_axis(block, best, axis=1)
        mine = chosen[start : start + BLOCK]
        neighbours[mine, :k] = np.where(found > 0, chosen[best], -1)
        values[mine, :k] = np.maximum(found, 0)
    return int(k)
