"""Hubs: items that lie near to whatever is asked, and would stand first where they should not.

In a space of many dimensions a few points are among the nearest of far too many others (Radovanović et al. 2010). How
near an item lies to what is asked at all is measured on a bank of questions whose vectors are known, and half of it is
taken off its likeness to any one question: cross-domain similarity local scaling (CSLS, Conneau et al. 2018,
arXiv:1710.04087). The asked one's own share of that formula is the same for every item, so it is left out.
"""

import numpy as np
from numpy.typing import NDArray

BANK = 2_000  # questions kept; half as many measured worse, and more of them no better
NEAREST = 10  # of the bank, whose mean likeness counts
SHARE = 0.5  # of the hubness that is taken off a likeness
CHUNK = 4_096  # items at once: bounds memory, not the result


def hubness(items: NDArray[np.float32], asked: NDArray[np.float32]) -> NDArray[np.float32]:
    """How near each item lies to what is asked at all: mean inner product with its NEAREST of the bank.

    Args:
        items: unit norm or zero, float32 [n, d].
        asked: the bank, unit norm, float32 [b, d]; an empty one finds no hubs.

    Returns:
        float32 [n], 0 for an item without a vector.
    """
    found = np.zeros(len(items), np.float32)
    k = min(NEAREST, len(asked))
    for start in range(0, len(items) if k else 0, CHUNK):
        likeness = np.asarray(items[start : start + CHUNK], np.float32) @ asked.T
        found[start : start + CHUNK] = np.partition(likeness, len(asked) - k, axis=1)[:, len(asked) - k :].mean(axis=1)
    return found
