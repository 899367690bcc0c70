"""The metrics against fractions worked by hand, and against a slow, plain reading of their definitions."""

import doctest
import math

import numpy as np
import pytest

from recsys.errors import SchemaError
from recsys.evaluation import metrics

# Four users, slates of four. Relevant: {0, 9} · {4, 5, 6, 7, 8, 9} · {1} · {3}
RECOMMENDED = np.array([[0, 1, 9, 2], [4, 5, 1, 6], [9, 8, 7, -1], [-1, -1, -1, -1]], np.int32)
OFFSETS = np.array([0, 2, 8, 9, 10], np.int64)
ROWS = np.array([9, 0, 4, 5, 6, 7, 8, 9, 1, 3], np.int32)
LOG3, LOG5 = math.log2(3), math.log2(5)


def test_the_docstrings_examples_run():
    result = doctest.testmod(metrics)
    assert result.attempted > 10
    assert result.failed == 0


@pytest.mark.parametrize(
    ("metric", "k", "expected"),
    [
        (metrics.recall_at_k, 4, [2 / 2, 3 / 6, 0, 0]),
        (metrics.recall_at_k, 2, [1 / 2, 2 / 6, 0, 0]),
        (metrics.hit_rate_at_k, 4, [1, 1, 0, 0]),
        (metrics.average_precision_at_k, 4, [(1 + 2 / 3) / 2, (1 + 1 + 3 / 4) / 4, 0, 0]),
        (metrics.average_precision_at_k, 1, [1, 1, 0, 0]),  # at most one hit was possible
        (
            metrics.ndcg_at_k,
            4,
            [(1 + 1 / 2) / (1 + 1 / LOG3), (1 + 1 / LOG3 + 1 / LOG5) / (1.5 + 1 / LOG3 + 1 / LOG5), 0, 0],
        ),
        (metrics.mrr, 4, [1, 1, 0, 0]),
    ],
)
def test_against_fractions_worked_by_hand(metric, k, expected):
    values = metric(RECOMMENDED, OFFSETS, ROWS, k)
    assert values.dtype == np.float32
    assert values == pytest.approx(expected, abs=1e-7)


def test_k_left_out_is_the_width_of_the_slate():
    assert (metrics.recall_at_k(RECOMMENDED, OFFSETS, ROWS) == metrics.recall_at_k(RECOMMENDED, OFFSETS, ROWS, 4)).all()


def test_the_perfect_slate_scores_one_and_a_hopeless_one_zero():
    best = np.array([[3, 1]], np.int32)
    worst = np.array([[4, 5]], np.int32)
    relevance = np.array([0, 2]), np.array([1, 3], np.int32)
    for name, values in metrics.accuracy_metrics(best, *relevance).items():
        assert values.tolist() == [1], name
    for name, values in metrics.accuracy_metrics(worst, *relevance).items():
        assert values.tolist() == [0], name


def test_against_the_plain_definitions_on_random_slates():
    rng = np.random.default_rng(1)
    q, width, n_items, k = 200, 10, 40, 7
    recommended = np.array([rng.permutation(n_items)[:width] for _ in range(q)], np.int32)
    recommended[rng.random((q, width)) < 0.1] = -1
    relevant = [rng.permutation(n_items)[: rng.integers(1, 15)] for _ in range(q)]
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in relevant])])
    rows = np.concatenate(relevant).astype(np.int32)
    for u in range(q):
        top, wanted = recommended[u, :k].tolist(), set(relevant[u].tolist())
        hits = [row in wanted for row in top]
        precision = [sum(hits[: i + 1]) / (i + 1) for i in range(k)]
        ideal = sum(1 / math.log2(i + 2) for i in range(min(k, len(wanted))))
        expected = {
            "recall_at_k": sum(hits) / len(wanted),
            "hit_rate_at_k": float(any(hits)),
            "average_precision_at_k": sum(p for p, hit in zip(precision, hits) if hit) / min(k, len(wanted)),
            "ndcg_at_k": sum(1 / math.log2(i + 2) for i, hit in enumerate(hits) if hit) / ideal,
            "mrr": 1 / (hits.index(True) + 1) if any(hits) else 0,
        }
        for name, value in expected.items():
            assert getattr(metrics, name)(recommended, offsets, rows, k)[u] == pytest.approx(value, abs=1e-6), (name, u)


def test_found_at_k_is_recall_seen_from_the_items():
    found = metrics.found_at_k(RECOMMENDED, OFFSETS, ROWS)
    assert found.tolist() == [True, True, True, True, True, False, False, False, False, False]
    assert metrics.found_at_k(RECOMMENDED, OFFSETS, ROWS, 1).tolist() == [False, True, True] + [False] * 7


def test_a_user_is_not_credited_with_another_users_items():
    recommended = np.array([[1], [0]], np.int32)
    assert metrics.recall_at_k(recommended, np.array([0, 1, 2]), np.array([0, 1], np.int32)).tolist() == [0, 0]


def test_no_users_no_values():
    nobody = np.empty((0, 3), np.int32), np.zeros(1, np.int64), np.empty(0, np.int32)
    assert metrics.ndcg_at_k(*nobody).shape == (0,)
    assert metrics.found_at_k(*nobody).shape == (0,)


@pytest.mark.parametrize(
    ("recommended", "offsets", "rows", "k", "message"),
    [
        (np.zeros((1, 2), np.float32), [0, 1], [1], 1, "expected integers .* came float32"),
        (np.zeros(3, np.int32), [0, 1], [1], 1, r"\[users, places\], came int32 \[3\]"),
        (np.array([[0, 1]], np.int32), [0, 1], [1], 3, "k: expected 1 to 2, .* came 3"),
        (np.array([[0, 1]], np.int32), [0, 1], [1], 0, "came 0"),
        (np.array([[0, 1]], np.int32), [0, 1, 2], [1, 2], 2, "offsets: expected 2 .* came 3"),
        (np.array([[0, 1]], np.int32), [0, 2], [1], 2, "from 0 to 1 for 1 users, came 2 from 0 to 2"),
        (
            np.array([[0, 1], [1, 2]], np.int32),
            [0, 0, 1],
            [1],
            2,
            "at least one item a user, came none for user 0 of 2",
        ),
        (np.array([[0, 1]], np.int32), [0, 1], [-1], 2, "rows from 0 up, came -1"),
        (np.array([[0, 1]], np.int32), [0, 2], [4, 4], 2, "relevance: .* row 4 twice for user 0"),
        (np.array([[0, 1], [3, 3]], np.int32), [0, 1, 2], [4, 4], 2, "recommended: .* row 3 twice for user 1"),
    ],
)
def test_bad_input_is_named(recommended, offsets, rows, k, message):
    with pytest.raises(SchemaError, match=message):
        metrics.recall_at_k(recommended, np.array(offsets), np.array(rows, np.int32), k)


def test_coverage_gini_novelty_diversity_by_hand():
    slates = np.array([[0, 1], [0, 2], [0, -1]], np.int32)  # exposures 3, 1, 1, 0
    assert metrics.coverage(slates, 4) == 3 / 4
    assert metrics.gini(slates, 4) == pytest.approx((-3 * 0 - 1 * 1 + 1 * 1 + 3 * 3) / (4 * 5))
    assert metrics.novelty(slates, np.array([3, 1, 1, 0])) == pytest.approx(
        [(-math.log2(4 / 9) - math.log2(2 / 9)) / 2, (-math.log2(4 / 9) - math.log2(2 / 9)) / 2, -math.log2(4 / 9)]
    )
    embeddings = np.array([[2, 0], [0, 3], [1, 1], [0, 0]], np.float32)  # angles 0°, 90°, 45°; the last is unknown
    together = np.array([[0, 1, 2], [0, 2, 3], [0, 3, -1]], np.int32)
    expected = [1 - (0 + 2 * math.sqrt(0.5)) / 3, 1 - math.sqrt(0.5), math.nan]
    assert metrics.diversity(together, embeddings) == pytest.approx(expected, nan_ok=True, abs=1e-6)


def test_diversity_equals_the_mean_over_all_pairs():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(50, 8)).astype(np.float32)
    slates = np.array([rng.permutation(50)[:6] for _ in range(9)], np.int32)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = unit @ unit.T
    expected = [1 - np.mean([cosines[a, b] for a in s for b in s if a != b]) for s in slates]
    assert metrics.diversity(slates, embeddings) == pytest.approx(expected, abs=1e-5)


def test_nothing_shown_is_no_novelty_rather_than_zero():
    nothing = np.full((1, 3), -1, np.int32)
    assert np.isnan(metrics.novelty(nothing, np.ones(3, np.int64))).all()
    assert metrics.coverage(nothing, 3) == 0
    assert metrics.gini(nothing, 3) == 0


def test_a_row_outside_the_catalogue_is_refused():
    for metric in (metrics.coverage, metrics.gini):
        with pytest.raises(SchemaError, match="rows below 3, the catalogue's size, came 3"):
            metric(np.array([[3]], np.int32), 3)


def test_segments_cover_everything_once():
    lengths = np.arange(0, 100)
    segments = metrics.history_segments(lengths)
    sizes = {label: n for label, (_, n) in metrics.mean_by_segment(np.ones(100, np.float32), segments).items()}
    assert sizes == {"none": 1, "1–2": 2, "3–5": 3, "6–10": 5, "11–20": 10, "over 20": 79}


def test_segments_must_fit_their_values():
    with pytest.raises(SchemaError, match="one of 3 values each, came 2 codes"):
        metrics.mean_by_segment(np.ones(3, np.float32), metrics.history_segments(np.array([1, 2])))
