"""Who stands where in a list of scores."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.retrieval.places import best_of_new, rank_within


def test_nobody_speaks_where_all_is_known_to_the_shopper():
    best, weights = best_of_new(np.array([0.3, 0.2], np.float32), np.zeros(2, bool))
    assert (len(best), len(weights)) == (0, 0)


def test_rank_within():
    ranks = rank_within(np.array([0, 0, 1, 1, 1]), np.array([1.0, 2.0, np.nan, 3.0, 3.0]))
    assert np.array_equal(ranks, [2, 1, np.nan, 1, 2], equal_nan=True)
    assert len(rank_within(np.zeros(0, int), np.zeros(0))) == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0, 2.0, float("nan")])), max_size=20))
def test_rank_within_agrees_with_sorting_each_group(pairs):
    group, scores = np.array([g for g, _ in pairs], int), np.array([s for _, s in pairs], float)
    ranks = rank_within(group, scores)
    for g in set(group.tolist()):
        mine = [n for n in np.flatnonzero(group == g) if not np.isnan(scores[n])]
        expected = sorted(mine, key=lambda n: -scores[n])  # stable
        assert [int(ranks[n]) for n in expected] == list(range(1, len(mine) + 1))
    assert np.array_equal(np.isnan(ranks), np.isnan(scores))
