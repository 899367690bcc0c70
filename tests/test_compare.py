"""The paired bootstrap: it covers a known lift as often as it says, and rarely sees one where there is none."""

import doctest
import json

import numpy as np
import pytest

from recsys.errors import SchemaError
from recsys.evaluation import compare as module
from recsys.evaluation.compare import BETTER, NO_DIFFERENCE, WORSE, compare, compare_all


def test_the_docstrings_examples_run():
    result = doctest.testmod(module)
    assert result.attempted > 2
    assert result.failed == 0


def hits_of_two_policies(rng, n, rate_a, rate_b, shared):
    """Hit or miss of each user under both; ``shared`` of them behave alike under the two."""
    taste = rng.random(n)
    own = np.where(rng.random(n) < shared, taste, rng.random(n))
    return (taste < rate_a).astype(float), (own < rate_b).astype(float)


def test_the_interval_covers_a_known_lift_in_95_of_100_runs():
    covered = []
    for run in range(500):
        rng = np.random.default_rng(run)
        a, b = hits_of_two_policies(rng, 400, 0.2, 0.25, shared=0.6)
        comparison = compare(a, b, seed=run, resamples=400)
        covered.append(comparison.low <= 0.05 <= comparison.high)
    assert 0.93 <= np.mean(covered) <= 0.97


def test_the_interval_of_the_lift_covers_it_in_95_of_100_runs():
    """Few shoppers and few hits: what A is found to have is as uncertain as the difference."""
    covered = []
    for run in range(500):
        a, b = hits_of_two_policies(np.random.default_rng(run), 300, 0.06, 0.15, shared=0.6)
        comparison = compare(a, b, seed=run, resamples=400)
        if comparison.lift_low is not None:  # a draw without any hit of A, once in some hundreds
            covered.append(comparison.lift_low <= 0.15 / 0.06 - 1 <= comparison.lift_high)
    assert len(covered) > 480
    assert 0.93 <= np.mean(covered) <= 0.97


def test_twice_as_much_for_every_user_is_100_percent_more_and_nothing_else():
    a = np.random.default_rng(0).random(300)
    comparison = compare(a, 2 * a)
    assert (comparison.lift_low, comparison.lift_high) == pytest.approx((1, 1), abs=1e-12)
    assert comparison.low < comparison.difference < comparison.high


def test_a_against_a_is_rejected_in_5_of_100_runs():
    rejected = []
    for run in range(500):
        rng = np.random.default_rng(10_000 + run)
        a, b = hits_of_two_policies(rng, 400, 0.2, 0.2, shared=0.6)
        rejected.append(compare(a, b, seed=run, resamples=400).verdict != NO_DIFFERENCE)
    assert 0.03 <= np.mean(rejected) <= 0.07


def test_the_interval_is_that_of_the_normal_law_for_many_users():
    rng = np.random.default_rng(5)
    a, b = rng.random(20_000), rng.random(20_000) + 0.01
    comparison = compare(a, b)
    half = 1.96 * (b - a).std() / np.sqrt(len(a))
    assert comparison.low == pytest.approx(comparison.difference - half, abs=half * 0.1)
    assert comparison.high == pytest.approx(comparison.difference + half, abs=half * 0.1)


def test_the_figures_by_hand():
    a = np.array([0.0, 0.5, 1.0, 0.5] * 10)
    b = np.array([1.0, 0.5, 0.5, 1.0] * 10)
    comparison = compare(a, b)
    assert (comparison.mean_a, comparison.mean_b, comparison.difference, comparison.lift) == (0.5, 0.75, 0.25, 0.5)
    assert (comparison.n, comparison.share_better, comparison.share_worse) == (40, 0.5, 0.25)
    assert comparison.low < 0.25 < comparison.high


def test_verdicts():
    rng = np.random.default_rng(0)
    a = rng.random(500)
    assert compare(a, a + 0.1).verdict == BETTER
    assert compare(a, a - 0.1).verdict == WORSE
    assert compare(a, a).verdict == NO_DIFFERENCE


def test_a_handful_of_users_proves_nothing():
    zeros = np.zeros(100)
    five, six = zeros.copy(), zeros.copy()
    five[:5] = 1
    six[:6] = 1
    assert compare(zeros, five).verdict == NO_DIFFERENCE
    assert compare(zeros, six).verdict == BETTER


def test_no_lift_over_nothing():
    comparison = compare(np.zeros(50), np.ones(50))
    assert (comparison.lift, comparison.lift_low, comparison.lift_high) == (None, None, None)
    assert json.loads(json.dumps(comparison.as_dict()))["verdict"] == BETTER


def test_where_a_has_so_little_that_a_draw_has_none_the_lift_has_no_interval():
    a, b = np.zeros(100), np.ones(100)
    a[0] = 1  # in 37 of 100 draws nobody draws this one
    comparison = compare(a, b)
    assert comparison.lift == pytest.approx(99)
    assert (comparison.lift_low, comparison.lift_high) == (None, None)
    assert comparison.low > 0.9


def test_a_few_users_have_no_interval_for_machines():
    assert [compare(np.zeros(n), np.ones(n)).as_dict()["low"] for n in (1, 5, 6)] == [None, None, 1.0]


def test_an_undefined_value_takes_the_user_out_of_that_metric_alone():
    rng = np.random.default_rng(2)
    a, b = rng.random(300), rng.random(300)
    holes = b.copy()
    holes[::3] = np.nan
    both = compare_all({"whole": a, "holes": a}, {"whole": b, "holes": holes})
    assert (both["whole"].n, both["holes"].n) == (300, 200)
    kept = ~np.isnan(holes)
    assert both["holes"].difference == pytest.approx((b - a)[kept].mean())
    alone = compare(a[kept], b[kept])
    assert both["holes"].low == pytest.approx(alone.low, abs=0.02)
    assert both["holes"].lift_low == pytest.approx(alone.lift_low, abs=0.05)


def test_a_metric_does_not_change_with_its_neighbours_and_the_seed_decides():
    rng = np.random.default_rng(3)
    a, b, other = rng.random((3, 200))
    alone = compare(a, b, seed=7)
    beside = compare_all({"x": a, "y": other}, {"x": b, "y": a}, seed=7)["x"]
    assert (beside.low, beside.high) == pytest.approx((alone.low, alone.high), rel=1e-9)  # sums in another order
    assert compare(a, b, seed=8) != alone


@pytest.mark.parametrize(
    ("a", "b", "arguments", "message"),
    [
        ({"x": [1.0]}, {"y": [1.0]}, {}, r"the same ones of both policies, came \['x'\] and \['y'\]"),
        ({}, {}, {}, "the same ones"),
        ({"x": [1.0, 2.0]}, {"x": [1.0]}, {}, r"'x of A': \(2,\), 'x of B': \(1,\)"),
        ({"x": []}, {"x": []}, {}, "one value for each"),
        ({"x": [np.nan, 1.0]}, {"x": [1.0, np.nan]}, {}, "x: expected a value for some user .* none among 2"),
        ({"x": [np.inf]}, {"x": [1.0]}, {}, "x of A: expected finite"),
        ({"x": [1.0]}, {"x": [1.0]}, {"resamples": 0}, "came 0 and 0.95"),
        ({"x": [1.0]}, {"x": [1.0]}, {"confidence": 95}, "came 2000 and 95"),
    ],
)
def test_bad_input_is_named(a, b, arguments, message):
    a, b = ({name: np.array(values) for name, values in policy.items()} for policy in (a, b))
    with pytest.raises(SchemaError, match=message):
        compare_all(a, b, **arguments)
