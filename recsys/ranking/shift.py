"""feature_shift(): does serving show the ranker what it learned from?

Measured by the population stability index, PSI = Σ (s − t) ln(s / t) over bins, where t and s are the shares of training
and of serving in a bin (Siddiqi 2006, "Credit Risk Scorecards", whose limits of .1 and .25 are a rule of thumb). Of n and
m independent values in b bins it is about (b − 1)(1/n + 1/m) where nothing has shifted (Yurdakul 2018, "Statistical
Properties of Population Stability Index"). Candidates of one request share what is the shopper's: there n and m are
shoppers.
"""

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


def feature_shift(trained: Float32, served: Float32) -> list[FeatureShift]:
    """Every feature's shift, the largest first; equal ones in the order of FEATURES.

    Args:
        trained: float32 [n, len(FEATURES)], what the ranker learned from, or an even draw of it; NaN: missing.
        served: float32 [m, len(FEATURES)], the same of the candidates that it orders.
    Returns:
        One for each of FEATURES; none where either side has no rows, and nothing can be compared.
    """
    if len(trained) == 0 or len(served) == 0:
        return []
    shifts = [_shift_of(name, trained[:, place], served[:, place]) for place, name in enumerate(FEATURES)]
    return sorted(shifts, key=lambda shift: -shift.psi)


def draw_rows(features: Float32, most: int, seed: int) -> Float32:
    """At most so many of the rows, drawn evenly, in their order."""
    if len(features) <= most:
        return features
    return features[np.sort(np.random.default_rng(seed).choice(len(features), most, replace=False, shuffle=False))]


def _shift_of(name: str, trained: Float32, served: Float32) -> FeatureShift:
    edges = _edges(trained)
    t, s = _shares(trained, edges), _shares(served, edges)
    missing = float(t[-1]), float(s[-1])
    t, s = np.maximum(t, LEAST_SHARE), np.maximum(s, LEAST_SHARE)
    return FeatureShift(name, float(((s - t) * np.log(s / t)).sum()), *missing)


def _edges(values: Float32) -> Float64:
    """Where one bin ends and the next begins, ascending: at the tenths of what is known.

    Halfway to the next value, as LightGBM does, so that a value of many that moves a little stays in its bin. One that
    fills a tenth by itself has a bin of its own: of a flag that is nearly always set, the rest would otherwise be in it.
    """
    distinct, counts = np.unique(values[~np.isnan(values)].astype(np.float64), return_counts=True)
    last = np.searchsorted(BINS * counts.cumsum(), np.arange(1, BINS) * counts.sum())  # of each bin, in ``distinct``
    last = np.unique(np.concatenate([last, last[1:][last[1:] == last[:-1]] - 1]))
    last = last[(last >= 0) & (last < len(distinct) - 1)]
    return (distinct[last] + distinct[last + 1]) / 2


def _shares(values: Float32, edges: Float32) -> Float64:
    """The share of ``values`` in each bin, float64 [len(edges) + 2]; the last is what is missing."""
    known = np.sort(values[~np.isnan(values)])
    ends = [0, *np.searchsorted(known, edges, side="right"), len(known), len(values)]
    return np.diff(ends) / len(values)
