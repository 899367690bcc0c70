"""The user tower: numpy says what torch says, one shopper or many, and it learns a planted taste."""

import itertools
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from recsys.alignment import users
from recsys.alignment.tower import TasteItems, TowerNetwork, pad_histories
from recsys.alignment.users import UserTowerConfig, _hold_out, _quality, train_user_tower
from recsys.errors import ConfigError, ReleaseError, SchemaError
from recsys.retrieval.users import MAX_HISTORY, load_user_tower
from recsys.schema import EVENT_TYPES

VIEW, PURCHASE = EVENT_TYPES.index("detail-page-view"), EVENT_TYPES.index("purchase")


def make_items(n, dim, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_histories(lengths, n_items, seed=0):
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    m = int(offsets[-1])
    ages = [np.sort(rng.exponential(20, length))[::-1] for length in lengths]
    return (
        offsets,
        rng.integers(0, n_items, m).astype(np.int32),
        rng.integers(0, len(EVENT_TYPES), m).astype(np.int8),
        np.concatenate(ages).astype(np.float32) if m else np.zeros(0, np.float32),
    )


def make_tower(dim, interests, seed=0):
    """A tower whose every weight matters."""
    torch.manual_seed(seed)
    tower = TowerNetwork(dim, interests, hidden=256, temperature=0.07)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return tower


def exported(tower):
    return tower.export(torch.eye(tower.turn.shape[0]))


LENGTHS = np.array([0, 1, 2, MAX_HISTORY - 1, MAX_HISTORY, MAX_HISTORY + 1, 3 * MAX_HISTORY, 7, 0, 20])


@pytest.mark.parametrize(("dim", "interests"), [(64, 1), (64, 3), (5, 2)])
def test_numpy_says_what_torch_says(dim, interests):
    items = make_items(300, dim)
    histories = make_histories(LENGTHS, len(items))
    tower = make_tower(dim, interests)
    vectors = exported(tower).user_vectors(items, *histories)
    some = np.flatnonzero(LENGTHS)
    with torch.no_grad():
        catalogue = torch.from_numpy(items)
        expected = (
            pad_histories(*histories).cut(torch.from_numpy(some)).vectors(tower, lambda rows: catalogue[rows]).numpy()
        )
    np.testing.assert_allclose(vectors[some], expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors[some], axis=2), 1, atol=1e-5)
    assert not vectors[LENGTHS == 0].any()
    assert vectors.dtype == np.float32


def test_one_shopper_has_the_same_bits_as_in_a_batch():
    items = make_items(300, 64)
    offsets, rows, event_types, ages = make_histories(np.tile(LENGTHS, 5), len(items))
    tower = exported(make_tower(64, 2))
    batch = tower.user_vectors(items, offsets, rows, event_types, ages)
    for user, (start, end) in enumerate(itertools.pairwise(offsets)):
        alone = tower.user_vectors(
            items, np.array([0, end - start]), rows[start:end], event_types[start:end], ages[start:end]
        )
        np.testing.assert_array_equal(alone[0], batch[user])


def test_only_the_newest_items_count():
    items = make_items(300, 16)
    tower = exported(make_tower(16, 2))
    offsets, rows, event_types, ages = make_histories([MAX_HISTORY + 30], len(items))
    whole = tower.user_vectors(items, offsets, rows, event_types, ages)
    cut = tower.user_vectors(items, np.array([0, MAX_HISTORY]), rows[30:], event_types[30:], ages[30:])
    np.testing.assert_array_equal(whole, cut)


def test_a_request_costs_a_small_multiple_of_its_bare_arithmetic():
    """The budget is 150 µs on a free core; what can be tested on any is the ratio to the matrix products within."""
    items = make_items(300, 64)
    history = make_histories([MAX_HISTORY], len(items))
    tower = exported(make_tower(64, 2))

    def bare():
        chosen = items[history[1]]
        logits = chosen @ tower.query
        pooled = np.exp(logits).T @ chosen
        return pooled @ tower.turn + pooled @ tower.inner[:64] @ tower.outer

    def fastest(call):
        best = np.inf
        for _ in range(300):
            start = time.perf_counter()
            call()
            best = min(best, time.perf_counter() - start)
        return best

    assert fastest(lambda: tower.user_vectors(items, *history)) < 15 * fastest(bare)


def test_running_the_tower_needs_no_torch():
    code = "import sys, recsys.retrieval.users; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_saved_and_loaded_says_the_same(tmp_path):
    items = make_items(300, 16)
    histories = make_histories(LENGTHS, len(items))
    tower = exported(make_tower(16, 2))
    tower.save(tmp_path / "users.safetensors")
    loaded = load_user_tower(tmp_path / "users.safetensors")
    np.testing.assert_array_equal(loaded.user_vectors(items, *histories), tower.user_vectors(items, *histories))
    with pytest.raises(ReleaseError, match="saved user tower"):
        load_user_tower(tmp_path / "nowhere.safetensors")


def make_planted_taste(n_examples, seed):
    """Shoppers whose next item follows a rule that a mean cannot know.

    Items have a kind and a style. A shopper views items of any kind and style; what comes next has the style of the
    items they *purchased* (views mislead) and the kind that goes with the kind of the newest item.
    """
    rng = np.random.default_rng(seed)
    kinds, styles, copies, dim = 6, 6, 8, 32
    kind, style = np.divmod(np.repeat(np.arange(kinds * styles), copies), styles)
    axes = np.random.default_rng(99).normal(size=(kinds + styles, dim))
    items = axes[kind] + axes[kinds + style] + 0.5 * np.random.default_rng(98).normal(size=(len(kind), dim))
    items = (items / np.linalg.norm(items, axis=1, keepdims=True)).astype(np.float32)
    length = 8
    rows = np.empty((n_examples, length), np.int32)
    event_types = np.where(rng.random((n_examples, length)) < 0.4, PURCHASE, VIEW).astype(np.int8)
    event_types[:, 0] = PURCHASE
    targets = np.empty(n_examples, np.int32)
    for example in range(n_examples):
        taste = rng.integers(styles)
        fits = np.flatnonzero(style == taste)
        rows[example] = np.where(
            event_types[example] == PURCHASE, rng.choice(fits, length), rng.integers(0, len(kind), length)
        )
        next_kind = (kind[rows[example, -1]] + 1) % kinds
        targets[example] = rng.choice(np.flatnonzero((style == taste) & (kind == next_kind)))
    offsets = np.arange(n_examples + 1, dtype=np.int64) * length
    ages = np.tile(np.arange(length, 0, -1, dtype=np.float32), n_examples)
    return items, offsets, rows.ravel(), event_types.ravel(), ages, targets


def recall_at_10(vectors, items, targets):
    scores = (vectors @ items.T).max(axis=1)
    top = np.argpartition(-scores, 10, axis=1)[:, :10]
    return float((top == targets[:, None]).any(axis=1).mean())


TASTE_CONFIG = UserTowerConfig(interests=1, epochs=15, batch_size=128, patience=5, lr=1e-2)


@pytest.fixture(scope="module")
def taste_tower():
    return train_user_tower(*make_planted_taste(4000, seed=0), TASTE_CONFIG, seed=0, threads=1, progress=False)


def test_a_planted_taste_is_learned_where_the_mean_fails(taste_tower):
    items, *histories, targets = make_planted_taste(1000, seed=1)
    torch.manual_seed(0)
    mean = exported(TowerNetwork(items.shape[1], TASTE_CONFIG.interests, TASTE_CONFIG.hidden, TASTE_CONFIG.temperature))
    taste = taste_tower
    learned = recall_at_10(taste.tower.user_vectors(taste.items, *histories), taste.items, targets)
    plain = recall_at_10(mean.user_vectors(items, *histories), items, targets)
    # 8 items of 288 fit equally well: chance is .035, knowing all is 1.
    assert learned > 0.5
    assert learned > 3 * plain


def test_items_learn_a_place_that_their_content_does_not_tell():
    """Content is noise; who took one item of a pair takes the other next. Only vectors of their own can tell."""
    rng = np.random.default_rng(0)
    n_items, n = 200, 4000
    items, first = make_items(n_items, 8), rng.integers(0, n_items, n).astype(np.int32)
    histories = np.arange(n + 1), first, np.full(n, PURCHASE, np.int8), np.ones(n, np.float32)
    config = UserTowerConfig(interests=1, epochs=10, batch_size=128, lr=1e-2)
    taste = train_user_tower(items, *histories, first ^ 1, config, 0, 1, False)
    vectors = taste.tower.user_vectors(taste.items, *histories)
    assert recall_at_10(vectors, taste.items, first ^ 1) > 0.9
    by_content = taste.tower.item_vectors(items)
    assert recall_at_10(taste.tower.user_vectors(by_content, *histories), by_content, first ^ 1) < 0.5


def test_a_best_epoch_is_kept_without_the_content_that_never_changes():
    items = TasteItems(torch.ones(20, 6), dim=4)  # of a million items it is the most part
    assert set(items.state_dict()) == {"turn", "own.weight"}


@pytest.mark.parametrize("floats", [1, 2**26])
def test_the_watched_quality_is_that_worked_by_hand_however_many_are_asked_at_once(floats, monkeypatch):
    """Items on a circle; who took an item is asked for it again, for the next, and for the one after that."""
    monkeypatch.setattr(users, "AT_ONCE", floats)
    angles = torch.arange(7) * 0.3
    items = TasteItems(torch.stack([angles.cos(), angles.sin()], dim=1), dim=2)
    tower = TowerNetwork(2, interests=1, hidden=4, temperature=0.07)
    once = np.arange(4), np.zeros(3, np.int32), np.full(3, PURCHASE, np.int8), np.ones(3, np.float32)
    quality = _quality(tower, items, pad_histories(*once), torch.tensor([0, 1, 2]), torch.arange(3))
    assert quality == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_training_goes_on_from_an_earlier_moment():
    """What was learned stays, and two more epochs bring it nearer to what came since."""
    data = make_planted_taste(1000, seed=0)
    config = replace(TASTE_CONFIG, epochs=1, refresh_epochs=2)
    once = train_user_tower(*data, config, seed=0, threads=1, progress=False)
    again = train_user_tower(*data, config, seed=0, threads=1, progress=False, earlier=once)
    _, *histories, targets = make_planted_taste(1000, seed=1)
    recalls = [recall_at_10(t.tower.user_vectors(t.items, *histories), t.items, targets) for t in (once, again)]
    assert recalls[1] > recalls[0]


def test_the_shoppers_who_are_watched_are_the_same_at_every_moment():
    """Else a later training is watched by what the earlier one learned from, and nothing it does looks better."""
    watched = []
    for n_shoppers, examples_each in ((300, 2), (450, 3)):
        shoppers = np.repeat(np.arange(n_shoppers, dtype=np.int32), examples_each)
        learn, watch = _hold_out(np.arange(len(shoppers)), shoppers, UserTowerConfig(held_out=0.1), seed=0)
        assert sorted([*learn.tolist(), *watch.tolist()]) == list(range(len(shoppers)))
        assert not set(shoppers[learn]) & set(shoppers[watch])
        assert 0.05 < len(watch) / len(shoppers) < 0.15
        watched.append(set(shoppers[watch]))
    assert {shopper for shopper in watched[1] if shopper < 300} == watched[0]


def test_an_item_that_nobody_knows_is_nowhere():
    items = make_items(4, 8)
    items[2:] = 0
    history = np.array([0, 1]), np.array([0], np.int32), np.array([PURCHASE], np.int8), np.ones(1, np.float32)
    taste = train_user_tower(items, *history, np.array([2], np.int32), UserTowerConfig(epochs=1), 0, 1, False)
    assert taste.items.any(axis=1).tolist() == [True, True, True, False]


def test_training_repeats_bit_for_bit(taste_tower):
    config = UserTowerConfig(interests=2, epochs=2, batch_size=128)
    data = make_planted_taste(600, seed=0)
    first, second = (train_user_tower(*data, config, seed=3, threads=1, progress=False) for _ in range(2))
    np.testing.assert_array_equal(first.items, second.items)
    for name, array in vars(first.tower).items():
        np.testing.assert_array_equal(array, getattr(second.tower, name))


def test_a_sampled_softmax_learns_it_too():
    _, *histories, targets = make_planted_taste(1000, seed=1)
    config = UserTowerConfig(
        interests=1, epochs=15, batch_size=128, patience=5, lr=1e-2, full_softmax_items=10, sampled_items=64
    )
    taste = train_user_tower(*make_planted_taste(4000, seed=0), config, seed=0, threads=1, progress=False)
    assert recall_at_10(taste.tower.user_vectors(taste.items, *histories), taste.items, targets) > 0.4


def test_two_interests_reach_two_tastes():
    """Half of each history is of one cluster, half of another; the next item is of either."""
    rng = np.random.default_rng(0)
    clusters, dim = 60, 6
    centres = make_items(clusters, dim, seed=5) * 2
    cluster = np.repeat(np.arange(clusters), 10)
    items = (centres[cluster] + 0.15 * rng.normal(size=(10 * clusters, dim))).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    n = 3000
    pair = np.array([rng.choice(clusters, 2, replace=False) for _ in range(n)])
    chosen = pair[np.arange(n)[:, None], rng.permuted(np.tile([0, 0, 0, 1, 1, 1], (n, 1)), axis=1)]
    rows = (chosen * 10 + rng.integers(0, 10, chosen.shape)).astype(np.int32)
    targets = (pair[np.arange(n), rng.integers(0, 2, n)] * 10 + rng.integers(0, 10, n)).astype(np.int32)
    offsets = np.arange(n + 1, dtype=np.int64) * 6
    types, ages = np.full(6 * n, PURCHASE, np.int8), np.tile(np.arange(6, 0, -1, dtype=np.float32), n)
    recall = {}
    for interests in (1, 3):
        config = UserTowerConfig(interests=interests, epochs=10, batch_size=128, lr=1e-2, patience=5)
        taste = train_user_tower(
            items, offsets[:2501], rows[:2500].ravel(), types[:15000], ages[:15000], targets[:2500], config, 0, 1, False
        )
        vectors = taste.tower.user_vectors(taste.items, offsets[:501], rows[2500:].ravel(), types[15000:], ages[15000:])
        scores = (vectors @ taste.items.T).max(axis=1)
        top = np.argpartition(-scores, 20, axis=1)[:, :20]
        recall[interests] = (top == targets[2500:, None]).any(axis=1).mean()
    assert recall[3] > recall[1] + 0.05


def test_without_examples_the_tower_is_a_recency_weighted_mean():
    items = make_items(50, 8)
    empty = np.zeros(0)
    taste = train_user_tower(
        items,
        np.zeros(1, np.int64),
        empty.astype(np.int32),
        empty.astype(np.int8),
        empty.astype(np.float32),
        empty.astype(np.int32),
        UserTowerConfig(),
        seed=0,
        threads=1,
        progress=False,
    )
    tower = taste.tower
    np.testing.assert_allclose(taste.items[:, :8], items, atol=1e-6)  # content alone
    once = tower.user_vectors(
        taste.items, np.array([0, 1]), np.array([7], np.int32), np.array([PURCHASE], np.int8), np.ones(1, np.float32)
    )
    np.testing.assert_allclose(once[0], [taste.items[7]] * tower.interests, atol=1e-6)


def test_bad_input_is_named():
    items, offsets, rows, event_types, ages, targets = make_planted_taste(20, seed=0)
    config = UserTowerConfig()
    with pytest.raises(SchemaError, match="lengths"):
        train_user_tower(items, offsets, rows[:-1], event_types, ages, targets, config, 0, 1, False)
    with pytest.raises(SchemaError, match=r"targets in \[0, 288\)"):
        train_user_tower(items, offsets, rows, event_types, ages, targets + 280, config, 0, 1, False)
    with pytest.raises(SchemaError, match=r"\[n, 16\]"):
        exported(make_tower(16, 1)).user_vectors(items, offsets, rows, event_types, ages)
    with pytest.raises(ConfigError, match=r"users\.interests"):
        UserTowerConfig(interests=0)
