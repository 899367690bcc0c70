"""The closed-form linear item model: which items, together, predict which.

Counting looks at two items at a time; this inverts the whole item–item matrix, so what two items share with a third is
explained away. One matrix inverse, no training loop, no seed.
"""

import numpy as np
from scipy import linalg, sparse

from recsys.histories import Float32, Int32
from recsys.retrieval.items import ItemTable, empty_table


def linear_table(
    shoppers: Int32,
    rows: Int32,
    content: Float32,
    *,
    penalty: float,
    content_weight: float,
    max_items: int,
    k: int,
) -> ItemTable:
    """EASE with content: B = I − P·diag(1/diag P), P = (XᵀX + α·F·Fᵀ + λI)⁻¹, zero diagonal.

    The content is stacked below the interactions, as if each dimension of the embedding were α shoppers who "took" the
    items that score high in it: an item with few buyers borrows the company of those that resemble it.

    The inverse is dense, n² memory and n³ time, so only the ``max_items`` items with the most shoppers are in it. The
    rest have no neighbours here and rely on the other tables; what that costs grows with the share of the events that
    they have.

    Args:
        shoppers, rows: int32 [m], who took what; repeats count once.
        content: float32 [n, d], unit norm or zero.
        penalty: λ, in shoppers.
        content_weight: α, in shoppers; 0 is plain EASE.
        max_items: size of the inverse: 6,000 need about 150 MiB and 5 s on one core.
        k: neighbours kept of each item, the largest positive weights.
    Returns:
        Row j holds B[j, ·]: what having j says about every other item.
    Source: Steck 2019, arXiv:1905.03375; side information stacked as in Jeunen et al. 2020 (CEASE).
    """
    n_items = len(content)
    pairs = np.unique(shoppers.astype(np.int64) * n_items + rows)
    who, what = np.divmod(pairs, n_items)
    buyers = np.bincount(what, minlength=n_items)
    # At least two shoppers: with one, an item's column is that shopper's history and nothing is learned.
    ranked = np.argsort(-buyers, kind="stable")[:max_items]
    chosen = np.sort(ranked[buyers[ranked] >= 2])
    if len(chosen) < 2:
        return empty_table(n_items)
    small = np.full(n_items, -1)
    small[chosen] = np.arange(len(chosen))
    kept = small[what] >= 0
    _, users = np.unique(who[kept], return_inverse=True)
    taken = sparse.csr_matrix((np.ones(kept.sum(), np.float32), (users, small[what[kept]])))
    gram = (taken.T @ taken).toarray()
    if content_weight > 0:
        centred = content[chosen] - content[chosen].mean(axis=0)
        centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
        gram += np.float32(content_weight) * (centred @ centred.T)
    gram[np.diag_indices_from(gram)] += penalty
    weights = _zero_diagonal_weights(gram)
    return _heaviest(weights, chosen, n_items, k)


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
    for start in range(0, len(chosen), 1024):
        block = weights[start : start + 1024]
        best = np.argpartition(-block, k - 1, axis=1)[:, :k]
        best = np.take_along_axis(best, np.argsort(-np.take_along_axis(block, best, 1), axis=1, kind="stable"), 1)
        found = np.take_along_axis(block, best, axis=1)
        mine = chosen[start : start + 1024]
        neighbours[mine] = np.where(found > 0, chosen[best], -1)
        values[mine] = np.maximum(found, 0)
    return ItemTable(neighbours, values)
