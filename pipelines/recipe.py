"""From a catalogue, its vectors and the events so far to a release: the part of the night that offline tests repeat.

The night calls this twice, once up to the test window (to be judged) and once to the end (to be published); a benchmark
calls it on its own protocol. Whoever calls it, the ranker learns from candidates that retrieval, fitted on earlier
events only, really produced.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from pipelines.catalogue import Catalogue, arrival_days
from pipelines.newcomers import draw_newcomers, hide_arrivals, questions_about
from pipelines.tastes import train_taste
from pipelines.tuning import (
    Trial,
    Tuner,
    TuningConfig,
    chosen_numbers,
    inner_split,
    tune_ranker,
    tune_retrieval,
    tune_tables,
)
from recsys.alignment.users import UserTowerConfig
from recsys.artifacts import Manifest, Release
from recsys.evaluation.requests import EvaluationSet, build_requests
from recsys.histories import Float32, Float64, Interactions, days_since_epoch
from recsys.ranking.features import FeatureTables, fit_item_features
from recsys.ranking.train import Examples, RankerConfig, join_examples, train_ranker
from recsys.recommend import BATCH, score_inputs
from recsys.retrieval.fit import IndexedContent, TablesConfig, fit_retrieval, index_content
from recsys.retrieval.index import IndexConfig, build_index
from recsys.retrieval.retrieve import RetrievalConfig
from recsys.retrieval.users import Taste
from recsys.schema import HISTORY_EVENT_TYPES


@dataclass(frozen=True)
class ExamplesConfig:
    """Which requests the ranker learns from.

    Attributes:
        max_requests: of each time cut.
        newcomers: at most this many requests without history for each request with one; what they take is what sells.
        negatives: retrieved candidates kept of each request besides the relevant ones, drawn evenly.
        hidden_share: of the items whose past is hidden at a time, for the ranker to learn the order among newcomers.
        hidden_draws: how many such parts are asked about, each at the price of one more fit; 0 leaves it out.
        tower_examples: of the user tower, the newest.
    """

    max_requests: int = 12_000
    newcomers: float = 10.0
    negatives: int = 150
    hidden_share: float = 0.1
    hidden_draws: int = 1
    tower_examples: int = 150_000


@dataclass(frozen=True)
class RecipeConfig:
    """What fit_release() and fit_ranker() need to know."""

    tables: TablesConfig = TablesConfig()
    index: IndexConfig = IndexConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    examples: ExamplesConfig = ExamplesConfig()
    ranker: RankerConfig = RankerConfig()
    users: UserTowerConfig = UserTowerConfig()
    tuning: TuningConfig = TuningConfig()
    threads: int = 2
    seed: int = 0


@dataclass(frozen=True)
class ItemVectors:
    """What the encoders and the aligner made of the catalogue, by row.

    Attributes:
        fused: float32 [n, d], unit norm or zero: what the index holds.
        image, text: float16 [n, d'], unit norm or zero: for likeness features and explanations.
        cutoff: UTC; the behaviour that shaped them is from before it.
    """

    fused: Float32
    image: np.ndarray
    text: np.ndarray
    cutoff: datetime

    def content(self, attributes: np.ndarray) -> Float32:
        """All that is known of each item without any shopper: the spaces beside each other, float32 [n, c].

        ``attributes`` [n, d''] is that of the declared ones. Each space counts alike; a row is unit norm or zero.
        """
        beside = np.concatenate([self.fused, self.image, self.text, attributes], axis=1, dtype=np.float32)
        unit: Float32 = beside / np.maximum(np.linalg.norm(beside, axis=1, keepdims=True), 1e-9)
        return unit


@dataclass(frozen=True)
class Shop:
    """All that a night knows: arrays for fitting, the frame for making requests.

    Attributes:
        catalogue: items and reviews by row.
        interactions: every event, as arrays.
        events: the same as an EVENTS frame.
    """

    catalogue: Catalogue
    interactions: Interactions
    events: pl.DataFrame

    @property
    def target_types(self) -> tuple[str, ...]:
        """What a recommendation should lead to: purchases, or whatever a shop logs that has none."""
        return ("purchase",) if len(self.interactions.of_type("purchase")) else HISTORY_EVENT_TYPES

    @property
    def targets_days(self) -> Float64:
        """When those events happened, days since 1970 UTC."""
        return self.interactions.of_type(*self.target_types).time_days


Progress = Callable[[Iterable[int], str], Iterable[int]]


class Workshop:
    """Releases of one shop as of several moments; what two of them share is made once.

    The night makes two: one as of the test window, to be judged, and one as of the end, to be published. The ranker's
    time cuts of the second are those of the first moved on by one, so all but the newest are at hand.
    """

    def __init__(
        self, shop: Shop, vectors: ItemVectors, config: RecipeConfig, progress: Progress, *, shown: bool = False
    ) -> None:
        self.shop = shop
        self.vectors = vectors
        self.config = config
        self.content = index_shop(shop, vectors, config)
        self._progress = progress
        self._shown = shown
        # One release at a time: its tables are the largest thing that the night holds.
        self._latest: Release | None = None
        self._tastes: dict[datetime, Taste] = {}
        self._tuner: Tuner | None = None
        self._ranker_is_tuned = False
        self._examples: dict[tuple[datetime, datetime], list[Examples]] = {}

    def ranked_release(self, cuts: Sequence[tuple[datetime, datetime]], as_of: datetime) -> Release:
        """A release as of ``as_of`` whose ranker learned at each earlier cut.

        Args:
            cuts: label windows [start, end), each over before ``as_of``, all after the cut-off of the vectors.
            as_of: the release has seen what is before this.
        """
        parts = [part for start, end in cuts for part in self.examples(start, end)]
        parts += [part for start, end in cuts[-1:] for part in self.examples_of_newcomers(start, end)]
        ranker = None
        if parts:
            examples = join_examples(parts)
            self._tune_ranker(examples)
            config = self.config
            ranker = train_ranker(examples, config.ranker, seed=config.seed, threads=config.threads)
        return replace(self.release_at(as_of), ranker=ranker)

    def tune(self, cut: tuple[datetime, datetime], pinned: Collection[str] = ()) -> None:
        """Choose the free numbers of ``config`` on the label window ``cut``; see pipelines/tuning.py.

        To be called before anything is made: what was made with other numbers would stay. The ranker's own numbers are
        chosen when there are examples, in the time that is left.

        Args:
            cut: [start, end); nothing in it or after it may be what somebody is judged by.
            pinned: "table.key" of numbers that stay as they are.
        """
        start, _ = cut
        config = self.config
        release = self.release_at(start)
        inner = inner_split(
            self._questions(*cut, at_most=config.tuning.max_requests), release.rows, config.retrieval.history_limit
        )
        if not config.tuning.enabled or not inner.wanted:
            return
        tuner = self._tuner = Tuner(inner, config.tuning.seconds, pinned)
        now = days_since_epoch(start)
        events = self.shop.interactions.select(self.shop.interactions.time_days < now)
        retrieval = tune_retrieval(tuner, release.retrieval)
        tables = tune_tables(tuner, self.content, release.retrieval, events, config.tables, now)
        if (retrieval, tables) != (config.retrieval, config.tables):
            self._latest = None
        self.config = replace(config, retrieval=retrieval, tables=tables)

    @property
    def trials(self) -> list[Trial]:
        """What tuning changed."""
        return list(self._tuner.trials) if self._tuner else []

    def tuning_record(self) -> dict[str, Any]:
        """The same for the manifest."""
        if self._tuner is None:
            return {}
        config = self.config
        return {
            "requests": len(self._tuner.inner.wanted),
            "ran_out_of_time": self._tuner.ran_out,
            "numbers": chosen_numbers(config.tables, config.retrieval, config.ranker),
            "changed": [asdict(trial) for trial in self._tuner.trials],
        }

    def _tune_ranker(self, examples: Examples) -> None:
        if self._tuner is not None and not self._ranker_is_tuned:
            config = self.config
            ranker = tune_ranker(
                self._tuner, examples, config.ranker, config.tuning.max_requests, config.seed, config.threads
            )
            self.config = replace(config, ranker=ranker)
            self._ranker_is_tuned = True

    def release_at(self, as_of: datetime) -> Release:
        """A release without a ranker, fitted on the events before ``as_of``."""
        if self._latest is None or self._latest.manifest.data_cutoff != as_of:
            self._latest = None  # let go of the old one before the new one is made
            self._latest = fit_release(self.shop, self.vectors, self.taste_at(as_of), as_of, self.config, self.content)
        return self._latest

    def taste_at(self, as_of: datetime) -> Taste:
        """Tower and items trained on the events before ``as_of``, going on from the latest earlier moment at hand."""
        if as_of not in self._tastes:
            earlier = max((moment for moment in self._tastes if moment < as_of), default=None)
            events = self.shop.interactions
            self._tastes[as_of] = train_taste(
                self.vectors.content(self.shop.catalogue.attribute_space),
                events.select(events.time_days < days_since_epoch(as_of)),
                self.config.users,
                history_limit=self.config.retrieval.history_limit,
                max_examples=self.config.examples.tower_examples,
                seed=self.config.seed,
                threads=self.config.threads,
                progress=self._shown,
                earlier=None if earlier is None else self._tastes[earlier],
            )
        return self._tastes[as_of]

    def examples(self, start: datetime, end: datetime) -> list[Examples]:
        """What the ranker can learn from [start, end), with candidates and features as of ``start``."""
        if (start, end) not in self._examples:
            self._examples[start, end] = rank_examples(
                self.release_at(start),
                self._questions(start, end),
                self.config,
                self._progress,
                f"examples of {start:%-d %B}",
            )
        return self._examples[start, end]

    def examples_of_newcomers(self, start: datetime, end: datetime) -> list[Examples]:
        """What it can learn from [start, end) of items without a past: see pipelines/newcomers.py."""
        config, catalogue = self.config, self.shop.catalogue
        questions, parts = self._questions(start, end), []
        for hidden in draw_newcomers(
            catalogue, questions, config.examples.hidden_share, config.examples.hidden_draws, config.seed
        ):
            known = self.shop.interactions.select(~hidden[self.shop.interactions.rows])
            shop = replace(self.shop, catalogue=hide_arrivals(catalogue, hidden, start), interactions=known)
            release = fit_release(shop, self.vectors, self._taste_without(hidden, start), start, config, self.content)
            item_ids = {catalogue.item_ids[row] for row in np.flatnonzero(hidden)}
            about = questions_about(questions, item_ids)
            parts += rank_examples(release, about, config, self._progress, "examples of newcomers", hidden)
        return parts

    def _taste_without(self, hidden: np.ndarray, as_of: datetime) -> Taste:
        """As of that moment, the ``hidden`` items where their content alone puts them."""
        taste = self.taste_at(as_of)
        content = self.vectors.content(self.shop.catalogue.attribute_space)
        items = taste.items.copy()
        items[hidden] = taste.tower.item_vectors(content[hidden])
        return replace(taste, items=items)

    def _questions(self, start: datetime, end: datetime, at_most: int | None = None) -> EvaluationSet:
        return build_requests(
            self.shop.events,
            start,
            end,
            target_types=self.shop.target_types,
            max_users=at_most or self.config.examples.max_requests,
            seed=self.config.seed,
            history_limit=self.config.retrieval.history_limit,
        )


def index_shop(shop: Shop, vectors: ItemVectors, config: RecipeConfig) -> IndexedContent:
    """The candidate sources that no event changes."""
    catalogue = shop.catalogue
    return index_content(
        catalogue.item_ids,
        vectors.fused,
        catalogue.attribute_vectors,
        tables=config.tables,
        index=config.index,
        threads=config.threads,
    )


def fit_release(
    shop: Shop,
    vectors: ItemVectors,
    taste: Taste,
    as_of: datetime,
    config: RecipeConfig,
    content: IndexedContent | None = None,
) -> Release:
    """A release without a ranker, fitted on the events before ``as_of``.

    ``taste`` is of that moment too; ``content`` comes from index_shop(), None makes it here.
    """
    as_of_days = days_since_epoch(as_of)
    catalogue = shop.catalogue
    events = shop.interactions.select(shop.interactions.time_days < as_of_days)
    arrivals = arrival_days(catalogue, events, as_of_days)
    written = catalogue.review_days < as_of_days
    retrieval = fit_retrieval(
        content or index_shop(shop, vectors, config),
        arrivals,
        events,
        taste,
        build_index(catalogue.item_ids, taste.items, config.index, config.threads),
        as_of_days,
        tables=config.tables,
        retrieval=config.retrieval,
    )
    tables = FeatureTables(
        as_of_days=as_of_days,
        items=fit_item_features(
            events,
            as_of_days,
            price_cents=catalogue.price_cents,
            category=catalogue.category,
            review_rows=catalogue.review_rows[written],
            review_ratings=catalogue.review_ratings[written],
        ),
        created_at_days=arrivals,
        category=catalogue.category,
        brand=catalogue.brand,
        family=catalogue.family,
        attributes=catalogue.attributes,
        spaces={
            "fused": vectors.fused,
            "image": vectors.image,
            "text": vectors.text,
            "attributes": catalogue.attribute_space,
        },
    )
    return Release(
        manifest=Manifest(
            version="",
            data_cutoff=as_of,
            embedding_cutoff=vectors.cutoff,
            code_commit="",
            config={},
            metrics={},
            index_kind=retrieval.index.kind if retrieval.index else "",
            index_recall=retrieval.index.recall if retrieval.index else 0.0,
            taste_index_kind=retrieval.taste_index.kind if retrieval.taste_index else "",
            taste_index_recall=retrieval.taste_index.recall if retrieval.taste_index else 0.0,
            n_items=len(catalogue),
            dim=vectors.fused.shape[1],
        ),
        item_ids=catalogue.item_ids,
        titles=catalogue.titles,
        in_stock=catalogue.in_stock,
        retrieval=retrieval,
        tables=tables,
        ranker=None,
    )


def rank_examples(
    release: Release,
    questions: EvaluationSet,
    config: RecipeConfig,
    progress: Progress = lambda steps, label: steps,
    label: str = "",
    among: np.ndarray | None = None,
) -> list[Examples]:
    """Candidates of each question with their outcomes; questions whose answer was not retrieved teach nothing.

    ``among`` bool [n] restricts answers and alternatives to these items, as a filter of requests would.

    Returns:
        One Examples for each batch that has any.
    """
    rng = np.random.default_rng(config.seed)
    chosen = _balanced(questions, config.examples, rng)
    n_items = np.int64(len(release.item_ids))
    parts = []
    for start in progress(range(0, len(chosen), BATCH), label):
        batch = chosen[start : start + BATCH]
        _, candidates, features = score_inputs(release, [questions.requests[i] for i in batch], among)
        wanted = [
            place * n_items + release.rows[item_id]
            for place, i in enumerate(batch)
            for item_id in questions.relevant[i]
            if item_id in release.rows
        ]
        request = candidates.request_of
        labels = np.isin(request * n_items + candidates.rows, np.array(wanted, np.int64))
        if among is not None:
            kept = np.flatnonzero(among[candidates.rows])
            labels, request, features = labels[kept], request[kept], features[kept]
        keep = _teaching_rows(labels, request, len(batch), config.examples.negatives, rng)
        sizes = np.bincount(request[keep], minlength=len(batch))
        if len(keep):
            offsets = np.concatenate([[0], np.cumsum(sizes[sizes > 0])])
            parts.append(Examples(features[keep], labels[keep].astype(np.int8), offsets))
    return parts


def _balanced(questions: EvaluationSet, config: ExamplesConfig, rng: np.random.Generator) -> list[int]:
    """Positions of the questions to learn from: all with a history, and a draw of those without."""
    known = questions.history_lengths > 0
    newcomers = np.flatnonzero(~known)
    # A shop where everybody is new still learns what newcomers take.
    most = max(int(config.newcomers * known.sum()), 500)
    if len(newcomers) > most:
        newcomers = rng.choice(newcomers, most, replace=False)
    chosen: list[int] = np.sort(np.concatenate([np.flatnonzero(known), newcomers])).tolist()
    return chosen


def _teaching_rows(
    labels: np.ndarray, request: np.ndarray, n_requests: int, negatives: int, rng: np.random.Generator
) -> np.ndarray:
    """Candidates to keep: of requests with a relevant one, that and ``negatives`` others drawn evenly."""
    useful = np.bincount(request[labels], minlength=n_requests) > 0
    draw = rng.random(len(labels))
    draw[labels] = -1.0  # relevant ones come first
    order = np.lexsort((draw, request))
    sizes = np.bincount(request, minlength=n_requests)
    place = np.empty(len(labels), np.int64)
    place[order] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    positives = np.bincount(request[labels], minlength=n_requests)
    return np.flatnonzero(useful[request] & (place < (positives + negatives)[request]))
