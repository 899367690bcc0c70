"""fit_retrieval(): everything that brings candidates, from the events before one moment."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from recsys.errors import LeakageError, require_at_least, require_positive
from recsys.histories import Float32, Float64, Int32, Interactions, moment_of, newest_of_each
from recsys.retrieval.attributes import attribute_table
from recsys.retrieval.index import IndexConfig, ItemIndex, build_index
from recsys.retrieval.items import (
    ItemTable,
    content_table,
    copurchase_table,
    empty_table,
    log_transition_weights,
    top_table,
    transition_counts,
)
from recsys.retrieval.linear import linear_table
from recsys.retrieval.retrieve import Retrieval, RetrievalConfig
from recsys.retrieval.users import Taste


@dataclass(frozen=True)
class TablesConfig:
    """How the item→item tables are counted.

    Attributes:
        neighbours: kept per item and table.
        max_distance: steps between two events of a shopper that still count as a transition.
        distance_power: a pair d steps apart counts d^-power.
        log_scale: of the counts inside the logarithm, see log_transition_weights.
        shrinkage: of the co-purchase cosine.
        heavy_shopper_power: a shopper with L items counts L^-power for each pair.
        linear_items: most bought items that the linear model solves together; see linear_table() for what they cost.
            Tuning takes more where that finds more.
        linear_block_items: size of the blocks that the others are solved in; 0 leaves them out.
        linear_penalty: its λ, in shoppers.
        linear_content: weight of the item embeddings in it, in shoppers.
        linear_attributes: the same of the declared attributes.
        trending_half_life_days: of a sale in the trending score.
    """

    neighbours: int = 100
    max_distance: int = 10
    distance_power: float = 0.5
    log_scale: float = 1.0
    shrinkage: float = 1.0
    heavy_shopper_power: float = 0.25
    linear_items: int = 4_000
    linear_block_items: int = 1_500
    linear_penalty: float = 50.0
    linear_content: float = 3.0
    linear_attributes: float = 6.0
    trending_half_life_days: float = 1.0

    def __post_init__(self) -> None:
        require_at_least("tables", self, neighbours=1, max_distance=1, distance_power=0, log_scale=0, shrinkage=0)
        linear = ("linear_items", "linear_block_items", "linear_content", "linear_attributes")
        require_at_least("tables", self, heavy_shopper_power=0, **dict.fromkeys(linear, 0))
        require_positive("tables", self, "linear_penalty", "trending_half_life_days")


@dataclass(frozen=True)
class IndexedContent:
    """The sources that depend on content alone: made once, shared by every moment that a night fits.

    Attributes:
        item_ids: of each row.
        embeddings: float32 [n, d], unit norm or zero.
        index: Faiss over them.
        content: each item's nearest by embedding.
        attributes: each item's nearest by declared attributes.
        attribute_vectors: those attributes, [n, vocabulary]; None: the shop declares none.
    """

    item_ids: Sequence[str]
    embeddings: Float32
    index: ItemIndex
    content: ItemTable
    attributes: ItemTable
    attribute_vectors: sparse.csr_matrix | None


def index_content(
    item_ids: Sequence[str],
    embeddings: Float32,
    attributes: sparse.csr_matrix | None = None,
    *,
    tables: TablesConfig,
    index: IndexConfig,
    threads: int,
) -> IndexedContent:
    """Build the index and the tables of what resembles what.

    Args:
        item_ids: of each row.
        embeddings: float32 [n, d], unit norm or zero.
        attributes: from attribute_vectors(); None: the shop declares none.
        tables, index: see their classes.
        threads: of Faiss.
    """
    item_index, content = _index(item_ids, embeddings, tables, index, threads)
    return IndexedContent(
        item_ids=item_ids,
        embeddings=embeddings,
        index=item_index,
        content=content,
        attributes=empty_table(len(item_ids)) if attributes is None else attribute_table(attributes, tables.neighbours),
        attribute_vectors=attributes,
    )


def index_embeddings(
    content: IndexedContent, embeddings: Float32, *, tables: TablesConfig, index: IndexConfig, threads: int
) -> IndexedContent:
    """The same items with other embeddings; see index_content()."""
    item_index, nearest = _index(content.item_ids, embeddings, tables, index, threads)
    return replace(content, embeddings=embeddings, index=item_index, content=nearest)


def _index(
    item_ids: Sequence[str], embeddings: Float32, tables: TablesConfig, index: IndexConfig, threads: int
) -> tuple[ItemIndex, ItemTable]:
    """Faiss over the embeddings, and each item's nearest by them."""
    made = build_index(item_ids, embeddings, index, threads)
    return made, content_table(embeddings, made.search_many, min(tables.neighbours, 50))


def fit_retrieval(
    content: IndexedContent,
    created_at_days: Float64,
    events: Interactions,
    taste: Taste,
    taste_index: ItemIndex,
    as_of_days: float,
    *,
    tables: TablesConfig,
    retrieval: RetrievalConfig,
) -> Retrieval:
    """Build every candidate source as it stood at ``as_of_days``.

    Args:
        content: the sources that do not depend on the moment.
        created_at_days: float64 [n], days since 1970, NaN where unknown.
        events: all strictly before ``as_of_days``.
        taste: tower and items as of that moment, indexed with ``taste_index``.
        as_of_days: the moment, days since 1970 UTC.
        tables, retrieval: see their classes.

    Raises:
        LeakageError: an event is not before ``as_of_days``.
    """
    if len(events) and float(events.time_days.max()) >= as_of_days:
        raise LeakageError(
            f"expected events before {moment_of(as_of_days).isoformat()}, "
            f"came one at {moment_of(float(events.time_days.max())).isoformat()}"
        )
    n_items = len(content.item_ids)
    trending = trending_scores(events, n_items, as_of_days, tables.trending_half_life_days)
    order = np.argsort(-trending, kind="stable").astype(np.int32)
    return Retrieval(
        index=content.index,
        embeddings=content.embeddings,
        tower=taste.tower,
        taste=taste.items,
        taste_index=taste_index,
        tables=count_tables(events, n_items, tables)
        | {
            "linear": linear_of(events, content, tables),
            "content": content.content,
            "attributes": content.attributes,
        },
        trending=trending,
        trending_rows=order[trending[order] > 0],
        newest=newest_rows(created_at_days, as_of_days),
        config=retrieval,
    )


def count_tables(events: Interactions, n_items: int, config: TablesConfig) -> dict[str, ItemTable]:
    """The tables that only count: transitions, adjacent, reversed, copurchase."""
    decayed = transition_counts(events, n_items, max_distance=config.max_distance, distance_power=config.distance_power)
    adjacent = transition_counts(events, n_items, max_distance=1, distance_power=0.0)
    weights = log_transition_weights(decayed, config.log_scale)
    k = config.neighbours
    return {
        "transitions": top_table(weights, k),
        "adjacent": top_table(adjacent, k),
        "reversed": top_table(weights.T.tocsr(), k),
        "copurchase": copurchase_of(events, n_items, config),
    }


def copurchase_of(events: Interactions, n_items: int, config: TablesConfig) -> ItemTable:
    """What is taken by the same shoppers."""
    taken = events.taken
    return copurchase_table(
        taken.shoppers,
        taken.rows,
        n_items,
        config.neighbours,
        shrinkage=config.shrinkage,
        heavy_shopper_power=config.heavy_shopper_power,
    )


def linear_of(events: Interactions, content: IndexedContent, config: TablesConfig) -> ItemTable:
    """The linear item model over the most taken items; see linear_table()."""
    taken = events.taken
    described: list[tuple[Float32 | sparse.csr_matrix, float]] = [(content.embeddings, config.linear_content)]
    if content.attribute_vectors is not None:
        described.append((content.attribute_vectors, config.linear_attributes))
    return linear_table(
        taken.shoppers,
        taken.rows,
        described,
        n_items=len(content.item_ids),
        penalty=config.linear_penalty,
        max_items=config.linear_items,
        block_items=config.linear_block_items,
        k=config.neighbours,
    )


def trending_scores(events: Interactions, n_items: int, as_of_days: float, half_life_days: float) -> Float32:
    """Σ over an item's buyers of 2^(-age of their newest purchase / half-life), float32 [n].

    Who takes ten of a thing is one shopper who wants it. Where nothing was ever sold, all events count alike.
    """
    counted = newest_of_each(events.taken, n_items)
    weights = np.exp2(-(as_of_days - counted.time_days) / half_life_days)
    return np.bincount(counted.rows, weights=weights, minlength=n_items).astype(np.float32)


def newest_rows(created_at_days: Float64, as_of_days: float) -> Int32:
    """Rows of items whose arrival is known and not in the future, newest first."""
    known = np.flatnonzero(created_at_days <= as_of_days)
    return known[np.argsort(-created_at_days[known], kind="stable")].astype(np.int32)
