"""From a catalogue, its vectors and the events so far to a release: the part of the night that offline tests repeat.

The night's Workshop calls fit_release() for several moments: once up to the test window (to be judged), once to the end
(to be published), and for each label window that the ranker learns from; a benchmark calls it on its own protocol.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl

from pipelines.catalogue import Catalogue, arrival_days
from pipelines.examples import ExamplesConfig
from pipelines.tuning import TuningConfig
from recsys.alignment.users import UserTowerConfig
from recsys.artifacts import Manifest, Release
from recsys.histories import Float32, Float64, Interactions, days_since_epoch
from recsys.ranking.features import FeatureTables, fit_item_features
from recsys.ranking.train import RankerConfig
from recsys.retrieval.fit import IndexedContent, TablesConfig, fit_retrieval, index_content
from recsys.retrieval.index import IndexConfig, build_index
from recsys.retrieval.retrieve import RetrievalConfig
from recsys.retrieval.users import Taste, taste_content


@dataclass(frozen=True)
class RecipeConfig:
    """What a Workshop needs to know."""

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
        cutoff: UTC; the behaviour that shaped them is from before it, and so are the reviews in them, but for what
            add_newest_reviews() made.
    """

    fused: Float32
    image: np.ndarray
    text: np.ndarray
    cutoff: datetime

    def content(self, attributes: np.ndarray) -> Float32:
        """All that is known of each item without any shopper, float32 [n, c]: in the order of SPACES.

        ``attributes`` [n, d''] is the space of the declared ones.
        """
        return taste_content([self.fused, self.image, self.text, attributes])


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
        """What a recommendation should lead to: see Interactions."""
        return self.interactions.target_types

    @property
    def targets_days(self) -> Float64:
        """When those events happened, days since 1970 UTC."""
        return self.interactions.taken.time_days


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
        tables=_feature_tables(catalogue, vectors, events, arrivals, as_of_days),
        ranker=None,
    )


def _feature_tables(
    catalogue: Catalogue, vectors: ItemVectors, events: Interactions, arrivals: Float64, as_of_days: float
) -> FeatureTables:
    """As of ``as_of_days``, which all ``events`` are before."""
    written = catalogue.review_days < as_of_days
    return FeatureTables(
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
