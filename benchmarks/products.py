"""Products with a picture and words, from any folder of the form: what the cross-modal benchmark is measured on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from recsys.data.importers.files import SUFFIXES, has_suffix, read_batches
from recsys.data.importers.hm import ATTRIBUTES, CATEGORY_PATH
from recsys.data.importers.rejects import Rejects
from recsys.encoders import item_text
from recsys.encoders.pictures import FORMATS
from recsys.errors import SchemaError

# Ours → names that a column may have, the first that is there.
NAMES = {
    "product_id": ("product_id", "item_id", "article_id", "id"),
    "title": ("title", "prod_name", "name"),
    "description": ("description", "detail_desc"),
    "category": ("category", "product_type_name"),
}
NOTHING = ("", "nan", "none", "null")  # how programs write, in small letters, that there is none


@dataclass(frozen=True, eq=False)
class Products:
    """One row a product, each id once; lists and arrays run alike."""

    name: str  # of the folder
    ids: Sequence[str]
    words: Sequence[str | None]
    pictures: Sequence[Path | None]
    category: NDArray[np.str_]  # "" where it is not known
    left_out: Mapping[str, int]  # why rows of the file are no products here → how many


def read_products(file: Path, images: Path) -> Products:
    """Read a table of products and find their pictures.

    Rows without an id are left out, and of several with one id all but the first.

    Args:
        file: Parquet, CSV or JSON lines, the last two also compressed (.gz). product_id, title, description and
            category, under those names or the ones in NAMES; H&M's articles bring the further words that their import
            makes of them. Ids of text files are taken as they are written.
        images: folder of ``<product_id>.jpg``, or another ending that the project reads where there is no .jpg.

    Raises:
        SystemExit: a column is missing, the file is no such table or has no rows, or there is no such folder.
    """
    frame, n_unreadable = _read(file)
    columns = {ours: next((name for name in names if name in frame.columns), None) for ours, names in NAMES.items()}
    if columns["product_id"] is None or columns["title"] is None:
        raise SystemExit(f"{file}: expected columns product_id and title, came {frame.columns}")
    given = frame.select(
        (pl.lit(None, pl.String) if name is None else _text_or_none(name)).alias(ours) for ours, name in columns.items()
    )
    known = given["product_id"].is_not_null()
    kept = known & given["product_id"].is_first_distinct()
    left_out = {
        "on a line that cannot be read": n_unreadable,
        "without an id": int((~known).sum()),
        "with the id of one before": int((known & ~kept).sum()),
    }
    frame, given = frame.filter(kept), given.filter(kept)
    extra = _articles_words(frame) if set(CATEGORY_PATH) <= set(frame.columns) else [(None, ())] * len(frame)
    words = [
        item_text(title, description, path, None, attributes)
        for (title, description), (path, attributes) in zip(given.select("title", "description").iter_rows(), extra)
    ]
    ids, found = given["product_id"].to_list(), _pictures(images)
    return Products(
        name=file.resolve().parent.name,
        ids=ids,
        words=words,
        pictures=[found.get(product_id) for product_id in ids],
        category=given["category"].fill_null("").to_numpy().astype(str),
        left_out={reason: n for reason, n in left_out.items() if n},
    )


def read_pairs(file: Path, ids: Sequence[str]) -> NDArray[np.int32]:
    """Purchases → rows of products that one customer took within three purchases of each other, int32 [p, 2].

    Args:
        file: Parquet, CSV or JSON lines with customer_id or user_id, article_id or item_id, and t_dat or timestamp.
        ids: of the products; purchases of others are passed over.
    """
    frame, _ = _read(file)
    user, item, time = (
        next(name for name in names if name in frame.columns)
        for names in (("customer_id", "user_id"), ("article_id", "item_id", "product_id"), ("t_dat", "timestamp"))
    )
    rows = pl.DataFrame({item: ids, "row": np.arange(len(ids), dtype=np.int32)})
    as_number = pl.col(time).cast(pl.Float64, strict=False)  # all that a text file holds is text
    taken = (
        frame.select(user, time, pl.col(item).cast(pl.String)).join(rows, on=item).sort(user, as_number, time, "row")
    )
    taken = taken.unique([user, "row"], keep="first", maintain_order=True)
    shopper, row = taken[user].rank("dense").to_numpy(), taken["row"].to_numpy()
    pairs = []
    for distance in range(1, 4):
        same = shopper[distance:] == shopper[:-distance]
        pairs.append(np.column_stack([row[:-distance][same], row[distance:][same]]))
    return np.concatenate(pairs).astype(np.int32)


def _read(file: Path) -> tuple[pl.DataFrame, int]:
    """The table, of text where the file is text, and how many of its lines cannot be read."""
    if not has_suffix(file, SUFFIXES):
        raise SystemExit(f"{file}: expected one of {', '.join(SUFFIXES)}, came {file.name!r}")
    if not file.is_file():
        raise SystemExit(f"{file}: expected a table, found no such file")
    with TemporaryDirectory() as folder, Rejects(Path(folder) / "rejects.jsonl") as rejects:
        try:
            batches = [batch.rows for batch in read_batches(file, rejects, progress=False)]
        except SchemaError as error:
            raise SystemExit(str(error)) from error
    if not batches:
        raise SystemExit(f"{file}: expected rows, came none ({rejects.rows} lines cannot be read)")
    return pl.concat(batches, how="diagonal"), rejects.rows


def _text_or_none(name: str) -> pl.Expr:
    text = pl.col(name).cast(pl.String)
    return pl.when(~text.str.strip_chars().str.to_lowercase().is_in(NOTHING)).then(text)


def _pictures(folder: Path) -> dict[str, Path]:
    """Name without its ending → the picture; .jpg before the others."""
    if not folder.is_dir():
        raise SystemExit(f"{folder}: expected a folder of pictures, found none")
    endings = {ending for ending, form in Image.registered_extensions().items() if form in FORMATS}
    files = (path for path in folder.iterdir() if path.suffix.lower() in endings)
    in_order = sorted(files, key=lambda path: (path.suffix.lower() == ".jpg", path.name))
    return {path.stem: path for path in in_order}  # the last of a name stays


def _articles_words(frame: pl.DataFrame) -> list[tuple[str, list[str]]]:
    """H&M: the category path and the attributes of each article, as its importer has them."""
    path = pl.concat_str([pl.col(name) for name in CATEGORY_PATH], separator=" > ", ignore_nulls=True)
    attributes = pl.concat_list(
        pl.when(pl.col(name) != "Unknown").then(pl.format(name.removesuffix("_name") + "={}", pl.col(name)))
        for name in ATTRIBUTES
    ).list.drop_nulls()
    return list(frame.select(path=path, attributes=attributes).iter_rows())
