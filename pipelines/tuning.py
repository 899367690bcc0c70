"""Self-tuning: the night chooses its own free numbers on the newest label window, before the ranker learns from it.

A shop sets nothing by hand. What fades how fast, what counts how much, how deep to look and how the ranker grows its
trees is asked of requests whose answers are known and which the test window never sees. A value is only changed where
the mean gain exceeds one standard error (the rule of Breiman et al. 1984): a shop of 500 purchases keeps the defaults,
but for accidents that cost it little, and one of millions does not. Two numbers follow from counts instead: whether
what a shopper had is a candidate, and how many candidates go on.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np

from recsys.errors import require_at_least
from recsys.evaluation.requests import EvaluationSet
from recsys.histories import Float32, Float64, Histories, Interactions, read_histories
from recsys.ranking.train import Examples, RankerConfig, draw_examples, try_ranker
from recsys.retrieval.fit import IndexedContent, TablesConfig, copurchase_of, linear_of, trending_scores
from recsys.retrieval.items import ItemTable
from recsys.retrieval.links import read_links
from recsys.retrieval.retrieve import (
    SOURCES,
    TABLES,
    Retrieval,
    RetrievalConfig,
    fuse,
    retrieve,
    steps_from_newest,
)

K = 12  # places that count
DECAYS = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
DEFAULT_WEIGHTS = RetrievalConfig().fusion_weight
# Each list holds the default: a night that starts from another value must be able to come back to it.
HALF_LIVES_DAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
SHRINKAGES = (0.0, 1.0, 4.0, 16.0, 64.0)
PENALTIES = (50.0, 150.0, 500.0)  # each costs an inverse
SOLVED_TOGETHER = (4_000, 16_000)  # items of the linear model: the larger one where that pays, a matrix of 1 GiB
RESERVE = 0.5  # of the time, which no inverse may take: what each source is worth matters more
# Leaves, learning rate, smallest leaf: from coarse trees for few requests to fine ones for many.
SHAPES = ((7, 0.08, 400), (15, 0.05, 200), (31, 0.05, 100))
# Not the scale inside the logarithm, nor what content counts in the linear model: chosen by what a table finds alone,
# they made the first stage better and the ranked list no better.
TUNED_TABLES = ("trending_half_life_days", "shrinkage", "linear_penalty", "linear_items")
DEPTHS = (100, 150, 200)
FEW = 20  # requests, below which a standard error says nothing, and every number stays
ENOUGH = 100  # things taken that say whether anything is taken twice, and how deep a list must be
RARELY = 0.005  # of what is taken: things that come again so rarely only stand in the place of others
KEPT_RECALL = 0.97  # of what the deepest list holds: a shallower one that has it is enough


@dataclass(frozen=True)
class TuningConfig:
    """What tuning may cost.

    Attributes:
        enabled: False keeps every number as it is configured.
        max_requests: of shoppers with a history in the label window, drawn evenly.
        seconds: of processor time for trials, after which no further one begins; what was not reached stays. Meant as
            a bound, not as a pace, and so wide: reaching it is noted in the manifest, and two nights on the same input
            may differ.
    """

    enabled: bool = True
    max_requests: int = 1_000
    seconds: float = 300.0

    def __post_init__(self) -> None:
        require_at_least("tuning", self, max_requests=1, seconds=0)


@dataclass(frozen=True)
class Trial:
    """One number, as it was and as it is, with NDCG@12 of what it decides on the inner split; of "most", recall."""

    name: str
    before: Any
    after: Any
    ndcg_before: float
    ndcg_after: float


@dataclass(frozen=True)
class Inner:
    """Requests with known answers, as arrays.

    Attributes:
        histories: of the q requests.
        wanted: ragged rows that each shopper then took, one array a request.
    """

    histories: Histories
    wanted: list[np.ndarray]

    @cached_property
    def share_had(self) -> float:
        """The share of the things taken that their shopper had to do with before."""
        had = (np.isin(mine, self.histories.had_by(request)).sum() for request, mine in enumerate(self.wanted))
        return float(sum(had)) / max(self.n_wanted, 1)

    @cached_property
    def n_wanted(self) -> int:
        """Things taken, of all requests together."""
        return sum(map(len, self.wanted))

    def ndcg(self, ranks: Sequence[np.ndarray]) -> Float64:
        """NDCG@K of each request from the rank of each wanted item, float64 [q]; inf where it was not found."""
        ideal = 1 / np.log2(np.arange(K) + 2)
        gained = [float((1 / np.log2(mine[mine <= K] + 1)).sum()) for mine in ranks]
        best = [float(ideal[: min(len(mine), K)].sum()) for mine in self.wanted]
        return np.array(gained) / np.maximum(best, 1e-9)


def inner_split(questions: EvaluationSet, rows: dict[str, int], history_limit: int) -> Inner:
    """The questions whose answer the catalogue holds."""
    wanted = [np.array([rows[i] for i in taken if i in rows], np.int64) for taken in questions.relevant]
    asked = [place for place, mine in enumerate(wanted) if len(mine)]
    histories = read_histories([questions.requests[place] for place in asked], rows, history_limit)
    return Inner(histories, [wanted[place] for place in asked])


def chosen_numbers(tables: TablesConfig, retrieval: RetrievalConfig, ranker: RankerConfig) -> dict[str, Any]:
    """Every number that tuning may choose, by name, as it stands in these configurations."""
    return {
        **{f"tables.{key}": getattr(tables, key) for key in TUNED_TABLES},
        **{f"retrieval.step_decay.{name}": value for name, value in retrieval.step_decay.items()},
        **{f"retrieval.fusion_weight.{name}": value for name, value in retrieval.fusion_weight.items()},
        "retrieval.most": retrieval.most,
        "retrieval.repeats": retrieval.repeats,
        "ranker.shape": [ranker.leaves, ranker.learning_rate, ranker.min_leaf],
    }


def start_from(
    numbers: Mapping[str, Any],
    tables: TablesConfig,
    retrieval: RetrievalConfig,
    ranker: RankerConfig,
    pinned: Collection[str],
) -> tuple[TablesConfig, RetrievalConfig, RankerConfig]:
    """The configurations with what an earlier night chose, where nobody set it by hand since.

    Args:
        numbers: see chosen_numbers(); a name that this code does not know is passed over.
        tables, retrieval, ranker: of this night.
        pinned: see Tuner.
    """
    for name in chosen_numbers(tables, retrieval, ranker):
        if name not in numbers or _is_pinned(name, pinned):
            continue
        value, (table, key, *source) = numbers[name], name.split(".")
        if name == "ranker.shape":
            ranker = replace(ranker, leaves=value[0], learning_rate=value[1], min_leaf=value[2])
        elif table == "tables":
            tables = replace(tables, **{key: value})
        elif source:
            retrieval = replace(retrieval, **{key: getattr(retrieval, key) | {source[0]: value}})
        else:
            retrieval = replace(retrieval, **{key: value})
    return tables, retrieval, ranker


def _is_pinned(name: str, pinned: Collection[str]) -> bool:
    """Whether the number, or a table it stands in, was set by hand; of a ranker's shape, any part of it."""
    if name == "ranker.shape":
        return any(_is_pinned(f"ranker.{part}", pinned) for part in ("leaves", "learning_rate", "min_leaf"))
    return any(name == one or name.startswith(f"{one}.") for one in pinned)


class Tuner:
    """Tries values in a fixed order and keeps those that are better by more than a standard error."""

    def __init__(self, inner: Inner, seconds: float, pinned: Collection[str] = ()) -> None:
        self.inner = inner
        self.trials: list[Trial] = []
        self.ran_out = False
        self._seconds = self._seconds_left = seconds
        self._pinned = pinned  # "table.key", or "table", of what was set by hand

    def choose(
        self, name: str, now: Any, values: Sequence[Any], judge: Callable[[Any], Float64], *, reserve: float = 0.0
    ) -> Any:
        """The best of ``values`` by the mean of ``judge(value)``, float64 [q]; ``now`` unless another gains more.

        ``now`` is always tried; it need not be one of the values, and stays where fewer than FEW requests judge.
        ``reserve`` is the share of all the time that is kept for what comes later.
        """
        if _is_pinned(name, self._pinned) or self._over(reserve):
            return now
        start = self._timed(judge, now)
        if len(start) < FEW:
            return now
        best, best_scores = now, start
        for value in values:
            if value == now or self._over(reserve):
                continue
            scores = self._timed(judge, value)
            if scores.mean() > best_scores.mean():
                best, best_scores = value, scores
        gain = best_scores - start
        error = gain.std(ddof=1) / np.sqrt(len(gain))
        if best == now or gain.mean() <= max(error, 1e-9):
            return now
        self.trials.append(Trial(name, now, best, float(start.mean()), float(best_scores.mean())))
        return best

    def whether_repeats(self, config: RetrievalConfig) -> RetrievalConfig:
        """Nobody is shown what they had where hardly anybody takes such things; a few things taken prove nothing."""
        if self.inner.n_wanted < ENOUGH or _is_pinned("retrieval.repeats", self._pinned):
            return config
        return replace(config, repeats=self.inner.share_had > RARELY)

    def how_many_go_on(self, config: RetrievalConfig, ranks: Sequence[np.ndarray]) -> RetrievalConfig:
        """The shallowest of DEPTHS and the present depth that holds nearly all that the deepest of them holds.

        ``ranks`` are of each request's wanted items in the fused order, inf where one was not found; few prove nothing.
        """
        if self.inner.n_wanted < ENOUGH or _is_pinned("retrieval.most", self._pinned):
            return config
        held = {most: sum(int((mine <= most).sum()) for mine in ranks) for most in {*DEPTHS, config.most}}
        best = next(most for most in sorted(held) if held[most] >= KEPT_RECALL * held[max(held)])
        if best == config.most:
            return config
        share = 1 / self.inner.n_wanted
        # Not NDCG but recall: how many of the wanted go on to the ranker.
        self.trials.append(Trial("retrieval.most", config.most, best, held[config.most] * share, held[best] * share))
        return replace(config, most=best)

    def led_by(self, source: str, weights: Mapping[str, float]) -> dict[str, float]:
        """``weights`` with one source far above the others, but for those set by hand; as they are for "none"."""
        if source not in weights:
            return dict(weights)
        led = {name: 0.05 * weight for name, weight in weights.items()} | {source: WEIGHTS[-1]}
        return {
            name: weights[name] if _is_pinned(f"retrieval.fusion_weight.{name}", self._pinned) else weight
            for name, weight in led.items()
        }

    def _over(self, reserve: float) -> bool:
        over = self._seconds_left <= reserve * self._seconds
        self.ran_out = self.ran_out or over
        return over

    def _timed(self, judge: Callable[[Any], Float64], value: Any) -> Float64:
        started = time.process_time()
        scores = judge(value)
        self._seconds_left -= time.process_time() - started
        return scores


def tune_tables(
    tuner: Tuner,
    content: IndexedContent,
    retrieval: Retrieval,
    events: Interactions,
    config: TablesConfig,
    now: float,
    everybody: Inner,
) -> TablesConfig:
    """How the tables are counted: TUNED_TABLES, one after another.

    Args:
        tuner: with the inner split.
        content: the sources that do not depend on the moment.
        retrieval: as fitted with ``config`` at the start of the window.
        events: what it was fitted on.
        config: to start from.
        now: the start of the window, days since 1970.
        everybody: who came in the window, newcomers too, whom what sells now is for; more of them, as it costs little.
    """
    inner, decay, n_items = tuner.inner, retrieval.config.step_decay, len(content.item_ids)

    def by_trend(tried: TablesConfig) -> Float64:
        order = np.argsort(-trending_scores(events, n_items, now, tried.trending_half_life_days), kind="stable")
        rank = np.empty(n_items)
        rank[order] = np.arange(1, n_items + 1)
        return everybody.ndcg([rank[mine] for mine in everybody.wanted])

    def by_copurchase(tried: TablesConfig) -> Float64:
        return table_ndcg(inner, copurchase_of(events, n_items, tried), decay["copurchase"])

    @cache
    def by_linear(tried: TablesConfig) -> Float64:
        return table_ndcg(inner, linear_of(events, content, tried), decay["linear"])

    trials: list[tuple[str, Sequence[Any], Callable[[TablesConfig], Float64]]] = [
        ("trending_half_life_days", HALF_LIVES_DAYS, by_trend),
        ("shrinkage", SHRINKAGES, by_copurchase),
        ("linear_penalty", PENALTIES, by_linear),
    ]
    if n_items > SOLVED_TOGETHER[0]:  # the dearest last; a smaller shop is solved whole already
        trials.append(("linear_items", SOLVED_TOGETHER, by_linear))
    for key, values, judge in trials:
        chosen = tuner.choose(
            f"tables.{key}",
            getattr(config, key),
            values,
            lambda value, key=key, judge=judge, config=config: judge(replace(config, **{key: value})),
            reserve=RESERVE if judge is by_linear else 0.0,
        )
        config = replace(config, **{key: chosen})
    return config


def tune_retrieval(tuner: Tuner, retrieval: Retrieval) -> RetrievalConfig:
    """How fast the past fades in each table, what each source counts in the fused order, and how many go on.

    A lead is chosen for ``fusion_weight`` first; it is not a number of its own, and so not among chosen_numbers().
    """
    config, inner = tuner.whether_repeats(retrieval.config), tuner.inner
    for name in TABLES:
        table = retrieval.tables[name]
        decay = tuner.choose(
            f"retrieval.step_decay.{name}",
            config.step_decay[name],
            DECAYS,
            lambda value, table=table: table_ndcg(inner, table, value),
        )
        config = replace(config, step_decay=config.step_decay | {name: decay})
    everything = replace(retrieval, config=replace(config, most=len(retrieval.trending) + 1))
    brought = retrieve(everything, inner.histories)
    spans = list(zip(brought.offsets[:-1].tolist(), brought.offsets[1:].tolist()))
    places = [
        start + np.flatnonzero(np.isin(brought.rows[start:stop], mine))
        for (start, stop), mine in zip(spans, inner.wanted)
    ]

    # What each source says at weight 1: fuse() is linear in the weights.
    said = np.stack([fuse(brought.ranks.T, dict.fromkeys(SOURCES, 0.0) | {source: 1.0}) for source in SOURCES])

    def ranks_by(weights: dict[str, float]) -> list[np.ndarray]:
        fused = np.array([weights[source] for source in SOURCES], np.float32) @ said
        return [
            (fused[start:stop] >= fused[mine][:, None]).sum(axis=1) if len(mine) else np.zeros(0)
            for (start, stop), mine in zip(spans, places)
        ]

    # One weight at a time never gets from "all alike" to "mostly this one", which is best where one source knows most.
    lead = tuner.choose(
        "retrieval.lead",
        "none",
        SOURCES,
        lambda source: inner.ndcg(ranks_by(tuner.led_by(source, config.fusion_weight))),
    )
    weights = tuner.led_by(lead, config.fusion_weight)
    for _ in range(2):
        for source in SOURCES:
            chosen = tuner.choose(
                f"retrieval.fusion_weight.{source}",
                weights[source],
                sorted({*WEIGHTS, DEFAULT_WEIGHTS[source]}),
                lambda value, source=source: inner.ndcg(ranks_by(weights | {source: value})),
            )
            weights[source] = chosen
    return tuner.how_many_go_on(replace(config, fusion_weight=weights), ranks_by(weights))


def tune_ranker(
    tuner: Tuner, examples: Examples, config: RankerConfig, max_requests: int, seed: int, threads: int
) -> RankerConfig:
    """How the trees grow: by how they order a third of the requests after learning from the others."""
    some = draw_examples(examples, max_requests, seed)
    if len(some) < 60:
        return config

    def judge(shape: tuple[int, float, int]) -> Float64:
        leaves, rate, smallest = shape
        shaped = replace(config, leaves=leaves, learning_rate=rate, min_leaf=smallest)
        return try_ranker(some, shaped, seed=seed, threads=threads)[0]

    now = (config.leaves, config.learning_rate, config.min_leaf)
    leaves, rate, smallest = tuner.choose("ranker.shape", now, SHAPES, judge)
    return replace(config, leaves=leaves, learning_rate=rate, min_leaf=smallest)


def table_ndcg(inner: Inner, table: ItemTable, decay: float) -> Float64:
    """NDCG of one table alone, with this decay a step, among what is new to the shopper.

    What they have resembles it most of all: it would stand before everything that a table is there to find.
    """
    steps = steps_from_newest(inner.histories)
    found = []
    for request, ((start, stop), mine) in enumerate(zip(inner.histories.spans(), inner.wanted)):
        past = inner.histories.rows[start:stop]
        weights: Float32 = np.float32(decay) ** steps[start:stop]
        links = read_links([table], past)
        (scores,) = links.summed(weights[None, :])
        scores[np.isin(links.rows, inner.histories.had_by(request))] = 0
        here = np.flatnonzero(np.isin(links.rows, mine) & (scores > 0))
        # Ties count against.
        found.append((scores >= scores[here][:, None]).sum(axis=1) if len(here) else np.zeros(0))
    return inner.ndcg(found)
