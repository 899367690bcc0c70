"""What may be shown, and which of it is: the rules after the ranker."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from recsys.histories import Float32, Int32


def select(
    rows: Int32, scores: Float32, forbidden: Iterable[int], available: npt.NDArray[np.bool_], limit: int
) -> npt.NDArray[np.int64]:
    """Positions of the best ``limit`` candidates that may be shown, best first.

    Args:
        rows: int32 [c], distinct.
        scores: float32 [c]; a score that is not finite ranks last.
        forbidden: rows that this request excludes.
        available: bool [n], in stock and not deleted.
        limit: at most this many.
    Returns:
        int64 [≤ limit], positions in ``rows``; equal scores in the order given.
    """
    allowed = available[rows]
    banned = np.fromiter(forbidden, np.int32)
    if len(banned):
        allowed &= ~np.isin(rows, banned)
    positions = np.flatnonzero(allowed)
    worth = np.where(np.isfinite(scores[positions]), scores[positions], -np.inf)
    return positions[np.argsort(-worth, kind="stable")[:limit]]


def fill(
    chosen: list[int],
    preferences: Iterable[Int32],
    forbidden: set[int],
    available: npt.NDArray[np.bool_],
    limit: int,
) -> list[int]:
    """Rows to add so that the slate is full: the first allowed ones of each preference list in turn.

    ``chosen`` and ``forbidden`` are never repeated.
    """
    taken = forbidden | set(chosen)
    added: list[int] = []
    for rows in preferences:
        for start in range(0, len(rows), 256):
            if len(chosen) + len(added) >= limit:
                return added
            block = rows[start : start + 256]
            for row in block[available[block]].tolist():
                if row not in taken and len(chosen) + len(added) < limit:
                    taken.add(row)
                    added.append(row)
    return added
