"""The shift between what the ranker learned from and what it is served: known answers, and nothing missed."""

from datetime import timedelta
from statistics import NormalDist

import numpy as np
import pytest

from pipelines.judge import judge, served_features
from pipelines.workshop import Workshop
from recsys.evaluation.report import ReportInput, night_report
from recsys.evaluation.requests import build_requests
from recsys.ranking.features import FEATURES
from recsys.ranking.shift import LEAST_SHARE, FeatureShift, draw_rows, feature_shift
from recsys.recommend import score_inputs
from tests.builders import CUTOFF, build_shop, recipe

DAY = timedelta(days=1)


def table(column, **others):
    """All of FEATURES constant, but for the first one and those named."""
    out = np.ones((len(column), len(FEATURES)), np.float32)
    out[:, 0] = column
    for name, values in others.items():
        out[:, FEATURES.index(name)] = values
    return out


def shift_of(trained, served):
    """Of one feature; ``trained`` is one moment's."""
    (first,) = [each for each in feature_shift([table(trained)], table(served)) if each.feature == FEATURES[0]]
    return first


def psi(trained, served):
    """By hand, of the shares of each bin."""
    t, s = (np.maximum(np.array(shares, float), LEAST_SHARE) for shares in (trained, served))
    return ((s - t) * np.log(s / t)).sum()


def test_equal_samples_have_no_shift_whatever_their_order_and_size():
    values = np.random.default_rng(0).normal(size=1_000)
    values[:100] = np.nan
    assert shift_of(values, np.tile(values[::-1], 3)) == FeatureShift(FEATURES[0], 0.0, 0.1, 0.1)


def test_a_shifted_sample_has_the_index_of_its_tenths():
    """1 to 100, and the same 25 higher: the first 25 are gone, the last tenth has 10 + 25."""
    came = shift_of(np.arange(1, 101), np.arange(26, 126))
    assert came.psi == pytest.approx(psi([0.1] * 10, [0, 0, 0.05, *[0.1] * 6, 0.35]))


def test_of_normal_samples_it_is_near_what_the_distributions_say():
    """N(0, 1) against N(½, 1): the shares of the deciles, from the normal distribution function."""
    deciles = [NormalDist().inv_cdf(place / 10) for place in range(1, 10)]
    expected = psi([0.1] * 10, np.diff([0, *(NormalDist(0.5).cdf(edge) for edge in deciles), 1]))
    rng = np.random.default_rng(0)
    assert shift_of(rng.normal(size=40_000), rng.normal(0.5, size=40_000)).psi == pytest.approx(expected, rel=0.05)
    assert shift_of(rng.normal(size=40_000), rng.normal(size=40_000)).psi < 0.002


def test_what_is_missing_is_a_bin_of_its_own():
    some = np.arange(100.0)
    half = np.where(some % 2, some, np.nan)
    came = shift_of(some, half)
    assert (came.missing_in_training, came.missing_in_serving) == (0, 0.5)
    assert came.psi == pytest.approx(psi([*[0.1] * 10, 0], [*[0.05] * 10, 0.5]))
    nothing = np.full(100, np.nan)
    assert shift_of(some, nothing).psi == pytest.approx(psi([*[0.1] * 10, 0], [*[0] * 10, 1]))
    assert shift_of(nothing, some).psi == pytest.approx(psi([0, 1], [1, 0]))
    assert min(shift_of(some, nothing).psi, shift_of(nothing, some).psi) > 10
    assert shift_of(nothing, nothing) == FeatureShift(FEATURES[0], 0.0, 1.0, 1.0)


@pytest.mark.parametrize("rare", [0.0, 2.0])
def test_a_flag_that_is_nearly_always_set_shows_that_it_no_longer_is(rare):
    trained, served = np.ones(100), np.ones(100)
    trained[:3], served[:50] = rare, rare
    assert shift_of(trained, served).psi == pytest.approx(psi([0.03, 0.97], [0.5, 0.5]))


def test_a_value_that_serving_alone_repeats_is_noticed():
    """As where a table is empty in serving and all its scores are 0."""
    assert shift_of(np.arange(100), np.zeros(100)).psi == pytest.approx(psi([0.1] * 10, [1, *[0] * 9]))


def test_a_constant_feature_has_no_shift():
    assert shift_of(np.full(50, 7), np.full(80, 7)).psi == 0


def test_values_that_differ_between_moments_are_no_shift_where_serving_lies_between_them():
    """Counts over another total each day: 1/100, 2/100, … and 1/101, …; together they would have bins of both."""
    counts = np.repeat(np.arange(1, 6), 20)
    moments = [table(counts / total) for total in (100, 101, 102)]
    (first, *_) = feature_shift(moments, table(counts / 100.5))
    assert first.psi == 0


def test_half_of_the_moments_must_differ():
    like, unlike = table(np.arange(100)), table(np.arange(100) + 1_000)
    assert feature_shift([unlike, like, like], like)[0].psi == 0
    assert feature_shift([like, unlike, unlike], like)[0].psi == pytest.approx(psi([0.1] * 10, [1, *[0] * 9]))


def test_the_largest_come_first_and_without_rows_nothing_is_compared():
    rng = np.random.default_rng(0)
    trained = table(rng.normal(size=500), price_cents=rng.normal(size=500))
    served = table(rng.normal(size=500), price_cents=rng.normal(2, size=500))
    came = feature_shift([trained, trained[:0]], served)
    assert [each.feature for each in came[:2]] == ["price_cents", FEATURES[0]]
    assert [each.feature for each in came[2:]] == list(FEATURES[1 : FEATURES.index("price_cents")]) + list(
        FEATURES[FEATURES.index("price_cents") + 1 :]
    )
    assert (
        feature_shift([trained], served[:0]) == feature_shift([trained[:0]], served) == feature_shift([], served) == []
    )


def test_a_draw_keeps_so_many_rows_in_their_order_and_is_the_same_again():
    rows = np.arange(50, dtype=np.float32)[:, None]
    drawn = draw_rows(rows, 20, seed=3)
    assert drawn.shape == (20, 1)
    assert (np.diff(drawn[:, 0]) > 0).all()
    np.testing.assert_array_equal(drawn, draw_rows(rows, 20, seed=3))
    assert draw_rows(rows, 50, seed=3) is rows


@pytest.fixture(scope="module")
def night():
    """A workshop, its cuts, a release ranked by them, and the questions of the two days after."""
    shop, vectors = build_shop()
    days = [CUTOFF - n * DAY for n in (8, 6, 4)]
    cuts = [(day, day + 2 * DAY) for day in days]
    workshop = Workshop(shop, vectors, recipe())
    twin = workshop.ranked_release(cuts, CUTOFF - 2 * DAY)
    assert twin.ranker is not None
    return workshop, cuts, twin, build_requests(shop.events, CUTOFF - 2 * DAY, CUTOFF)


def test_the_judge_compares_what_was_learned_with_what_recommend_shows(night):
    workshop, cuts, twin, questions = night
    offer = np.ones(len(twin.item_ids), bool)
    offer[::5] = False
    served = served_features(twin, questions, offer, seed=0)
    histories, candidates, features = score_inputs(twin, questions.requests, offer)
    known = histories.known[candidates.request_of]
    assert 0 < known.sum() < len(known) or known.all()
    np.testing.assert_array_equal(served, features[known & offer[candidates.rows]])
    learned = workshop.learned_features(cuts)
    assert [len(part) for part in learned] == [sum(len(p.features) for p in workshop.examples(*cut)) for cut in cuts]
    past = workshop.shop.interactions
    judgement = judge(twin, questions, past, {}, 12, 0, 1, learned)
    everything = np.ones(len(twin.item_ids), bool)
    assert judgement.shifts == feature_shift(learned, served_features(twin, questions, everything, 0))
    assert len(judgement.shifts) == len(FEATURES)
    assert judge(workshop.release_at(CUTOFF - 2 * DAY), questions, past, {}, 12, 0, 1, learned).shifts == []


def test_what_is_compared_is_bounded(night, monkeypatch):
    workshop, cuts, twin, questions = night
    monkeypatch.setattr("pipelines.workshop.LEARNED_ROWS", 90)
    monkeypatch.setattr("pipelines.judge.SHIFT_REQUESTS", 5)
    monkeypatch.setattr("pipelines.judge.SHIFT_ROWS", 4)
    assert all(20 < len(part) <= 30 for part in workshop.learned_features(cuts))
    everything = np.ones(len(twin.item_ids), bool)
    assert 0 < len(served_features(twin, questions, everything, seed=0)) <= 20


def test_the_report_shows_the_shifts_it_is_given():
    shifts = [FeatureShift("price_cents", 0.3149, 0.25, 0.5)]
    page = night_report(ReportInput("v1", CUTOFF, CUTOFF, feature_shifts=shifts))
    assert "From training to serving" in page
    assert all(f">{words}<" in page for words in ("price_cents", "0.315", "25.0%", "50.0%"))
    assert "From training to serving" not in night_report(ReportInput("v1", CUTOFF, CUTOFF))
