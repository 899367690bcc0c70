"""Items and reviews as arrays by row: what the recipe computes with."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse

from recsys.histories import Float32, Float64, Int32, Interactions
from recsys.retrieval.attributes import attribute_space
from recsys.retrieval.attributes import attribute_vectors as tfidf

MAX_ATTRIBUTES = 24  # of an item that count for likeness; the rest still reach the text encoder
SPACE_DIM = 64  # of the spaces that likeness features and explanations use


@dataclass(frozen=True)
class Catalogue:
    """ITEMS by row, and the reviews' stars.

    Attributes:
        item_ids, titles: of each row; "" where there is no title.
        in_stock: bool [n].
        price_cents: float32 [n], NaN where unknown.
        created_at_days: float64 [n], days since 1970 UTC, NaN where unknown.
        category, brand, family: int32 [n] codes, -1 where unknown.
        attributes: int32 [n, MAX_ATTRIBUTES] codes, ascending, -1 beyond an item's own; brand, family and each level of
            the category are attributes too.
        attribute_vectors: TF-IDF of them, [n, vocabulary].
        attribute_space: float16 [n, SPACE_DIM], the same on its main axes.
        review_rows, review_ratings, review_days: int32, float32 and float64 [r].
    """

    item_ids: list[str]
    titles: list[str]
    in_stock: npt.NDArray[np.bool_]
    price_cents: Float32
    created_at_days: Float64
    category: Int32
    brand: Int32
    family: Int32
    attributes: Int32
    attribute_vectors: sparse.csr_matrix
    attribute_space: npt.NDArray[np.float16]
    review_rows: Int32
    review_ratings: Float32
    review_days: Float64

    def __len__(self) -> int:
        return len(self.item_ids)


def build_catalogue(items: pl.DataFrame, reviews: pl.DataFrame) -> Catalogue:
    """ITEMS and REVIEWS frames → arrays; reviews of unknown items are left out."""
    row_of = pl.DataFrame({"item_id": items["item_id"], "row": np.arange(len(items), dtype=np.int32)})
    known = reviews.select("item_id", "rating", "timestamp").join(row_of, on="item_id", maintain_order="left")
    attributes = _attribute_codes(items)
    attribute_vectors = tfidf(attributes)
    return Catalogue(
        item_ids=items["item_id"].to_list(),
        titles=items["title"].fill_null("").to_list(),
        in_stock=items["in_stock"].to_numpy(),
        price_cents=items["price_cents"].cast(pl.Float32).fill_null(float("nan")).to_numpy(),
        created_at_days=_days(items["created_at"]),
        category=_codes(items["category"]),
        brand=_codes(items["brand"]),
        family=_codes(items["family"]),
        attributes=attributes,
        attribute_vectors=attribute_vectors,
        attribute_space=attribute_space(attribute_vectors, SPACE_DIM),
        review_rows=known["row"].to_numpy(),
        review_ratings=known["rating"].fill_null(float("nan")).to_numpy(),
        review_days=_days(known["timestamp"]),
    )


def arrival_days(catalogue: Catalogue, events: Interactions, as_of_days: float) -> Float64:
    """When each item came, as known at ``as_of_days``: the shop's word, else its first event, else NaN.

    A first event in the first tenth of the log says nothing: the item may have been there long before.
    """
    arrivals = np.where(catalogue.created_at_days <= as_of_days, catalogue.created_at_days, np.nan)
    if len(events):
        first = np.full(len(catalogue), np.inf)
        np.minimum.at(first, events.rows, events.time_days)
        start = float(events.time_days.min())
        seen = np.isfinite(first) & (first > start + 0.1 * (as_of_days - start))
        arrivals = np.where(np.isnan(catalogue.created_at_days) & seen, first, arrivals)
    return arrivals


def bought_together(events: Interactions) -> Int32:
    """Pairs of different items that one shopper took within three takings of each other, int32 [p, 2].

    What the alignment learns behaviour from. Only near neighbours, not all pairs: a shopper of a hundred things would
    otherwise outweigh a thousand shoppers of two.
    """
    taken = events.taken
    pairs = []
    for distance in range(1, 4):
        if len(taken) <= distance:
            break
        same_shopper = taken.shoppers[distance:] == taken.shoppers[:-distance]
        near = same_shopper & (taken.rows[distance:] != taken.rows[:-distance])
        pairs.append(np.column_stack([taken.rows[:-distance][near], taken.rows[distance:][near]]))
    return np.concatenate(pairs) if pairs else np.zeros((0, 2), np.int32)


def _codes(column: pl.Series) -> Int32:
    """Distinct values → 0, 1, … in order of the value; null → -1."""
    return (column.rank("dense").cast(pl.Int32) - 1).fill_null(-1).to_numpy()


def _days(column: pl.Series) -> Float64:
    return (column.dt.timestamp("us").cast(pl.Float64) / 86_400e6).fill_null(float("nan")).to_numpy()


def attribute_names(items: pl.DataFrame) -> pl.Series:
    """The distinct attributes of an ITEMS frame, ascending: the position of each is its code."""
    return _attribute_tokens(items)["token"].unique().sort()


def _attribute_tokens(items: pl.DataFrame) -> pl.DataFrame:
    tokens = items.select(
        row=pl.int_range(pl.len(), dtype=pl.Int32),
        token=pl.concat_list(
            pl.col("attributes").fill_null([]),
            pl.concat_list("brand=" + pl.col("brand")),
            pl.concat_list("family=" + pl.col("family")),
            pl.col("category").fill_null("").str.split(" > ").list.eval("category=" + pl.element()),
        ),
    ).explode("token")
    return tokens.drop_nulls().filter(pl.col("token") != "category=")


def _attribute_codes(items: pl.DataFrame) -> Int32:
    tokens = _attribute_tokens(items)
    tokens = tokens.with_columns(code=pl.col("token").rank("dense").cast(pl.Int32) - 1).unique(["row", "code"])
    tokens = tokens.sort("row", "code").with_columns(place=pl.int_range(pl.len()).over("row"))
    tokens = tokens.filter(pl.col("place") < MAX_ATTRIBUTES)
    out = np.full((len(items), MAX_ATTRIBUTES), -1, np.int32)
    out[tokens["row"].to_numpy(), tokens["place"].to_numpy()] = tokens["code"].to_numpy()
    return out
