"""Candidates for a batch of requests, from every source.

Every source may bring items, and every source is asked about every item that any of them brought: "not on your list"
and "on your list, far down" are different things to a ranker.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from recsys.errors import require_at_least
from recsys.histories import Float32, Histories, Int32, Int64
from recsys.retrieval.index import ItemIndex
from recsys.retrieval.items import ItemTable
from recsys.retrieval.links import read_links
from recsys.retrieval.places import RRF, best_of_new, ranks_among_new
from recsys.retrieval.users import UserTower

# Item→item tables, in the order of their columns. What each holds is fitted in recsys/retrieval/fit.py.
TABLES = ("transitions", "adjacent", "reversed", "copurchase", "linear", "content", "attributes")
SOURCES = (*TABLES, "taste", "history", "trending", "new")
N_PERSONAL = SOURCES.index("trending")  # the sources before it know the shopper or the page
# What the best candidates say of each other: through the tables named, and in the taste space. See _feedback().
FED_BACK = ("transitions", "copurchase")
FEEDBACK = (*(f"{table}_from_best" for table in FED_BACK), "taste_to_best")
# fuse()'s weights for who has no known past, whatever the sources count for others: what sells, the newest after it.
WITHOUT_PAST = dict.fromkeys(SOURCES, 0.0) | {"trending": 1.0, "new": 0.001}


@dataclass(frozen=True)
class RetrievalConfig:
    """How many candidates, and how fast the past fades.

    Attributes:
        history_limit: newest events of a shopper that count.
        repeats: whether what a shopper had to do with before is a candidate. The night turns it off where hardly
            anybody takes such a thing: it would stand in the place of something new.
        depth: candidates that each personal source may bring.
        trending_depth: the same for what sells now, which everybody gets.
        new_depth: the same for the newest arrivals.
        most: candidates that go on to the ranker, the best by the fused order; each costs features and a prediction.
        exact_items: where at most so many items may be shown, and too few of them were brought, all of them are
            candidates: a narrow filter is answered exactly.
        step_decay: weight of an event relative to the one a step (a distinct time) newer, by table.
        fusion_weight: of each source in the fused order, the one that stands when there is no ranker.
    """

    history_limit: int = 50
    repeats: bool = True
    depth: int = 60
    trending_depth: int = 60
    new_depth: int = 12
    most: int = 200
    exact_items: int = 1_000
    step_decay: dict[str, float] = field(
        default_factory=lambda: {
            "transitions": 0.6,
            "adjacent": 0.0,
            "reversed": 0.6,
            "copurchase": 0.8,
            "linear": 0.9,
            "content": 0.8,
            "attributes": 0.8,
        }
    )
    fusion_weight: dict[str, float] = field(
        # Arrivals only decide between equals: where nothing sells, the newest come first.
        default_factory=lambda: (
            {source: 1.0 for source in SOURCES} | {"new": 0.001, "trending": 0.5, "content": 0.5, "attributes": 0.5}
        )
    )

    def __post_init__(self) -> None:
        require_at_least(
            "retrieval", self, history_limit=1, depth=1, trending_depth=0, new_depth=0, most=1, exact_items=0
        )
        require_at_least("retrieval.step_decay", self.step_decay, **dict.fromkeys(self.step_decay, 0))
        require_at_least("retrieval.fusion_weight", self.fusion_weight, **dict.fromkeys(self.fusion_weight, 0))


@dataclass(frozen=True)
class Retrieval:
    """Everything that brings candidates, fitted on events before one moment.

    Attributes:
        index: Faiss over ``embeddings``: what resembles what.
        embeddings: float32 [n, d], the aligned space, unit norm or zero.
        tower: history → user vectors in the taste space.
        taste: float32 [n, d'], where each item lies in it, unit norm or zero.
        taste_index: Faiss over ``taste``; None when it could not be opened, and that source is silent.
        tables: one ItemTable for each name in TABLES.
        trending: float32 [n], recent sales with a decay; 0 where nothing sells.
        trending_rows: int32, rows that sell, best first.
        newest: int32, rows of known arrival, newest first.
        config: see RetrievalConfig.
    """

    index: ItemIndex | None
    embeddings: Float32
    tower: UserTower
    taste: Float32
    taste_index: ItemIndex | None
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
        ranks: float32 [c, len(SOURCES)], 1 for the source's best among these candidates, of which those that are in
            the shopper's past do not count: they resemble it most of all, and would stand before everything new. NaN
            where a source says nothing.
        newest_step: float32 [c, len(TABLES)], what each table says by the newest step of the history alone, undecayed;
            NaN where nothing. The sum over all of the history hides what has just begun.
        strongest: float32 [c, len(TABLES)], the heaviest single link from the history, undecayed; NaN where none. In
            the sum, one good reason and ten weak ones look alike.
        feedback: float32 [c, len(FEEDBACK)], how near each is to the best of the others.
        fused: float32 [c], reciprocal rank fusion over the sources: the order when there is no ranker.
    """

    offsets: Int64
    rows: Int32
    scores: Float32
    ranks: Float32
    newest_step: Float32
    strongest: Float32
    feedback: Float32
    fused: Float32

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def request_of(self) -> Int64:
        """The request that owns each candidate, int64 [c]."""
        return np.repeat(np.arange(len(self.offsets) - 1, dtype=np.int64), np.diff(self.offsets))


def retrieve(retrieval: Retrieval, histories: Histories, available: npt.NDArray[np.bool_] | None = None) -> Candidates:
    """Ask every source, unite what they bring, and let each score all of it.

    Each request is computed by itself: alone and in any batch it gets the same bits.

    Args:
        retrieval: the sources.
        histories: q requests.
        available: bool [n], what may be shown. What may not is retrieved all the same, since ranks and shares among the
            candidates are what the ranker learned from; but where few items may be shown, and fewer than ``depth`` of
            them were brought, the rest of them joins. None: everything.
    """
    few = _few_rows(available, retrieval.config.exact_items)
    steps = steps_from_newest(histories)
    vectors = retrieval.tower.user_vectors(
        retrieval.taste, histories.offsets, histories.rows, histories.event_types, histories.age_days
    )
    repeats, spans = retrieval.config.repeats, list(histories.spans())
    # What a shopper had is a candidate anyway, or none at all: nobody needs to look for it.
    had = [histories.rows[start:stop] if repeats else histories.had_by(n) for n, (start, stop) in enumerate(spans)]
    nearest = _nearest_rows(retrieval.taste_index, vectors, had, retrieval.config.depth)
    return _join(
        [
            _ask_sources(
                retrieval,
                histories.rows[start:stop],
                steps[start:stop],
                vectors[request],
                nearest[request],
                few,
                None if repeats else had[request],
            )
            for request, (start, stop) in enumerate(spans)
        ]
    )


def _join(parts: Sequence[Candidates]) -> Candidates:
    """Those of each request, one after another."""
    if len(parts) == 1:
        return parts[0]
    offsets = np.zeros(len(parts) + 1, np.int64)
    if not parts:
        nothing = np.zeros((0, len(SOURCES)), np.float32)
        of_tables, feedback = nothing[:, : len(TABLES)], nothing[:, : len(FEEDBACK)]
        return Candidates(
            offsets, np.zeros(0, np.int32), nothing, nothing, of_tables, of_tables, feedback, nothing[:, 0]
        )
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    return Candidates(
        offsets,
        rows=np.concatenate([part.rows for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        ranks=np.concatenate([part.ranks for part in parts]),
        newest_step=np.concatenate([part.newest_step for part in parts]),
        strongest=np.concatenate([part.strongest for part in parts]),
        feedback=np.concatenate([part.feedback for part in parts]),
        fused=np.concatenate([part.fused for part in parts]),
    )


def _ask_sources(
    retrieval: Retrieval,
    past: Int32,
    steps: Float32,
    vectors: Float32,
    nearest: Int32,
    few: Int32 | None,
    barred: Int32 | None,
) -> Candidates:
    """One request: the rows that any source brings, ascending, and what every source says of each.

    Args:
        past: rows of the history, oldest first, int32 [h].
        steps: see steps_from_newest(), float32 [h].
        vectors: of the shopper, float32 [interests, d].
        nearest: rows that the index brought for them.
        few: see _few_rows().
        barred: rows that are no candidates, any number of times each; None: all are.
    """
    config = retrieval.config
    decay = np.array([config.step_decay[name] for name in TABLES], np.float32)
    links = read_links([retrieval.tables[name] for name in TABLES], past)
    summed = links.summed(decay[:, None] ** steps)
    rows, narrow = _bring(retrieval, links.rows, summed, past, nearest, few, barred)
    scores = _scores_of(retrieval, rows, links.at(rows, summed), past, steps, vectors)

    unknown, known = np.isnan(scores), np.isin(rows, past)
    ranks = ranks_among_new(np.where(unknown, np.inf, -scores), known)
    ranks[unknown] = np.nan
    fused = fuse(ranks, config.fusion_weight)
    if len(rows) > config.most and not narrow:
        best = np.sort(np.argsort(-fused, kind="stable")[: config.most])
        rows, fused, known = rows[best], fused[best], known[best]
        scores, ranks = scores[:, best], ranks[:, best]
    newest_step = links.at(rows, links.summed(np.tile(steps == 0, (len(TABLES), 1)).astype(np.float32)))
    strongest = links.at(rows, links.strongest())
    newest_step[newest_step <= 0] = np.nan
    strongest[strongest <= 0] = np.nan
    return Candidates(
        np.array([0, len(rows)], np.int64),
        rows,
        scores=scores.T,
        ranks=ranks.T,
        newest_step=newest_step.T,
        strongest=strongest.T,
        feedback=_feedback(retrieval, rows, *best_of_new(fused, ~known)),
        fused=fused,
    )


def _bring(
    retrieval: Retrieval,
    linked: Int32,
    links: Float32,
    past: Int32,
    nearest: Int32,
    few: Int32 | None,
    barred: Int32 | None,
) -> tuple[Int32, bool]:
    """The rows that any source brings, ascending; whether they had to be filled up with the ``few`` that may be shown.

    ``links`` [t, r] is how much each table links to each of ``linked`` [r].
    """
    config = retrieval.config
    if barred is not None:
        allowed = ~np.isin(linked, barred)
        linked, links = linked[allowed], links[:, allowed]
    sells, is_new = retrieval.trending_rows[: config.trending_depth], retrieval.newest[: config.new_depth]
    rows = np.unique(np.concatenate((*_best_linked(linked, links, config.depth), nearest, past, sells, is_new)))
    if barred is not None:
        rows = rows[~np.isin(rows, barred)]
        few = None if few is None else few[~np.isin(few, barred)]
    if few is None or np.isin(few, rows, assume_unique=True).sum() >= min(config.depth, len(few)):
        return rows, False
    return np.union1d(rows, few), True


def _scores_of(
    retrieval: Retrieval, rows: Int32, linked: Float32, past: Int32, steps: Float32, vectors: Float32
) -> Float32:
    """What every source says of ``rows`` [c], the tables saying ``linked`` [t, c]: float32 [s, c], NaN: nothing."""
    is_new = retrieval.newest[: retrieval.config.new_depth]
    scores = np.zeros((len(SOURCES), len(rows)), np.float32)  # 0: says nothing, until it becomes NaN below
    n_tables = len(TABLES)
    scores[:n_tables] = linked
    scores[n_tables + 1] = np.float32(0.8) ** steps @ (past[:, None] == rows)
    scores[n_tables + 2] = retrieval.trending[rows]
    scores[n_tables + 3] = (1 / np.arange(1, len(is_new) + 1, dtype=np.float32)) @ (is_new[:, None] == rows)
    scores[scores <= 0] = np.nan
    # An inner product may be zero or less and mean it; what is unknown here has no vector.
    scores[n_tables] = np.nan if retrieval.taste_index is None else _best_likeness(retrieval.taste[rows], vectors)
    return scores


def _feedback(retrieval: Retrieval, rows: Int32, best: Int64, weights: Float32) -> Float32:
    """FEEDBACK of ``rows`` [c], of which ``best`` [b] count ``weights``: float32 [c, len(FEEDBACK)], NaN: unknown."""
    out = np.full((len(rows), len(FEEDBACK)), np.nan, np.float32)
    if len(best):
        links = read_links([retrieval.tables[name] for name in FED_BACK], rows[best])
        out[:, :-1] = links.at(rows, links.summed(np.tile(weights, (len(FED_BACK), 1)))).T
        taste = retrieval.taste[rows]
        out[:, -1] = taste @ (weights @ taste[best])
        out[~taste.any(axis=1), -1] = np.nan
    return out


def fuse(ranks: Float32, weights: Mapping[str, float]) -> Float32:
    """Reciprocal rank fusion: Σ w_s / (RRF + rank_s) over the sources that know the item.

    Args:
        ranks: float32 [len(SOURCES), c], NaN where a source says nothing.
        weights: of each source.
    Returns:
        float32 [c].
    Source: Cormack et al. 2009, with weights.
    """
    of_source = np.array([[weights[source]] for source in SOURCES], np.float32)
    fused: Float32 = np.nan_to_num(of_source / (RRF + ranks)).sum(axis=0)
    return fused


def _few_rows(available: npt.NDArray[np.bool_] | None, most: int) -> Int32 | None:
    """The rows that may be shown, ascending, where they are at most ``most``; None where they are more."""
    if available is None or np.count_nonzero(available) > most:
        return None
    return np.flatnonzero(available).astype(np.int32)


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


def _best_linked(rows: Int32, scores: Float32, depth: int) -> list[Int32]:
    """Of each table the ``depth`` rows that it links to most."""
    if len(rows) > depth:
        best = np.argpartition(-scores, depth, axis=1)[:, :depth]
        return [rows[mine[values[mine] > 0]] for mine, values in zip(best, scores)]
    return [rows[values > 0] for values in scores]


def _nearest_rows(index: ItemIndex | None, vectors: Float32, had: Sequence[Int32], depth: int) -> list[Int32]:
    """What the index brings each request: every interest has its share of ``depth``; a zero vector brings nothing.

    Twice as many are asked for, since what a shopper ``had`` lies nearest, and is not wanted here.
    """
    requests, interests, dim = vectors.shape
    flat = vectors.reshape(-1, dim)
    asking = np.flatnonzero(flat.any(axis=1))
    if index is None or len(asking) == 0:
        return [np.zeros(0, np.int32)] * requests
    share = max(1, depth // interests)
    rows, _ = index.search(flat[asking], 2 * share)
    bounds = (asking // interests).searchsorted(np.arange(requests + 1)).tolist()
    brought = []
    for (start, stop), mine in zip(pairwise(bounds), had):
        found = rows[start:stop]
        fresh = (found >= 0) & ~np.isin(found, mine)
        brought.append(found[fresh & (fresh.cumsum(axis=1) <= share)])
    return brought


def _best_likeness(items: Float32, vectors: Float32) -> Float32:
    """The best inner product over a shopper's interests, float32 [c]; NaN for a shopper or an item without a vector."""
    known_vectors = vectors[vectors.any(axis=1)]
    if len(known_vectors) == 0:
        return np.full(len(items), np.nan, np.float32)
    best: Float32 = (known_vectors @ items.T).max(axis=0)
    best[~items.any(axis=1)] = np.nan
    return best
