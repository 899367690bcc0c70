"""Is B better than A? Both answered the same requests, so each user is compared with himself (paired bootstrap)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recsys.errors import SchemaError

BETTER, WORSE, NO_DIFFERENCE = "better", "worse", "no difference shown"

# With five users who differ, all on one side, a sign test still gives p = 2 / 2⁵ > .05: too few to speak of.
MIN_DIFFERING = 6
DRAWS_AT_ONCE = 2_000_000  # 16 MiB of weights at a time


@dataclass(frozen=True)
class Comparison:
    """One metric of B against A over the same users.

    Attributes:
        mean_a: mean over the users, as ``mean_b``.
        difference: ``mean_b − mean_a``.
        lift: ``difference / mean_a``; None where ``mean_a`` is zero.
        low: lower end of the bootstrap interval of ``difference``, as ``high`` its upper end.
        lift_low: lower end of the interval of ``lift``, as ``lift_high`` its upper end; None where A has so little that
            its mean is zero in some draw.
        confidence: of these intervals, in (0, 1).
        n: users compared: those for whom the metric is defined under both.
        share_better: share of them for whom B is above A, as ``share_worse`` below; the rest are equal.
    """

    mean_a: float
    mean_b: float
    difference: float
    lift: float | None
    low: float
    high: float
    lift_low: float | None
    lift_high: float | None
    confidence: float
    n: int
    share_better: float
    share_worse: float

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` where the interval leaves zero out, else ``no difference shown``."""
        if round((self.share_better + self.share_worse) * self.n) < MIN_DIFFERING:
            return NO_DIFFERENCE
        if self.low > 0:
            return BETTER
        return WORSE if self.high < 0 else NO_DIFFERENCE

    @property
    def too_few(self) -> bool:
        """So few users that their intervals say nothing: of a single one, every draw is that one."""
        return self.n < MIN_DIFFERING

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the verdict with them; no intervals of too few users."""
        intervals = dict.fromkeys(("low", "high", "lift_low", "lift_high")) if self.too_few else {}
        return asdict(self) | intervals | {"verdict": self.verdict}


def compare(
    a: ArrayLike, b: ArrayLike, *, seed: int = 0, resamples: int = 2000, confidence: float = 0.95
) -> Comparison:
    """Compare one metric, user by user; see :func:`compare_all`.

    >>> rng = np.random.default_rng(0)
    >>> a = rng.random(1000)
    >>> comparison = compare(a, a + rng.normal(0.05, 0.1, 1000))
    >>> comparison.verdict, round(comparison.difference, 2), comparison.low < 0.05 < comparison.high
    ('better', 0.05, True)
    """
    values = {"metric": np.asarray(a)}, {"metric": np.asarray(b)}
    return compare_all(*values, seed=seed, resamples=resamples, confidence=confidence)["metric"]


def compare_all(
    a: Mapping[str, NDArray[Any]],
    b: Mapping[str, NDArray[Any]],
    *,
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> dict[str, Comparison]:
    """Compare every metric of two policies by the paired percentile bootstrap over users.

    Users are drawn with replacement, n of n, ``resamples`` times; the interval lies between the quantiles
    ``(1 ∓ confidence) / 2`` of the mean difference. That of the lift lies between those of the draws' own lifts, since
    the mean of A is as uncertain as the difference. All metrics see the same draws, so a metric's intervals do not
    depend (but for rounding) on which others stand beside it. A NaN (a metric not defined for a slate) takes that user
    out of that metric.

    Args:
        a: metric → per-user values, float [n], the same users in the same order throughout; the policy in place.
        b: the same metrics of the other policy.
        seed: of the draws; the same input and seed give the same interval.
        resamples: how many draws.
        confidence: of the intervals.

    Raises:
        SchemaError: the metrics or the numbers of users differ, a metric has no user at all, a value is infinite.

    Source: Efron and Tibshirani 1993, *An Introduction to the Bootstrap*, §13.3.
    """
    n = _check(a, b, resamples, confidence)
    names = list(a)
    values_a, values_b = (np.column_stack([np.asarray(of[name], np.float64) for name in names]) for of in (a, b))
    differences = values_b - values_a
    defined = ~np.isnan(differences)
    for column, name in enumerate(names):
        if not defined[:, column].any():
            raise SchemaError(f"{name}: expected a value for some user under both policies, came none among {n}")
    means, lifts = _resample(differences, values_a, defined, np.random.default_rng(seed), resamples)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    comparisons = {}
    for column, name in enumerate(names):
        used = defined[:, column]
        difference = differences[used, column]
        mean_a = float(values_a[used, column].mean())
        drawn = ~np.isnan(means[:, column])
        low, high = np.quantile(means[drawn, column], tails).tolist()
        lift_low, lift_high = None, None
        if np.isfinite(lifts[drawn, column]).all():
            lift_low, lift_high = np.quantile(lifts[drawn, column], tails).tolist()
        comparisons[name] = Comparison(
            mean_a=mean_a,
            mean_b=float(values_b[used, column].mean()),
            difference=float(difference.mean()),
            lift=float(difference.mean()) / mean_a if mean_a != 0 else None,
            low=low,
            high=high,
            lift_low=lift_low,
            lift_high=lift_high,
            confidence=confidence,
            n=int(used.sum()),
            share_better=float((difference > 0).mean()),
            share_worse=float((difference < 0).mean()),
        )
    return comparisons


def _resample(
    differences: NDArray[np.float64],
    values_a: NDArray[np.float64],
    defined: NDArray[np.bool_],
    rng: np.random.Generator,
    resamples: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean difference and lift of each metric in each draw, float64 [resamples, metrics]; not finite over nothing.

    A draw is how often each user was drawn, so all metrics of many draws are one matrix product.
    """
    differences, values_a = (np.where(defined, values, 0) for values in (differences, values_a))
    n = len(differences)
    complete = bool(defined.all())
    at_once = max(1, DRAWS_AT_ONCE // n)
    means, lifts = np.empty((2, resamples, differences.shape[1]))
    for start in range(0, resamples, at_once):
        size = min(at_once, resamples - start)
        drawn = rng.integers(0, n, size=(size, n), dtype=np.int32)
        drawn += (np.arange(size, dtype=np.int32) * n)[:, None]  # a range of counters for each draw
        times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
        users = n if complete else times @ defined
        sums, sums_a = times @ differences, times @ values_a
        with np.errstate(invalid="ignore", divide="ignore"):
            means[start : start + size] = sums / users  # NaN without any user of a rare metric: left out above
            lifts[start : start + size] = sums / sums_a
    return means, lifts


def _check(a: Mapping[str, NDArray[Any]], b: Mapping[str, NDArray[Any]], resamples: int, confidence: float) -> int:
    if list(a) != list(b) or not a:
        raise SchemaError(f"metrics: expected the same ones of both policies, came {list(a)} and {list(b)}")
    shapes = {f"{name} of {policy}": np.shape(values[name]) for policy, values in (("A", a), ("B", b)) for name in a}
    n = next(iter(shapes.values()))
    if len(n) != 1 or n[0] == 0 or set(shapes.values()) != {n}:
        raise SchemaError(f"metrics: expected one value for each of the same users, came {shapes}")
    for policy, values in (("A", a), ("B", b)):
        for name in a:
            if np.isinf(values[name]).any():
                raise SchemaError(f"{name} of {policy}: expected finite values, came an infinite one")
    if resamples < 1 or not 0 < confidence < 1:
        raise SchemaError(
            f"expected at least 1 resample and a confidence between 0 and 1, came {resamples} and {confidence}"
        )
    return int(n[0])
