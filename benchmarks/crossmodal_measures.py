"""What is measured of an item space: search across modalities, and what is left where a modality is missing."""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
NEIGHBOURS_AT = 10


def ranks_of(similarity: Array) -> NDArray[np.int64]:
    """The place of answer i for query i among all answers, from 1; ties count against it.

    Args:
        similarity: of each query to each answer, [n, n].
    """
    return np.asarray((similarity >= np.diag(similarity)[:, None]).sum(axis=1))


def measure(similarity: Array, category: NDArray[Any]) -> dict[str, float]:
    """Recall of the one right answer, its mean reciprocal rank, and mAP by category.

    Args:
        similarity: of each query to each answer, [n, n]; answer i belongs to query i.
        category: of each product; for mAP every product of the query's category is right.
    """
    rank = ranks_of(similarity)
    order = np.argsort(-similarity, axis=1, kind="stable")
    right = category[order] == category[:, None]
    precision = np.cumsum(right, axis=1) / np.arange(1, len(category) + 1)
    average_precision = (precision * right).sum(axis=1) / right.sum(axis=1)
    recalls = {f"recall@{k}": float((rank <= k).mean()) for k in (1, 5, 10)}
    return {**recalls, "mrr": float((1 / rank).mean()), "map": float(average_precision.mean())}


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
        near.append(np.argsort(-likeness, axis=1, kind="stable")[:, :k])
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(*near)]))
