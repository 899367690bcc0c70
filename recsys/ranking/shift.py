"""feature_shift(): does serving show the ranker what it learned from?

Measured by the population stability index, PSI = Σ (s − t) ln(s / t) over bins, where t and s are the shares of
training and of serving in a bin (Siddiqi 2006, "Credit Risk Scorecards"; .1 and .25 are a rule of thumb). Where nothing
has shifted, that of n and m independent values in b bins is about (b − 1)(1/n + 1/m) (Yurdakul 2018, "Statistical
Properties of Population Stability Index"). Candidates of one request share what is the shopper's: there n and m are
shoppers.

Serving is compared with each moment that the ranker learned from, and the median counts. With all of them together a
feature such as sales_share_7d would look shifted in any small shop: what sold once, twice, … has a few values at each
moment, and those of another moment lie between them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.histories import Float32, Float64
from recsys.ranking.features import FEATURES

BINS = 10  # of what is known; what is missing has one more
LEAST_SHARE = 1e-4  # what an empty bin counts as, since ln 0 is infinite


@dataclass(frozen=True)
class FeatureShift:
    """How one feature differs between training and serving.

    Attributes:
        feature: one of FEATURES.
        psi: population stability index, 0 where both are distributed alike.
        missing_in_training, missing_in_serving: share of NaN.
    """

    feature: str
    psi: float
    missing_in_training: float
    missing_in_serving: float


def feature_shift(trained: Sequence[Float32], served: Float32) -> list[FeatureShift]:
    """Every feature's shift, the largest first; equal ones in the order of FEATURES.

    Args:
        trained: float32 [n, len(FEATURES)] of each moment that the ranker learned from, or an even draw; NaN: missing.
        served: float32 [m, len(FEATURES)], the same of the candidates that it orders.
    Returns:
        One for each of FEATURES; none where either side has no rows, and nothing can be compared.
    """
    moments = [np.sort(part, axis=0) for part in trained if len(part)]  # NaN last
    if not moments or len(served) == 0:
        return []
    served = np.sort(served, axis=0)
    shifts = [
        _shift_of(name, [part[:, place] for part in moments], served[:, place]) for place, name in enumerate(FEATURES)
    ]
    return sorted(shifts, key=lambda shift: -shift.psi)


def draw_rows(features: Float32, most: int, seed: int) -> Float32:
    """At most so many of the rows, drawn evenly, in their order."""
    if len(features) <= most:
        return features
    return features[np.sort(np.random.default_rng(seed).choice(len(features), most, replace=False, shuffle=False))]


def _shift_of(name: str, moments: Sequence[Float32], served: Float32) -> FeatureShift:
    """Of one feature; all values ascending, NaN last."""
    indexes, missing = [], []
    for trained in moments:
        edges = _edges(trained)
        t, s = _shares(trained, edges), _shares(served, edges)
        missing.append((t[-1], s[-1]))
        t, s = np.maximum(t, LEAST_SHARE), np.maximum(s, LEAST_SHARE)
        indexes.append(((s - t) * np.log(s / t)).sum())
    in_training, in_serving = np.mean(missing, axis=0).tolist()
    return FeatureShift(name, float(np.median(indexes)), in_training, in_serving)


def _edges(values: Float32) -> Float64:
    """Where one bin ends and the next begins, ascending: at the tenths of what is known.

    Halfway to the next value, as LightGBM does, so that one that moves a little stays in its bin. A value that two
    tenths end with has a bin of its own: the rare zeros of a flag would otherwise be in one with its ones.
    """
    distinct, counts = np.unique(values[~np.isnan(values)].astype(np.float64), return_counts=True)
    last = np.searchsorted(BINS * counts.cumsum(), np.arange(1, BINS) * counts.sum())  # of each bin, in ``distinct``
    last = np.unique(np.concatenate([last, last[1:][last[1:] == last[:-1]] - 1]))
    last = last[(last >= 0) & (last < len(distinct) - 1)]
    edges: Float64 = (distinct[last] + distinct[last + 1]) / 2
    return edges


def _shares(ordered: Float32, edges: Float64) -> Float64:
    """The share of the values in each bin, float64 [len(edges) + 2]; the last is what is missing."""
    n_known = len(ordered) - np.count_nonzero(np.isnan(ordered))
    ends = [0, *np.searchsorted(ordered[:n_known], edges, side="right"), n_known, len(ordered)]
    return np.diff(ends) / len(ordered)
