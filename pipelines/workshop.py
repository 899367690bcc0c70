"""Releases of one shop as of several moments; what two of them share is made once."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

import numpy as np

from pipelines.examples import Progress, no_progress, rank_examples
from pipelines.newcomers import draw_newcomers, hide_past, questions_about
from pipelines.recipe import ItemVectors, RecipeConfig, Shop, fit_release, index_shop
from pipelines.tastes import train_taste
from pipelines.tuning import (
    Trial,
    Tuner,
    chosen_numbers,
    inner_split,
    tune_ranker,
    tune_retrieval,
    tune_tables,
)
from recsys.artifacts import Release
from recsys.evaluation.requests import EvaluationSet, build_requests
from recsys.histories import Float32, days_since_epoch
from recsys.ranking.shift import draw_rows
from recsys.ranking.train import Examples, join_examples, train_ranker
from recsys.retrieval.fit import index_embeddings
from recsys.retrieval.users import Taste

LEARNED_ROWS = 100_000  # of what a ranker learned from, at most, are compared with what it is then shown


class Workshop:
    """Releases of one shop as of several moments; what two of them share is made once.

    The night makes two: one as of the test window, to be judged, and one as of the end, to be published. The ranker's
    time cuts of the second are those of the first moved on by one, so all but the newest are at hand.
    """

    def __init__(
        self,
        shop: Shop,
        vectors: ItemVectors,
        config: RecipeConfig,
        progress: Progress = no_progress,
        *,
        shown: bool = False,
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

    def ranked_release(
        self, cuts: Sequence[tuple[datetime, datetime]], as_of: datetime, newest: ItemVectors | None = None
    ) -> Release:
        """A release as of ``as_of`` whose ranker learned at each earlier cut.

        Args:
            cuts: label windows [start, end), each over before ``as_of``, all after the cut-off of the vectors.
            as_of: the release has seen what is before this.
            newest: vectors for this release, the last one made here, that know more than the ranker may learn from:
                see add_newest_reviews(). None: the same.
        """
        parts = [part for start, end in cuts for part in self.examples(start, end)]
        parts += [part for start, end in cuts[-1:] for part in self.examples_of_newcomers(start, end)]
        ranker = None
        if parts:
            examples = join_examples(parts)
            self._tune_ranker(examples)
            config = self.config
            ranker = train_ranker(examples, config.ranker, seed=config.seed, threads=config.threads)
        if newest is not None and newest is not self.vectors:
            config, self._latest, self.vectors = self.config, None, newest
            self.content = index_embeddings(
                self.content, newest.fused, tables=config.tables, index=config.index, threads=config.threads
            )
        return replace(self.release_at(as_of), ranker=ranker)

    def tune(self, cuts: Sequence[tuple[datetime, datetime]], pinned: Collection[str] = ()) -> None:
        """Choose the free numbers of ``config`` on the last of the label windows ``cuts``; see pipelines/tuning.py.

        To be called before anything is made: what was made with other numbers would stay. The ranker's own numbers are
        chosen when there are examples, in the time that is left.

        Args:
            cuts: [start, end) of each, oldest first; nothing in them may be what somebody is judged by.
            pinned: "table.key" of numbers that stay as they are.
        """
        config = self.config
        if not config.tuning.enabled:
            return
        for start, _ in cuts:  # oldest first: each goes on from the one before
            self.taste_at(start)
        release = self.release_at(start)
        inner, everybody = (
            inner_split(questions, release.rows, config.retrieval.history_limit)
            for questions in (
                self._questions(*cuts[-1], at_most=config.tuning.max_requests),
                self._questions(*cuts[-1], known_only=False),
            )
        )
        if not inner.wanted:
            return
        tuner = self._tuner = Tuner(inner, config.tuning.seconds, pinned)
        now = days_since_epoch(start)
        events = self.shop.interactions.select(self.shop.interactions.time_days < now)
        # How the tables are counted comes first: what a source is worth depends on it.
        tables = tune_tables(tuner, self.content, release.retrieval, events, config.tables, now, everybody)
        if tables != config.tables:
            self.config, self._latest = replace(config, tables=tables), None
            release = self.release_at(start)
        retrieval = tune_retrieval(tuner, release.retrieval)
        self.config = replace(self.config, retrieval=retrieval)
        # Weights change no table: what was fitted stays.
        self._latest = replace(release, retrieval=replace(release.retrieval, config=retrieval))

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
                self.config.examples,
                self.config.seed,
                threads=self.config.threads,
                progress=self._progress,
                label=f"examples of {start:%-d %B}",
                arrivals=self.shop.catalogue.created_at_days,
            )
        return self._examples[start, end]

    def learned_features(self, cuts: Sequence[tuple[datetime, datetime]]) -> list[Float32]:
        """What a ranker learns from at each of the cuts that has any examples, float32 [n, len(FEATURES)].

        At most LEARNED_ROWS in all, drawn evenly from each part: a copy of everything would be as large as what the
        ranker is trained on. Without the examples of newcomers, which differ from what is served on purpose.
        """
        drawn = []
        for parts in (self.examples(start, end) for start, end in cuts):
            share = LEARNED_ROWS / len(cuts) / max(1, sum(len(part.features) for part in parts))
            rows = [draw_rows(each.features, int(share * len(each.features)), self.config.seed) for each in parts]
            drawn += [np.concatenate(rows)] if rows else []
        return drawn

    def examples_of_newcomers(self, start: datetime, end: datetime) -> list[Examples]:
        """What it can learn from [start, end) of items without a past: see pipelines/newcomers.py."""
        config, catalogue = self.config, self.shop.catalogue
        questions, parts = self._questions(start, end), []
        for hidden in draw_newcomers(
            catalogue, questions, config.examples.hidden_share, config.examples.hidden_draws, config.seed
        ):
            known = self.shop.interactions.select(~hidden[self.shop.interactions.rows])
            shop = replace(self.shop, catalogue=hide_past(catalogue, hidden, start), interactions=known)
            release = fit_release(shop, self.vectors, self._taste_without(hidden, start), start, config, self.content)
            item_ids = {catalogue.item_ids[row] for row in np.flatnonzero(hidden)}
            about = questions_about(questions, item_ids)
            parts += rank_examples(
                release,
                about,
                config.examples,
                config.seed,
                threads=config.threads,
                progress=self._progress,
                label="examples of newcomers",
                arrivals=catalogue.created_at_days,
                among=hidden,
            )
        return parts

    def _taste_without(self, hidden: np.ndarray, as_of: datetime) -> Taste:
        """As of that moment, the ``hidden`` items where their content alone puts them."""
        taste = self.taste_at(as_of)
        content = self.vectors.content(self.shop.catalogue.attribute_space)
        items = taste.items.copy()
        items[hidden] = taste.tower.item_vectors(content[hidden])
        return replace(taste, items=items)

    def _questions(
        self, start: datetime, end: datetime, at_most: int | None = None, known_only: bool = True
    ) -> EvaluationSet:
        return build_requests(
            self.shop.events,
            start,
            end,
            target_types=self.shop.target_types,
            max_users=at_most or self.config.examples.max_requests,
            known_only=known_only,
            seed=self.config.seed,
        )
