"""The ranker finds a planted preference, says None where there is too little to learn from, and survives the disk."""

from dataclasses import replace

import numpy as np
import pytest

from recsys.errors import ReleaseError
from recsys.ranking import train
from recsys.ranking.features import FEATURES
from recsys.ranking.ranker import load_ranker
from recsys.ranking.train import (
    TREES_PER_ROOT_REQUEST,
    Examples,
    RankerConfig,
    join_examples,
    train_ranker,
    try_ranker,
)

CONFIG = RankerConfig(trees=40, min_leaf=10)
WANTED = FEATURES.index("price_cents")
RETRIEVED = FEATURES.index("rrf_score")


def planted(n_requests=60, seed=0, size=20):
    """Every shopper takes the cheapest of their candidates; nothing else says anything."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_requests * size, len(FEATURES))).astype(np.float32)
    features[rng.random(features.shape) < 0.1] = np.nan
    features[:, WANTED] = rng.uniform(100, 5000, len(features))
    labels = np.zeros((n_requests, size), np.int8)
    labels[np.arange(n_requests), features[:, WANTED].reshape(n_requests, size).argmin(axis=1)] = 1
    return Examples(features, labels.ravel(), np.arange(n_requests + 1, dtype=np.int64) * size)


@pytest.fixture(scope="module")
def ranker():
    return train_ranker(planted(200), CONFIG, seed=0, threads=1)


def test_a_planted_preference_is_found(ranker):
    unseen = planted(n_requests=200, seed=1)
    scores = ranker.score(unseen.features).reshape(200, 20)
    taken = unseen.labels.reshape(200, 20).argmax(axis=1)
    places = (scores > scores[np.arange(200), taken][:, None]).sum(axis=1)
    assert (places == 0).mean() > 0.6  # 0.05 by chance
    importance = ranker.importance()
    assert next(iter(importance)) == "price_cents"
    assert sum(importance.values()) == pytest.approx(1)


def test_a_row_is_scored_by_itself(ranker):
    features = planted(seed=2).features
    together = ranker.score(features)
    assert together.dtype == np.float32
    alone = np.concatenate([ranker.score(row[None, :]) for row in features[:50]])
    assert np.array_equal(alone, together[:50])
    assert np.array_equal(ranker.score(np.asfortranarray(features)), together)
    assert ranker.score(features[:0]).shape == (0,)


def test_the_same_input_gives_the_same_ranker(ranker):
    again = train_ranker(planted(200), CONFIG, seed=0, threads=1)
    assert again.booster.model_to_string() == ranker.booster.model_to_string()


def test_too_few_requests_teach_nothing():
    assert train_ranker(planted(n_requests=19), CONFIG, seed=0, threads=1) is None


def retrieved_by(examples, score):
    """The same examples, but retrieval orders them by ``score`` times the price."""
    features = examples.features.copy()
    features[:, RETRIEVED] = score * features[:, WANTED]
    return replace(examples, features=features)


def test_a_ranker_that_adds_nothing_to_retrieval_is_not_kept():
    cheapest_first = retrieved_by(planted(200), -1)
    assert train_ranker(cheapest_first, CONFIG, seed=0, threads=1) is None
    dearest_first = retrieved_by(planted(200), 1)
    assert train_ranker(dearest_first, CONFIG, seed=0, threads=1) is not None


@pytest.mark.parametrize(
    ("gain", "trial_requests", "kept"), [(-0.05, 200, False), (-0.05, 100, True), (-0.2, 100, False), (0.05, 200, True)]
)
def test_where_the_trial_had_only_a_part_it_must_be_surely_worse(monkeypatch, gain, trial_requests, kept):
    spread = np.tile([1.0, -1.0], 50)  # a standard error of a tenth
    monkeypatch.setattr(train, "TRIAL_REQUESTS", trial_requests)
    monkeypatch.setattr(train, "try_ranker", lambda *_, **__: (gain + spread, np.zeros(100)))
    assert (train_ranker(planted(200), CONFIG, seed=0, threads=1) is not None) == kept


@pytest.mark.parametrize("seed", range(4))
def test_twenty_requests_are_enough_whatever_the_draw(seed):
    examples = retrieved_by(planted(n_requests=20), 1)
    ranker = train_ranker(examples, RankerConfig(min_leaf=5), seed=seed, threads=1)
    assert ranker.booster.num_trees() == round(TREES_PER_ROOT_REQUEST * 20**0.5)  # few requests grow few trees


def test_it_is_tried_on_requests_that_it_did_not_learn_from():
    # Which candidate was taken can only be learned by heart, by its number: worth nothing on other requests.
    rng = np.random.default_rng(0)
    features = np.full((60 * 20, len(FEATURES)), np.nan, np.float32)
    features[:, WANTED] = rng.permutation(len(features))
    features[:, RETRIEVED] = rng.random(len(features))
    labels = np.zeros((60, 20), np.int8)
    labels[np.arange(60), rng.integers(0, 20, 60)] = 1
    examples = Examples(features, labels.ravel(), np.arange(61, dtype=np.int64) * 20)
    learned, retrieved = try_ranker(examples, RankerConfig(leaves=63, min_leaf=5), seed=0, threads=1)
    assert len(learned) == len(retrieved) == 20
    assert abs(learned.mean() - 0.25) < 0.13  # an order drawn at random has Σ 1/log2(r+1) / 20, r ≤ 12: 0.25


def test_a_saved_ranker_gives_the_same_bits(ranker, tmp_path):
    ranker.save(tmp_path / "ranker.txt")
    loaded = load_ranker(tmp_path / "ranker.txt", FEATURES)
    features = planted(seed=3).features
    assert loaded.booster.num_trees() == ranker.booster.num_trees() == CONFIG.trees
    assert np.array_equal(loaded.score(features), ranker.score(features))
    loaded.save(tmp_path / "again.txt")
    assert (tmp_path / "again.txt").read_bytes() == (tmp_path / "ranker.txt").read_bytes()


def test_a_ranker_over_other_features_is_refused(ranker, tmp_path):
    path = tmp_path / "ranker.txt"
    ranker.save(path)
    with pytest.raises(
        ReleaseError, match=r"ranker\.txt: expected a ranker over this code's \d+ features.*'a_new_one'"
    ):
        load_ranker(path, (*FEATURES, "a_new_one"))
    with pytest.raises(ReleaseError, match="in another order"):
        load_ranker(path, FEATURES[::-1])


def test_something_else_than_a_ranker_is_refused(tmp_path):
    (tmp_path / "ranker.txt").write_text("tree of knowledge")
    with pytest.raises(ReleaseError, match=r"ranker\.txt: expected a LightGBM model"):
        load_ranker(tmp_path / "ranker.txt", FEATURES)
    with pytest.raises(ReleaseError, match=r"absent\.txt: expected a LightGBM model"):
        load_ranker(tmp_path / "absent.txt", FEATURES)


def test_batches_of_examples_join():
    one, two = planted(n_requests=3, size=2), planted(n_requests=2, size=5, seed=1)
    both = join_examples([one, two])
    assert both.offsets.tolist() == [0, 2, 4, 6, 11, 16]
    assert len(both) == 5
    assert both.labels.tolist() == [*one.labels, *two.labels]
    assert np.array_equal(both.features[6:], two.features, equal_nan=True)
