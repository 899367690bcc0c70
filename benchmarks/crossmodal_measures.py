"""What is measured of an item space: search across modalities, and what is left where a modality is missing."""

import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
NEIGHBOURS_AT = 10
BLOCK = 256  # rows sorted at a time, so that places, eight bytes each, are never held of all pairs


def ranks_of(similarity: Array) -> NDArray[np.int64]:
    """The place of answer i for query i among all answers, from 1; ties count against it.

    Args:
        similarity: of each query to each answer, [n, n].
    """
    return np.asarray((similarity >= np.diag(similarity)[:, None]).sum(axis=1))


def measure(similarity: Array, category: NDArray[np.str_]) -> dict[str, float | None]:
    """Recall of the one right answer, its mean reciprocal rank, and mAP by category.

    Args:
        similarity: of each query to each answer, [n, n]; answer i belongs to query i.
        category: of each product, "" where it is not known. For mAP every product of the query's category is right;
            it is of the products with a category, among themselves, and None where they are not of two at least.
    """
    rank = ranks_of(similarity)
    recalls = {f"recall@{k}": float((rank <= k).mean()) for k in (1, 5, 10)}
    return {**recalls, "mrr": float((1 / rank).mean()), "map": _mean_average_precision(similarity, category)}


def _mean_average_precision(similarity: Array, category: NDArray[np.str_]) -> float | None:
    known = np.flatnonzero(category != "")
    kinds, kind = np.unique(category[known], return_inverse=True)
    if len(kinds) < 2:
        return None
    places = np.arange(1, len(known) + 1)
    average_precision = np.zeros(len(known))
    for rows in blocks(len(known)):
        order = np.argsort(-similarity[np.ix_(known[rows], known)], axis=1, kind="stable")
        right = kind[order] == kind[rows, None]
        precision = np.cumsum(right, axis=1) / places
        average_precision[rows] = (precision * right).sum(axis=1) / right.sum(axis=1)
    return float(average_precision.mean())


def most_alike(likeness: Array, k: int) -> NDArray[np.int64]:
    """The k most alike of each row, best first, equal ones in their order; [n, k]."""
    k = min(k, likeness.shape[1])
    unlike = -likeness
    some = np.sort(np.argpartition(unlike, k - 1, axis=1)[:, :k], axis=1)  # in their order, which a stable sort keeps
    values = np.take_along_axis(unlike, some, axis=1)
    best = np.take_along_axis(some, np.argsort(values, axis=1, kind="stable"), axis=1)
    # More than k are as good as the last: which of the equals came among the k is chance.
    tied = (unlike <= values.max(axis=1, keepdims=True)).sum(axis=1) > k
    best[tied] = np.argsort(unlike[tied], axis=1, kind="stable")[:, :k]
    return best


def blocks(n: int) -> Iterator[slice]:
    """Rows 0 to n, BLOCK at a time."""
    return (slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK))


def queries_per_second(queries: Array, answers: Array) -> int:
    """Of exact search for the ten nearest, one query at a time; float32 [n, dim] each."""
    some = queries[:200]
    started = time.perf_counter()
    for query in some:
        np.argpartition(answers @ query, -min(10, len(answers) - 1))
    return round(len(some) / (time.perf_counter() - started))


def neighbours_kept(whole: Array, part: Array) -> float:
    """Share of a whole product's ten nearest that are still among the ten nearest when a modality of it is missing.

    The catalogue stays whole: one product at a time loses a modality.

    Args:
        whole, part: unit norm, float32 [n, dim]: the products with everything, and each without a modality.
    """
    k = min(NEIGHBOURS_AT, len(whole) - 1)
    near = []
    for queries in (whole, part):
        likeness = queries @ whole.T
        np.fill_diagonal(likeness, -np.inf)
        near.append(np.concatenate([most_alike(likeness[rows], k) for rows in blocks(len(whole))]))
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(*near)]))
