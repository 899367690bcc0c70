"""Which days fit, which train the ranker, which test: by time, never at random."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from recsys.errors import ConfigError


@dataclass(frozen=True)
class SplitConfig:
    """How the log is cut.

    Attributes:
        window_days: length of each label window and of the test window; 0 chooses: a twelfth of the log, whole days, at
            least one and at most seven, and a quarter of a log shorter than four days.
        cuts: label windows for the ranker, each just before the next; fewer where the log is short.
    """

    window_days: float = 0.0
    cuts: int = 3


@dataclass(frozen=True)
class Split:
    """Moments, UTC. Whoever is judged or trained on a window was fitted on events before its start.

    Attributes:
        first, end: of the log; ``end`` is just after the last event.
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


def temporal_split(first: datetime, last: datetime, config: SplitConfig, *, test_windows: int = 1) -> Split:
    """Cut [first, last] into fit | rank | test.

    Args:
        first, last: times of the oldest and the newest event, UTC.
        config: see SplitConfig.
        test_windows: 1 keeps the last window for testing; 0 lets the ranker learn from it too (what is published).

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
    # Half of the log at least stays for fitting at the oldest cut.
    cuts = max(1, min(config.cuts, int(span / 2 / window) - test_windows))
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
