"""Peers on more than fits at once: in blocks they say what they would say of everything together."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import sparse

from benchmarks import peers
from benchmarks.pctm import BEAUTY, best_unseen, pctm
from benchmarks.sequence_files import Sequences


def shop_of(train: list[list[int]], n_items: int) -> Sequences:
    """Everybody is asked, for item 0."""
    users = np.arange(len(train))
    return Sequences([str(row) for row in range(n_items)], train, users, np.zeros(len(train), np.int32))


@settings(max_examples=60)
@given(st.data(), st.integers(1, 6), st.integers(1, 9), st.integers(1, 12))
def test_the_best_unseen_are_those_of_a_plain_sort(data: st.DataObject, n_users: int, n_items: int, k: int) -> None:
    few = st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0])  # so that there are ties
    scores = data.draw(arrays.arrays(np.float64, (n_users, n_items), elements=few))
    rows = st.lists(st.integers(0, n_items - 1), max_size=n_items)
    train = data.draw(st.lists(rows, min_size=n_users, max_size=n_users))
    found = best_unseen(lambda some: scores[some].copy(), shop_of(train, n_items), k)
    for user, had in enumerate(train):
        unseen = sorted((-scores[user, row], row) for row in range(n_items) if row not in had)
        expected = [row for _, row in unseen][:k]
        assert found[user].tolist() == expected + [-1] * (k - len(expected))


def test_pctm_in_blocks_says_the_same_and_never_holds_all_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    n_users, n_items = 2_000, 500
    shop = shop_of([rng.permutation(n_items)[:6].tolist() for _ in range(n_users)], n_items)
    whole = pctm(shop, BEAUTY, 10)
    monkeypatch.setattr("benchmarks.pctm.SCORES_AT_ONCE", 50 * n_items)
    tracemalloc.start()
    try:
        in_blocks = pctm(shop, BEAUTY, 10)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(in_blocks, whole)
    assert peak < 8 * n_users * n_items


def test_a_closed_form_is_held_against_what_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    n = 30
    taken = sparse.csr_matrix(np.tril(np.ones((n, n))))
    asked = np.arange(3)
    monkeypatch.setattr(peers, "available_bytes", lambda: 20 * n * n)
    assert peers.ease(taken, asked, 10, penalty=1.0, min_buyers=1, repeats=False).shape == (3, 10)
    monkeypatch.setattr(peers, "available_bytes", lambda: 20 * n * n - 1)
    with pytest.raises(MemoryError, match="30 items need"):
        peers.ease(taken, asked, 10, penalty=1.0, min_buyers=1, repeats=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MemTotal:       24000000 kB\nMemFree:  1 kB\nMemAvailable:   1024 kB\n", 1024 * 1024),
        ("MemTotal:       24000000 kB\n", None),  # as old kernels say it
        (None, None),  # as other systems do
    ],
)
def test_memory_is_what_the_kernel_says_is_available(tmp_path, text: str | None, expected: int | None) -> None:
    if text is not None:
        (tmp_path / "meminfo").write_text(text)
    all_of_it = peers.available_bytes(tmp_path / "nothing")
    assert peers.available_bytes(tmp_path / "meminfo") == (expected or all_of_it)
    assert 0 < peers.available_bytes() <= all_of_it
