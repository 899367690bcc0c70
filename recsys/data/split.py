"""Which days fit, which train the ranker, which test: by time, never at random."""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt

from recsys.errors import ConfigError, require_at_least

ENOUGH = 500  # purchases that a window should hold, so that there is something to learn and to judge
ENOUGH_TO_RANK = 6_000  # the same of all label windows together; past these, a ranker learns little more from them
MOST_CUTS = 8  # each costs one more fit, and goes one more window back


@dataclass(frozen=True)
class SplitConfig:
    """How the log is cut.

    Attributes:
        window_days: length of each label window and of the test window; 0 chooses: a twelfth of the log, whole days, at
            least one and at most seven, and a quarter of a log shorter than four days; but longer, up to an eighth of
            the log, where fewer than ENOUGH purchases would fall into it.
        cuts: label windows for the ranker, each just before the next; fewer where the log is short. 0 chooses: three,
            and up to MOST_CUTS where three hold fewer than ENOUGH_TO_RANK purchases.
    """

    window_days: float = 0.0
    cuts: int = 0

    def __post_init__(self) -> None:
        require_at_least("split", self, window_days=0, cuts=0)


@dataclass(frozen=True)
class Split:
    """Moments, UTC. Whoever is judged or trained on a window was fitted on events before its start.

    Attributes:
        first, end: of the log; ``end`` is just after the last event given.
        window: length of every window.
        test_start: the test window is [test_start, end).
        cuts: starts of the ranker's label windows, oldest first, each [cut, cut + window).
    """

    first: datetime
    end: datetime
    window: timedelta
    test_start: datetime
    cuts: tuple[datetime, ...]

    @property
    def windows(self) -> list[tuple[datetime, datetime]]:
        """(start, end) of each label window, oldest first."""
        return [(cut, cut + self.window) for cut in self.cuts]


def temporal_split(
    first: datetime,
    last: datetime,
    config: SplitConfig,
    *,
    test_windows: int = 1,
    targets_days: npt.NDArray[np.float64] | None = None,
) -> Split:
    """Cut [first, last] into fit | rank | test.

    Args:
        first: time of the oldest event, UTC.
        last: time of the newest event that windows are about, UTC: the last purchase, even if views follow it.
        config: see SplitConfig.
        test_windows: 1 keeps the last window for testing; 0 lets the ranker learn from it too (what is published).
        targets_days: when those events happened, days since 1970 UTC, any order; None: there are enough everywhere.

    Raises:
        ConfigError: all events have one and the same time, so nothing is earlier than anything else; or the windows
            leave nothing before them to fit on.
    """
    end = last + timedelta(microseconds=1)
    span = end - first
    if span <= timedelta(seconds=1):
        raise ConfigError(f"expected events over some days, came a log from {first} to {last}")
    day = timedelta(days=1)
    if config.window_days > 0:
        window = timedelta(days=config.window_days)
    elif span < 4 * day:
        window = span / 4
    else:
        window = min(max(round(span / day / 12), 1), 7) * day
    if config.window_days <= 0 and targets_days is not None:
        window = max(window, min(_days_of_enough(targets_days) * day, span / 8))
    # Half of the log at least stays for fitting at the oldest cut.
    cuts = config.cuts or (3 if targets_days is None else _cuts_of_enough(targets_days, window / day))
    cuts = max(1, min(cuts, int(span / 2 / window) - test_windows))
    test_start = end - test_windows * window
    if test_start - cuts * window <= first:
        longest = span / day / (test_windows + 1)
        raise ConfigError(
            f"split.window_days: expected less than {longest:.2f} for a log of {span / day:.2f} days, so that "
            f"something is left to fit on, came {config.window_days:g}"
        )
    return Split(
        first=first,
        end=end,
        window=window,
        test_start=test_start,
        cuts=tuple(test_start - (number + 1) * window for number in reversed(range(cuts))),
    )


def _cuts_of_enough(targets_days: npt.NDArray[np.float64], window_days: float) -> int:
    """Label windows that hold enough of them together, at the pace of the newer half of all.

    Of the pace, not of the windows themselves: the night cuts twice, and the second time the windows should be the
    first ones moved on by one.
    """
    newer = np.sort(targets_days)[len(targets_days) // 2 :]
    in_a_window = len(newer) * window_days / max(newer[-1] - newer[0], window_days) if len(newer) else 1.0
    return int(np.clip(math.ceil(ENOUGH_TO_RANK / in_a_window), 3, MOST_CUTS))


def _days_of_enough(targets_days: npt.NDArray[np.float64]) -> int:
    """Whole days before the last target that hold ENOUGH of them, or a tenth where there are few in all."""
    enough = max(1, min(ENOUGH, len(targets_days) // 10))
    latest = np.sort(targets_days)[-enough:]
    return math.ceil(latest[-1] - latest[0]) if len(latest) else 0
