"""PCTM on sequences: what follows the newest items, by the logarithm of how often it did, and a share of popularity.

Its settings are published for two files, and stand here. Of any other file, whatever its name, τ and λ are chosen on
the last item of train, so that the peer is not held back by the settings of another shop; the rest is Beauty's.

Source: "Sequential capacity probes", RecSys 2026.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from benchmarks.sequence_files import Sequences
from recsys.histories import PURCHASE, Float64, Int32, Interactions
from recsys.retrieval.items import log_transition_weights, transition_counts

HISTORY = 50
TRIED_ON = 5_000  # users that settings are chosen on
SCORES_AT_ONCE = 20_000_000  # 160 MB

Scores = Callable[[slice], Float64]  # some of the asked users → the score of each item, a new array [some, n]


@dataclass(frozen=True)
class Settings:
    """Free numbers of PCTM.

    Attributes:
        tau: τ; the larger beside the number of items, the nearer to plain counts.
        decay: of an item's weight with each newer one.
        newest_share: of the weight that the newest ten have.
        popularity: λ, the weight of the logarithm of an item's share of train.
    """

    tau: float
    decay: float
    newest_share: float
    popularity: float


BEAUTY = Settings(11_250.0, 0.6, 1.0, -0.04)
PUBLISHED = {  # by the name and the users of the file
    ("Beauty", 22_363): BEAUTY,
    ("Sports_and_Outdoors", 35_598): Settings(15_000.0, 0.7, 0.8, 0.0),
}


def settings_for(name: str, data: Sequences) -> Settings:
    """The published ones where ``data`` is that file by its name and its users, else those chosen on ``data``."""
    published = PUBLISHED.get((name, len(data.train)))
    if published is not None:
        return published
    n_items = len(data.item_ids)
    inner = _inner(data)
    tried = [
        replace(BEAUTY, tau=tau_per_item * n_items, popularity=popularity)
        for tau_per_item in (1.0, 0.1, 0.3, 3.0, 10.0)  # of equals the first: about what is published
        for popularity in (-0.04, 0.0, 0.02, 0.1)
    ]
    counts = _transitions(inner)
    best = max(tried, key=lambda settings: _ndcg(inner, counts, settings))
    print(f"  PCTM: τ={best.tau:,.0f} and λ={best.popularity:g} chosen on train", flush=True)
    return best


def pctm(data: Sequences, settings: Settings, k: int) -> Int32:
    """The k best of each asked user, none that they had: rows int32 [q, k], -1 in an empty place."""
    return best_unseen(_scores(data, _transitions(data), settings), data, k)


def log_share(data: Sequences) -> Float64:
    """Logarithm of each item's share of train, smoothed by one, float64 [n]."""
    counts = data.buyers + 1.0
    share: Float64 = np.log(counts / counts.sum())
    return share


def best_unseen(scores: Scores, data: Sequences, k: int) -> Int32:
    """The k best by ``scores`` of what each asked user has not had, int32 [q, k]; ties: the lower row."""
    out = np.full((len(data.users), k), -1, np.int32)
    for start, block in _unseen(scores, data):
        best = _best(block, k)
        shown = np.where(np.take_along_axis(block, best, axis=1) > -np.inf, best, -1)
        out[start : start + len(block), : best.shape[1]] = shown
    return out


def _best(block: Float64, k: int) -> np.ndarray:
    """The columns of the k largest of each row, largest first; of equals the lower one. Sorts no more than those."""
    if k < block.shape[1]:
        least = -np.partition(-block, k - 1, axis=1)[:, k - 1, None]  # the k-th largest
        above, level = block > least, block == least
        room = k - above.sum(axis=1, keepdims=True)
        level &= np.cumsum(level, axis=1, dtype=np.int32) <= room
        columns = np.nonzero(above | level)[1].reshape(len(block), k)
    else:
        columns = np.tile(np.arange(block.shape[1]), (len(block), 1))
    order = np.argsort(-np.take_along_axis(block, columns, axis=1), axis=1, kind="stable")
    best: np.ndarray = np.take_along_axis(columns, order, axis=1)
    return best


def _unseen(scores: Scores, data: Sequences) -> Iterator[tuple[int, Float64]]:
    """(first of some asked users, their scores [some, n], -inf for what they had), so many that memory is bounded."""
    step = max(1, SCORES_AT_ONCE // len(data.item_ids))
    for start in range(0, len(data.users), step):
        some = slice(start, start + step)
        block = scores(some)
        for place, user in enumerate(data.users[some].tolist()):
            block[place, data.train[user]] = -np.inf
        yield start, block


def _transitions(data: Sequences) -> sparse.csr_matrix:
    lengths = [len(line) for line in data.train]
    users = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    days = np.concatenate([np.arange(length, dtype=float) for length in lengths])
    types, pieces = np.full(len(users), PURCHASE, np.int8), np.ones(len(users), np.float32)
    walk = Interactions(users, data.rows, types, days, pieces)
    return transition_counts(walk, len(data.item_ids), max_distance=10, distance_power=0.5)


def _scores(data: Sequences, transitions: sparse.csr_matrix, settings: Settings) -> Scores:
    follows = log_transition_weights(transitions, len(data.item_ids) / settings.tau)
    weights = _weights(data, settings.decay, settings.newest_share)
    everywhere = settings.popularity * log_share(data)

    def scores(some: slice) -> Float64:
        block: Float64 = (weights[some] @ follows).toarray() + everywhere
        return block

    return scores


def _weights(data: Sequences, decay: float, newest_share: float) -> sparse.csr_matrix:
    """Each asked user's weights over their newest items: a decay with age, some of it kept for what is older."""
    rows, columns, values = [], [], []
    for place, user in enumerate(data.users.tolist()):
        line = data.train[user][-HISTORY:]
        if not line:
            continue
        age = np.arange(len(line))[::-1]
        newest = np.where((age < 10) | (newest_share == 1.0), decay**age, 0)
        older = np.where(newest > 0, 0, 1.0)
        weight = newest / newest.sum()
        if older.sum() > 0:
            weight = newest_share * weight + (1 - newest_share) * older / older.sum()
        rows += [place] * len(line)
        columns += line
        values += weight.tolist()
    return sparse.csr_matrix((values, (rows, columns)), shape=(len(data.users), len(data.item_ids)))


def _inner(data: Sequences) -> Sequences:
    """Train without its lines' last items, which TRIED_ON of the users are asked for, drawn with seed 0."""
    able = [user for user, line in enumerate(data.train) if len(line) > 1 and line[-1] not in line[:-1]]
    users = np.random.default_rng(0).permutation(np.array(able, int))[:TRIED_ON]
    targets = np.array([data.train[user][-1] for user in users.tolist()], np.int32)
    return Sequences(data.item_ids, [line[:-1] for line in data.train], users, targets)


def _ndcg(data: Sequences, transitions: sparse.csr_matrix, settings: Settings) -> float:
    """NDCG@10 of the targets, summed over the asked users."""
    total = 0.0
    for start, block in _unseen(_scores(data, transitions, settings), data):
        target = data.targets[start : start + len(block), None]
        own = np.take_along_axis(block, target, axis=1)
        before = (block > own) | ((block == own) & (np.arange(block.shape[1]) < target))
        place = before.sum(axis=1) + 1
        total += float((1 / np.log2(place[place <= 10] + 1)).sum())
    return total
