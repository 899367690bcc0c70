"""Products with a picture and words, from any folder of the form: what the cross-modal benchmark is measured on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.data.importers.hm import ATTRIBUTES, CATEGORY_PATH
from recsys.encoders import item_text

# Ours → names that a column may have, the first that is there.
NAMES = {
    "product_id": ("product_id", "item_id", "article_id", "id"),
    "title": ("title", "prod_name", "name"),
    "description": ("description", "detail_desc"),
    "category": ("category", "product_type_name"),
}


@dataclass(frozen=True, eq=False)
class Products:
    """One row a product; lists and arrays run alike."""

    name: str  # of the folder
    ids: Sequence[str]
    words: Sequence[str | None]
    pictures: Sequence[Path]
    category: NDArray[np.str_]


def read_products(file: Path, images: Path) -> Products:
    """Read a table of products and say where their pictures are.

    Args:
        file: Parquet, CSV or JSON lines. product_id, title, description and category, under those names or the ones in
            NAMES; H&M's articles bring the further words that their import makes of them.
        images: folder of ``<product_id>.jpg``.

    Raises:
        SystemExit: a column is missing, or the file has another ending.
    """
    frame = _read(file)
    columns = {ours: next((name for name in names if name in frame.columns), None) for ours, names in NAMES.items()}
    if columns["product_id"] is None or columns["title"] is None:
        raise SystemExit(f"{file}: expected columns product_id and title, came {frame.columns}")
    given = frame.select(
        (pl.lit(None, pl.String) if name is None else pl.col(name).cast(pl.String)).alias(ours)
        for ours, name in columns.items()
    )
    extra = _articles_words(frame) if set(CATEGORY_PATH) <= set(frame.columns) else [(None, ())] * len(frame)
    words = [
        item_text(title, description, path, None, attributes)
        for (title, description), (path, attributes) in zip(given.select("title", "description").iter_rows(), extra)
    ]
    ids = given["product_id"].to_list()
    return Products(
        name=file.resolve().parent.name,
        ids=ids,
        words=words,
        pictures=[images / f"{product_id}.jpg" for product_id in ids],
        category=given["category"].fill_null("").to_numpy().astype(str),
    )


def read_pairs(file: Path, ids: Sequence[str]) -> NDArray[np.int32]:
    """Purchases → rows of products that one customer took within three purchases of each other, int32 [p, 2].

    Args:
        file: Parquet, CSV or JSON lines with customer_id or user_id, article_id or item_id, and t_dat or timestamp.
        ids: of the products; purchases of others are passed over.
    """
    frame = _read(file)
    user, item, time = (
        next(name for name in names if name in frame.columns)
        for names in (("customer_id", "user_id"), ("article_id", "item_id", "product_id"), ("t_dat", "timestamp"))
    )
    rows = pl.DataFrame({item: ids, "row": np.arange(len(ids), dtype=np.int32)})
    taken = frame.select(user, time, pl.col(item).cast(pl.String)).join(rows, on=item).sort(user, time, "row")
    taken = taken.unique([user, "row"], keep="first", maintain_order=True)
    shopper, row = taken[user].rank("dense").to_numpy(), taken["row"].to_numpy()
    pairs = []
    for distance in range(1, 4):
        same = shopper[distance:] == shopper[:-distance]
        pairs.append(np.column_stack([row[:-distance][same], row[distance:][same]]))
    return np.concatenate(pairs).astype(np.int32)


def _read(file: Path) -> pl.DataFrame:
    readers = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson, ".ndjson": pl.read_ndjson}
    if file.suffix not in readers:
        raise SystemExit(f"{file}: expected one of {', '.join(readers)}")
    return readers[file.suffix](file)


def _articles_words(frame: pl.DataFrame) -> list[tuple[str, list[str]]]:
    """H&M: the category path and the attributes of each article, as its importer has them."""
    path = pl.concat_str([pl.col(name) for name in CATEGORY_PATH], separator=" > ", ignore_nulls=True)
    attributes = pl.concat_list(
        pl.when(pl.col(name) != "Unknown").then(pl.format(name.removesuffix("_name") + "={}", pl.col(name)))
        for name in ATTRIBUTES
    ).list.drop_nulls()
    return list(frame.select(path=path, attributes=attributes).iter_rows())
