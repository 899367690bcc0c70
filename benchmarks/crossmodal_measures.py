"""What is measured of an item space: search across modalities, and what is left where a modality is missing."""

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
NEIGHBOURS_AT = 10


def ranks_of(queries: Array, answers: Array) -> NDArray[np.int64]:
    """The place of answer i for query i among all answers, from 1; ties count against it.

    Args:
        queries, answers: unit norm, float32 [n, dim].
    """
    similarity = queries @ answers.T
    return np.asarray((similarity >= np.diag(similarity)[:, None]).sum(axis=1))


def measure(queries: Array, answers: Array, category: NDArray[Any]) -> dict[str, float]:
    """Recall of the one right answer, its mean reciprocal rank, mAP by category, and exact queries a second.

    Args:
        queries, answers: unit norm, float32 [n, dim], row i of one belongs to row i of the other.
        category: of each product; for mAP every product of the query's category is right.
    """
    rank = ranks_of(queries, answers)
    order = np.argsort(-(queries @ answers.T), axis=1, kind="stable")
    right = category[order] == category[:, None]
    precision = np.cumsum(right, axis=1) / np.arange(1, len(answers) + 1)
    average_precision = (precision * right).sum(axis=1) / right.sum(axis=1)
    n_queries = min(200, len(queries))
    started = time.perf_counter()
    for query in queries[:n_queries]:
        np.argpartition(answers @ query, -min(10, len(answers) - 1))
    seconds = time.perf_counter() - started
    recalls = {f"recall@{k}": float((rank <= k).mean()) for k in (1, 5, 10)}
    return {
        **recalls,
        "mrr": float((1 / rank).mean()),
        "map": float(average_precision.mean()),
        "queries_per_s": round(n_queries / seconds),
    }


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
