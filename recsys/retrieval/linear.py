"""The closed-form linear item model: which items, together, predict which.

Counting looks at two items at a time; this inverts the whole item–item matrix, so what two items share with a third is
explained away. One matrix inverse, no training loop, no seed.
"""

from collections.abc import Sequence

import numpy as np
from scipy import linalg, sparse

from recsys.histories import Float32, Int32
from recsys.retrieval.items import ItemTable, empty_table

BLOCK = 1_024  # rows of a product computed at once


def linear_table(
    shoppers: Int32,
    rows: Int32,
    content: Sequence[tuple[Float32 | sparse.csr_matrix, float]],
    *,
    n_items: int,
    penalty: float,
    max_items: int,
    k: int,
) -> ItemTable:
    """EASE with content: B = I − P·diag(1/diag P), P = (XᵀX + Σ α·F·Fᵀ + λI)⁻¹, zero diagonal.

    The content is stacked below the interactions, as if each dimension of it were α shoppers who "took" the items that
    score high in it: an item with few buyers borrows the company of those that resemble it, and one that nobody ever
    bought has links through them alone.

    The inverse is dense, n² memory and n³ time, so only the ``max_items`` items with the most shoppers are in it. The
    rest have no neighbours here and rely on the other tables; what that costs grows with the share of the events that
    they have.

    Args:
        shoppers, rows: int32 [m], who took what; repeats count once.
        content: (F, α) pairs: F [n, d], unit norm or zero rows, dense ones are centred; α in shoppers, 0 leaves it out.
        n_items: n.
        penalty: λ, in shoppers.
        max_items: size of the inverse: 6,000 need about 150 MiB and 5 s on one core.
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
    chosen = np.sort(ranked[teaches[ranked]][:max_items])
    if len(chosen) < 2:
        return empty_table(n_items)
    small = np.full(n_items, -1)
    small[chosen] = np.arange(len(chosen))
    kept = small[what] >= 0
    _, users = np.unique(who[kept], return_inverse=True)
    shape = (int(users.max(initial=-1)) + 1, len(chosen))
    taken = sparse.csr_matrix((np.ones(kept.sum(), np.float32), (users, small[what[kept]])), shape=shape)
    gram = (taken.T @ taken).toarray()
    for vectors, weight in used:
        _add_likeness(gram, vectors[chosen], weight)
    gram[np.diag_indices_from(gram)] += penalty
    weights = _zero_diagonal_weights(gram)
    return _heaviest(weights, chosen, n_items, k)


def _add_likeness(gram: Float32, vectors: Float32 | sparse.csr_matrix, weight: float) -> None:
    """gram += weight · F·Fᵀ, in place; dense vectors are centred first, so that what all share counts for nothing."""
    if isinstance(vectors, np.ndarray):
        present = np.linalg.norm(vectors, axis=1) > 0
        vectors = np.where(present[:, None], vectors - vectors[present].mean(axis=0), 0)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    for start in range(0, len(gram), BLOCK):
        block = vectors[start : start + BLOCK] @ vectors.T
        gram[start : start + BLOCK] += np.float32(weight) * (
            block if isinstance(block, np.ndarray) else block.toarray()
        )


def _zero_diagonal_weights(gram: Float32) -> Float32:
    """B of a symmetric positive definite matrix, which is overwritten."""
    factor, failed = linalg.lapack.spotrf(gram, lower=False, overwrite_a=True)
    if failed:
        raise ValueError(f"expected a positive definite matrix; raise the penalty (LAPACK spotrf: {failed})")
    inverse, _ = linalg.lapack.spotri(factor, lower=False, overwrite_c=True)
    upper = np.triu(inverse, 1)
    weights: Float32 = upper + upper.T
    weights /= -np.diag(inverse)
    return weights


def _heaviest(weights: Float32, chosen: np.ndarray, n_items: int, k: int) -> ItemTable:
    """The ``k`` largest positive weights of each row, by rows of the catalogue instead of the small matrix."""
    k = min(k, len(chosen) - 1)
    neighbours = np.full((n_items, k), -1, np.int32)
    values = np.zeros((n_items, k), np.float32)
    for start in range(0, len(chosen), BLOCK):
        block = weights[start : start + BLOCK]
        best = np.argpartition(-block, k - 1, axis=1)[:, :k]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(block, best, 1), axis=1, kind="stable"), 1)
        found = np.take_along_axis(block, best, axis=1)
        mine = chosen[start : start + BLOCK]
        neighbours[mine] = np.where(found > 0, chosen[best], -1)
        values[mine] = np.maximum(found, 0)
    return ItemTable(neighbours, values)
