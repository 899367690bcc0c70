"""The models that people use today, on one user × item matrix; each returns the best items of each asked user.

Those of ``implicit`` are the library's own; EASE is its closed form. None is tuned here: parameters are the library's
defaults or their papers', and are named.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import linalg, sparse
from threadpoolctl import threadpool_limits

from recsys.histories import Int32

BYTES_PER_PAIR = 20  # of items, that EASE needs; 17 were measured

Scorer = Callable[[sparse.csr_matrix], Int32]


def implicit_model(
    name: str, taken: sparse.csr_matrix, asked: np.ndarray, k: int, threads: int, repeats: bool
) -> Int32:
    """ALS and BPR with 64 factors, cosine and BM25 item-kNN with 100 neighbours, from ``implicit``.

    Args:
        name: "als", "bpr", "cosine" or "bm25".
        taken: users × items, counts.
        asked: users to answer.
        k: items for each.
        threads: of the library.
        repeats: whether an item already taken may be recommended.
    Returns:
        rows int32 [len(asked), k], -1 in an empty place.
    """
    from implicit.als import AlternatingLeastSquares
    from implicit.bpr import BayesianPersonalizedRanking
    from implicit.nearest_neighbours import BM25Recommender, CosineRecommender

    with threadpool_limits(1, "blas"):
        model = {
            "als": lambda: AlternatingLeastSquares(factors=64, random_state=0, num_threads=threads),
            "bpr": lambda: BayesianPersonalizedRanking(factors=64, random_state=0, num_threads=threads),
            "cosine": lambda: CosineRecommender(K=100, num_threads=threads),
            "bm25": lambda: BM25Recommender(K=100, num_threads=threads),
        }[name]()
        model.fit(taken.astype(np.float32), show_progress=False)
        some = min(k, taken.shape[1])  # asked for more than there are, it fills up with item 0
        rows, scores = model.recommend(
            asked, taken[asked].astype(np.float32), N=some, filter_already_liked_items=not repeats
        )
    # implicit fills a short list with items of score 0 (or, filtered, of the lowest float): those are no
    # recommendations.
    out = np.full((len(asked), k), -1, np.int32)
    good = (rows >= 0) & (scores > (0 if name in ("cosine", "bm25") else -1e30))
    out[:, : rows.shape[1]] = np.where(good, rows, -1)
    return out


def ease(taken: sparse.csr_matrix, asked: np.ndarray, k: int, penalty: float, min_buyers: int, repeats: bool) -> Int32:
    """EASE (Steck 2019, arXiv:1905.03375): B = I − P·diag(1/diag P), P = (XᵀX + λI)⁻¹, over items with enough buyers.

    Args:
        taken: users × items; used as 0 and 1.
        asked: users to answer.
        k: items for each.
        penalty: λ.
        min_buyers: an item with fewer is left out: the inverse is dense.
        repeats: whether an item already taken may be recommended.
    Returns:
        rows int32 [len(asked), k], -1 where fewer items score above zero.

    Raises:
        MemoryError: the inverse and what it is made of do not fit what is available.
    """
    out = np.full((len(asked), k), -1, np.int32)
    binary = taken.copy()
    binary.data = np.ones_like(binary.data, dtype=np.float32)
    columns = np.flatnonzero(np.asarray(binary.sum(axis=0)).ravel() >= min_buyers)
    if len(columns) == 0:
        return out
    needed, there = BYTES_PER_PAIR * len(columns) ** 2, available_bytes()
    if needed > there:  # refused here: who runs out of memory is killed, and may take the others along
        raise MemoryError(
            f"{len(columns):,} items need {needed / 2**30:.0f} GiB, there are {there / 2**30:.0f} available"
        )
    small = binary[:, columns].tocsr()
    gram = (small.T @ small).toarray().astype(np.float32)
    gram[np.diag_indices_from(gram)] += penalty
    factor, _ = linalg.lapack.spotrf(gram, lower=False, overwrite_a=True)
    inverse, _ = linalg.lapack.spotri(factor, lower=False, overwrite_c=True)
    inverse = np.triu(inverse) + np.triu(inverse, 1).T
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    for start in range(0, len(asked), 1024):
        mine = small[asked[start : start + 1024]]
        scores = mine @ weights
        if not repeats:
            scores[mine.nonzero()] = -np.inf
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        values = np.take_along_axis(scores, best, axis=1)
        out[start : start + 1024, : best.shape[1]] = np.where(values > 0, columns[best], -1)
    return out


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Memory that this process may take without driving out another; where no kernel says that, all that there is."""
    try:
        said = re.search(r"^MemAvailable:\s*(\d+) kB$", meminfo.read_text(), re.MULTILINE)
    except OSError:  # no Linux
        said = None
    return int(said[1]) * 1024 if said else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def then(first: Int32, second: Int32, k: int) -> Int32:
    """``first``'s items, then ``second``'s that are not among them: rows int32 [q, k]."""
    out = np.full((len(first), k), -1, np.int32)
    for number, (mine, rest) in enumerate(zip(first, second)):
        chosen = list(dict.fromkeys([*mine[mine >= 0].tolist(), *rest[rest >= 0].tolist()]))[:k]
        out[number, : len(chosen)] = chosen
    return out
