"""Days that fit, days that train the ranker, days that test: by time, never overlapping."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.split import SplitConfig, temporal_split
from recsys.errors import ConfigError

FIRST = datetime(2026, 1, 1, tzinfo=UTC)
TICK = timedelta(microseconds=1)


def split_of(days, *, test_windows=1, **config):
    return temporal_split(FIRST, FIRST + timedelta(days=days), SplitConfig(**config), test_windows=test_windows)


def test_sixty_days_by_hand():
    split = split_of(60)
    end = FIRST + timedelta(days=60) + TICK
    assert (split.first, split.end, split.window) == (FIRST, end, timedelta(days=5))
    assert split.test_start == end - timedelta(days=5)
    assert split.cuts == tuple(end - timedelta(days=days) for days in (20, 15, 10))


def test_what_is_published_learns_from_the_last_days_too():
    judged, published = split_of(60), split_of(60, test_windows=0)
    assert published.test_start == published.end == judged.end
    assert published.cuts == tuple(cut + judged.window for cut in judged.cuts)


@pytest.mark.parametrize(
    ("days", "window_days"), [(1, 0.25), (3, 0.75), (4, 1), (7, 1), (18, 2), (28, 2), (60, 5), (700, 7)]
)
def test_the_window_follows_the_length_of_the_log(days, window_days):
    assert split_of(days).window / timedelta(days=1) == pytest.approx(window_days, rel=1e-6)


def test_a_short_log_has_fewer_cuts():
    assert len(split_of(3).cuts) == 1
    assert len(split_of(60, window_days=12).cuts) == 1
    assert len(split_of(60, window_days=10).cuts) == 2
    assert len(split_of(60, cuts=1).cuts) == 1


def test_a_log_of_one_moment_cannot_be_cut():
    with pytest.raises(ConfigError, match="expected events over some days, came a log from 2026-01-01"):
        temporal_split(FIRST, FIRST, SplitConfig())


@pytest.mark.parametrize(("days", "window_days"), [(10, 7), (10, 6), (10, 30)])
def test_windows_that_leave_nothing_to_fit_on_are_refused(days, window_days):
    with pytest.raises(ConfigError, match=rf"split.window_days: expected less than .* came {window_days}"):
        split_of(days, window_days=window_days)


@given(
    st.floats(0.01, 800),
    st.one_of(st.just(0.0), st.floats(0.01, 0.3)),
    st.integers(1, 6),
    st.sampled_from([0, 1]),
)
def test_no_window_overlaps_another_and_all_come_before_the_test(days, share, cuts, test_windows):
    split = split_of(days, window_days=days * share, cuts=cuts, test_windows=test_windows)
    starts = [*split.cuts, split.test_start]
    assert 1 <= len(split.cuts) <= cuts
    assert all(later - earlier == split.window for earlier, later in pairwise(starts))
    assert split.first < split.cuts[0]  # something to fit on
    assert split.end == FIRST + timedelta(days=days) + TICK  # the last event is inside
    assert split.end - split.test_start == test_windows * split.window


def test_a_window_grows_until_it_holds_enough_purchases():
    slow = np.arange(0, 1_000, 1.0)  # one purchase a day, for a thousand days
    split = temporal_split(FIRST, FIRST + timedelta(days=999), SplitConfig(), targets_days=slow)
    assert split.window == timedelta(days=99)  # a tenth of them, since there are not many
    many = np.repeat(slow, 600)
    assert temporal_split(FIRST, FIRST + timedelta(days=999), SplitConfig(), targets_days=many).window.days == 7


def test_a_slow_shops_ranker_learns_from_more_windows():
    def cuts(a_day: float, days: int = 400) -> list[int]:
        targets = np.arange(0, days, 1 / a_day)
        return [
            len(
                temporal_split(
                    FIRST, FIRST + timedelta(days=days), SplitConfig(), test_windows=n, targets_days=targets
                ).cuts
            )
            for n in (1, 0)
        ]

    # Windows are of seven days. At least three of them, as many as hold 6,000 purchases, and at most eight.
    assert cuts(a_day=500) == [3, 3]
    assert cuts(a_day=6_000 / 7 / 5) == [5, 5]
    assert cuts(a_day=80) == [8, 8]
    assert cuts(a_day=80, days=84) == [5, 6]  # half of the log is for fitting


def test_a_window_that_grows_stays_an_eighth_of_the_log():
    early = np.arange(0, 10, 0.01)
    split = temporal_split(FIRST, FIRST + timedelta(days=80), SplitConfig(), targets_days=np.append(early, 80.0))
    assert split.window <= timedelta(days=10, seconds=1)
