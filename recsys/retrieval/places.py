"""Who stands where in a list of scores."""

from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.histories import Float32, Int64

RRF = 20  # of reciprocal rank fusion, 1 / (RRF + rank): the larger, the less the first places stand out
BEST = 20  # candidates that stand in for answers


def rank_within(group: npt.NDArray[np.integer[Any]], scores: npt.NDArray[Any]) -> Float32:
    """1 for a group's highest score, 2 for the next; NaN stays NaN; equal scores in the order given."""
    known = np.flatnonzero(~np.isnan(scores))
    order = known[np.lexsort((-scores[known], group[known]))]
    grouped = group[order]
    starts = np.flatnonzero(np.concatenate([[True], grouped[1:] != grouped[:-1]])) if len(order) else order
    lengths = np.diff(np.append(starts, len(order)))
    ranks = np.full(len(scores), np.nan, np.float32)
    ranks[order] = np.arange(len(order)) - np.repeat(starts, lengths) + 1
    return ranks


def ranks_among_new(costs: Float32, known: npt.NDArray[np.bool_]) -> Float32:
    """1 + how many that are not ``known`` [c] cost less, in each row of ``costs`` [s, c]; of equals the first."""
    order = np.argsort(costs, axis=1, kind="stable")
    counts = ~known[order]
    ranks = np.empty_like(costs)
    np.put_along_axis(ranks, order, (counts.cumsum(axis=1) - counts + 1).astype(np.float32), axis=1)
    return ranks


def best_of_new(fused: Float32, fresh: npt.NDArray[np.bool_]) -> tuple[Int64, Float32]:
    """The first places of the fused order among the ``fresh`` [c], and what each counts: 1 / (RRF + those before it),
    scaled to sum 1.

    They stand in for answers that nobody has given yet: pseudo-relevance feedback (Rocchio 1971).
    """
    order = np.argsort(-fused, kind="stable")
    best = order[fresh[order]][:BEST]
    weights: Float32 = np.float32(1) / np.arange(RRF, RRF + len(best), dtype=np.float32)
    weights /= max(float(weights.sum()), 1e-9)
    return best, weights
