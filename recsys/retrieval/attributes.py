"""Likeness by declared attributes: who shares a rare trait is closer than who shares a common one."""

import numpy as np
from scipy import sparse

from recsys.histories import Float32, Int32
from recsys.retrieval.items import ItemTable, empty_table, top_of_product
from recsys.sparse_svd import main_axes

MAX_HOLDERS = 200  # an attribute of more items than this brings no neighbours: everything shares it


def attribute_vectors(codes: Int32) -> sparse.csr_matrix:
    """TF-IDF of attributes, unit norm: weight ln(n / holders) where an item has it (Spärck Jones 1972).

    Args:
        codes: int32 [n, a], each item's distinct attribute codes, -1 beyond its own.
    Returns:
        float32 [n, vocabulary]; a zero row for an item without attributes.
    """
    n_items = len(codes)
    rows, places = np.nonzero(codes >= 0)
    columns = codes[rows, places]
    holders = np.bincount(columns, minlength=1)
    idf = np.log(n_items / np.maximum(holders, 1)).astype(np.float32)
    vectors = sparse.csr_matrix((idf[columns], (rows, columns)), shape=(n_items, len(holders)), dtype=np.float32)
    norms = np.sqrt(np.asarray(vectors.multiply(vectors).sum(axis=1)).ravel())
    scaled = sparse.csr_matrix(sparse.diags(1 / np.maximum(norms, 1e-9)) @ vectors)
    scaled.sort_indices()  # scipy would do it in place at some later use, and the bits of products depend on it
    return scaled


def attribute_table(vectors: sparse.csr_matrix, k: int) -> ItemTable:
    """Each item's ``k`` nearest by cosine of ``vectors``; only attributes of few items bring anybody."""
    n_items = vectors.shape[0]
    holders = np.diff(vectors.tocsc().indptr)
    telling = vectors[:, np.flatnonzero(holders <= MAX_HOLDERS)].tocsr()
    if telling.nnz == 0:
        return empty_table(n_items)
    return top_of_product(telling, telling.T.tocsr(), k, lambda _row, _column, cosine: cosine)


def attribute_space(vectors: sparse.csr_matrix, dim: int) -> np.ndarray:
    """``vectors`` on their ``dim`` main axes (truncated SVD), unit norm, float16 [n, dim]: cosine for any two items."""
    n_items, vocabulary = vectors.shape
    out = np.zeros((n_items, dim), np.float16)
    rank = min(dim, n_items - 1, vocabulary - 1)
    if rank < 1 or vectors.nnz == 0:
        return out
    _, axes = main_axes(vectors, rank)
    reduced: Float32 = np.asarray(vectors @ axes.T, np.float32)
    norms = np.linalg.norm(reduced, axis=1, keepdims=True)
    out[:, :rank] = reduced / np.maximum(norms, 1e-9)
    out[np.diff(vectors.indptr) == 0] = 0
    return out
