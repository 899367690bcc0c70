"""Candidates for a batch of requests, from every source.

Every source may bring items, and every source is asked about every item that any of them brought: "not on your list"
and "on your list, far down" are different things to a ranker.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.histories import Float32, Histories, Int32, Int64
from recsys.retrieval.index import ItemIndex
from recsys.retrieval.items import ItemTable
from recsys.retrieval.users import UserTower

# Item→item tables, in the order of their columns. What each holds is fitted in recsys/retrieval/fit.py.
TABLES = ("transitions", "adjacent", "reversed", "copurchase", "content")
SOURCES = (*TABLES, "embedding", "history", "trending", "new")


@dataclass(frozen=True)
class RetrievalConfig:
    """How many candidates, and how fast the past fades.

    Attributes:
        history_limit: newest events of a shopper that count.
        depth: candidates that each personal source may bring.
        trending_depth: the same for what sells now, which everybody gets.
        new_depth: the same for the newest arrivals.
        step_decay: weight of an event relative to the one a step (a distinct time) newer, by table.
        fusion_weight: of each source in the fused order, the one that stands when there is no ranker.
    """

    history_limit: int = 50
    depth: int = 60
    trending_depth: int = 60
    new_depth: int = 12
    step_decay: dict[str, float] = field(
        default_factory=lambda: {
            "transitions": 0.6,
            "adjacent": 0.0,
            "reversed": 0.6,
            "copurchase": 0.8,
            "content": 0.8,
        }
    )
    fusion_weight: dict[str, float] = field(
        default_factory=lambda: {source: 1.0 for source in SOURCES} | {"new": 0.0, "trending": 0.5, "content": 0.5}
    )


@dataclass(frozen=True)
class Retrieval:
    """Everything that brings candidates, fitted on events before one moment.

    Attributes:
        index: Faiss over ``embeddings``; None when it could not be opened, and that source is silent.
        embeddings: float32 [n, d], unit norm or zero.
        tower: history → user vectors.
        tables: one ItemTable for each name in TABLES.
        trending: float32 [n], recent sales with a decay; 0 where nothing sells.
        trending_rows: int32, rows that sell, best first.
        newest: int32, rows of known arrival, newest first.
        config: see RetrievalConfig.
    """

    index: ItemIndex | None
    embeddings: Float32
    tower: UserTower
    tables: Mapping[str, ItemTable]
    trending: Float32
    trending_rows: Int32
    newest: Int32
    config: RetrievalConfig


@dataclass(frozen=True)
class Candidates:
    """What retrieval brought, sorted by row inside each request.

    Attributes:
        offsets: int64 [q+1].
        rows: int32 [c].
        scores: float32 [c, len(SOURCES)], each source's own scale; NaN where the source says nothing of the item.
        ranks: float32 [c, len(SOURCES)], 1 for the source's best among these candidates; NaN where it says nothing.
        fused: float32 [c], reciprocal rank fusion over the sources: the order when there is no ranker.
    """

    offsets: Int64
    rows: Int32
    scores: Float32
    ranks: Float32
    fused: Float32

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def request_of(self) -> Int64:
        """The request that owns each candidate, int64 [c]."""
        return np.repeat(np.arange(len(self.offsets) - 1, dtype=np.int64), np.diff(self.offsets))


def retrieve(retrieval: Retrieval, histories: Histories) -> Candidates:
    """Ask every source, unite what they bring, and let each score all of it.

    One request and a batch of them give the same numbers: nothing here mixes requests.
    """
    n_items = len(retrieval.embeddings)
    config = retrieval.config
    steps = steps_from_newest(histories)
    request_of = histories.request_of
    brought: list[Int64] = []
    opinions: list[tuple[Int64, Float32]] = []  # of each table: sorted keys, their scores; a key is request·n + row

    for name in TABLES:
        decay = np.float32(config.step_decay[name])
        keys, scores = score_table(retrieval.tables[name], histories.rows, request_of, decay**steps, n_items)
        opinions.append((keys, scores))
        brought.append(_best_keys(keys, scores, n_items, config.depth))

    vectors = retrieval.tower.user_vectors(
        retrieval.embeddings, histories.offsets, histories.rows, histories.event_types, histories.age_days
    )
    if retrieval.index is not None:
        brought.append(_nearest_keys(retrieval.index, vectors, histories, n_items, config.depth))
    in_history = np.unique(request_of * n_items + histories.rows)
    brought.append(in_history)
    for rows in (retrieval.trending_rows[: config.trending_depth], retrieval.newest[: config.new_depth]):
        brought.append((np.arange(len(histories))[:, None] * n_items + rows[None, :]).ravel())

    keys = np.unique(np.concatenate(brought))
    request, rows = np.divmod(keys, n_items)
    rows = rows.astype(np.int32)
    offsets = np.searchsorted(request, np.arange(len(histories) + 1))

    scores = np.full((len(keys), len(SOURCES)), np.nan, np.float32)
    for column, (known, values) in enumerate(opinions):
        scores[:, column] = _look_up(keys, known, values)
    column = len(TABLES)
    if retrieval.index is not None:
        scores[:, column] = _user_vector_scores(retrieval.embeddings, vectors, request, rows)
    history_keys, history_scores = _sum_by_key(request_of * n_items + histories.rows, np.float32(0.8) ** steps)
    scores[:, column + 1] = _look_up(keys, history_keys, history_scores)
    scores[:, column + 2] = np.where(retrieval.trending[rows] > 0, retrieval.trending[rows], np.nan)
    place_of_new = {int(row): place for place, row in enumerate(retrieval.newest[: config.new_depth])}
    scores[:, column + 3] = [1 / (1 + place_of_new[row]) if row in place_of_new else np.nan for row in rows.tolist()]

    ranks = np.column_stack([rank_within(request, scores[:, source]) for source in range(len(SOURCES))])
    fused = np.nansum(np.array([config.fusion_weight[s] for s in SOURCES]) / (20 + ranks), axis=1).astype(np.float32)
    return Candidates(offsets, rows, scores, ranks, fused)


def steps_from_newest(histories: Histories) -> Float32:
    """How many distinct times lie between an event and the newest of its request, float32 [m].

    Things bought together are one step: their order in a receipt means nothing.
    """
    if len(histories.rows) == 0:
        return np.zeros(0, np.float32)
    changes = np.concatenate([[0], histories.age_days[1:] != histories.age_days[:-1]]).cumsum()
    newest = changes[np.maximum(histories.offsets[1:] - 1, 0)]
    steps: Float32 = (np.repeat(newest, histories.lengths) - changes).astype(np.float32)
    return steps


def score_table(
    table: ItemTable, rows: Int32, request_of: Int64, weights: Float32, n_items: int
) -> tuple[Int64, Float32]:
    """score(c) = Σ_j w_j · E[h_j, c] over a request's history h, for every c that any h_j points to.

    Returns:
        Keys request·n_items + row, int64, ascending, and their scores, float32.
    """
    used = weights > 0
    neighbours = table.neighbours[rows[used]]
    values = table.weights[rows[used]] * weights[used, None]
    keys = request_of[used, None] * n_items + neighbours
    real = neighbours >= 0
    return _sum_by_key(keys[real], values[real])


def rank_within(group: npt.NDArray[np.integer[Any]], scores: npt.NDArray[Any]) -> Float32:
    """1 for a group's highest score, 2 for the next; NaN stays NaN; equal scores in the order given."""
    known = np.flatnonzero(~np.isnan(scores))
    order = known[np.lexsort((-scores[known], group[known]))]
    grouped = group[order]
    starts = np.flatnonzero(np.concatenate([[True], grouped[1:] != grouped[:-1]])) if len(order) else order
    lengths = np.diff(np.append(starts, len(order)))
    ranks = np.full(len(scores), np.nan, np.float32)
    ranks[order] = np.arange(len(order)) - np.repeat(starts, lengths) + 1
    return ranks


def _sum_by_key(keys: Int64, values: Float32) -> tuple[Int64, Float32]:
    unique, inverse = np.unique(keys, return_inverse=True)
    # bincount adds in the order given, so a request's sums do not depend on who else is in the batch.
    return unique, np.bincount(inverse, weights=values, minlength=len(unique)).astype(np.float32)


def _best_keys(keys: Int64, scores: Float32, n_items: int, depth: int) -> Int64:
    ranks = rank_within(keys // n_items, scores)
    return keys[ranks <= depth]


def _nearest_keys(index: ItemIndex, vectors: Float32, histories: Histories, n_items: int, depth: int) -> Int64:
    """Each interest brings its share of ``depth``; a request without history has no vector and gets nothing here."""
    asking = np.flatnonzero(histories.lengths > 0)
    interests, dim = vectors.shape[1:]
    if len(asking) == 0:
        return np.zeros(0, np.int64)
    rows, _ = index.search(vectors[asking].reshape(-1, dim), max(1, depth // interests))
    keys = np.repeat(asking, interests)[:, None] * n_items + rows
    return keys[rows >= 0]


def _user_vector_scores(embeddings: Float32, vectors: Float32, request: Int64, rows: Int32) -> Float32:
    """The best inner product over a shopper's interests, float32 [c]; NaN for a shopper or an item without a vector."""
    items = embeddings[rows]
    each = np.stack([np.einsum("cd,cd->c", vectors[request, i], items) for i in range(vectors.shape[1])])
    best = each.max(axis=0)
    known = np.any(items != 0, axis=1) & np.any(vectors[request, 0] != 0, axis=1)
    return np.where(known, best, np.nan).astype(np.float32)


def _look_up(wanted: Int64, known: Int64, values: npt.NDArray[np.float32]) -> Float32:
    """The value of each wanted key, NaN where ``known`` (ascending) does not hold it."""
    if len(known) == 0:
        return np.full(len(wanted), np.nan, np.float32)
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[place] == wanted, values[place], np.nan).astype(np.float32)
