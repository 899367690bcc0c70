"""Products with a picture and words, from any folder of the form: what the cross-modal benchmark is measured on."""

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from recsys.data.importers.files import JSON_SUFFIXES, SUFFIXES, as_text, has_suffix, read_batches, read_records
from recsys.data.importers.hm import ATTRIBUTES, CATEGORY_PATH
from recsys.data.importers.rejects import Rejects
from recsys.encoders import item_text
from recsys.encoders.pictures import FORMATS
from recsys.errors import SchemaError

# Ours → names that a column may have, in small letters, the first that is there.
NAMES = {
    "product_id": ("product_id", "item_id", "article_id", "id"),
    "title": ("title", "prod_name", "name"),
    "description": ("description", "detail_desc"),
    "category": ("category", "product_type_name"),
}
NOTHING = ("", "nan", "none", "null")  # how programs write, in small letters, that there is none
ENDINGS = {ending for ending, form in Image.registered_extensions().items() if form in FORMATS}  # of pictures


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
        file: Parquet, CSV, JSON lines or one JSON array, all but the first also compressed (.gz). product_id, title,
            description and category, under those names or the ones in NAMES, in small letters or capitals; lists of
            words are joined. H&M's articles bring the further words that their import makes of them. Ids of text files
            are taken as they are written, but for what :func:`_ids` takes off.
        images: folder of ``<product_id>.jpg``, or another ending that the project reads where there is no .jpg. Where
            no picture lies in it, they are looked for in the folders below.

    Raises:
        SystemExit: a column is missing, the file is no such table or has no rows, or there is no such folder.
    """
    frame, n_unreadable = _read(file)
    columns = {ours: next((name for name in names if name in frame.columns), None) for ours, names in NAMES.items()}
    if columns["product_id"] is None or columns["title"] is None:
        raise SystemExit(f"{file}: expected columns product_id and title, came {frame.columns}")
    given = frame.select(
        (pl.lit(None, pl.String) if name is None else _text_or_none(pl.col(name).cast(pl.String))).alias(ours)
        for ours, name in columns.items()
    ).with_columns(product_id=_ids(frame[columns["product_id"]]))
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
    ids = given["product_id"].to_list()
    return Products(
        name=file.resolve().parent.name,
        ids=ids,
        words=words,
        pictures=_pictures_of(ids, images),
        category=given["category"].fill_null("").to_numpy().astype(str),
        left_out={reason: n for reason, n in left_out.items() if n},
    )


def read_pairs(file: Path, ids: Sequence[str]) -> NDArray[np.int32]:
    """Purchases → rows of products that one customer took within three purchases of each other, int32 [p, 2].

    Args:
        file: of a form that products are read from, with customer_id or user_id, article_id or item_id, and t_dat or
            timestamp.
        ids: of the products; purchases of others are passed over.
    """
    frame, _ = _read(file)
    user, item, time = (
        next(name for name in names if name in frame.columns)
        for names in (("customer_id", "user_id"), ("article_id", "item_id", "product_id"), ("t_dat", "timestamp"))
    )
    rows = pl.DataFrame({item: ids, "row": np.arange(len(ids), dtype=np.int32)})
    as_number = pl.col(time).cast(pl.Float64, strict=False)  # all that a text file holds is text
    bought = frame.select(user, time, _ids(frame[item]).alias(item))
    taken = bought.join(rows, on=item).sort(user, as_number, time, "row")
    taken = taken.unique([user, "row"], keep="first", maintain_order=True)
    shopper, row = taken[user].rank("dense").to_numpy(), taken["row"].to_numpy()
    pairs = []
    for distance in range(1, 4):
        same = shopper[distance:] == shopper[:-distance]
        pairs.append(np.column_stack([row[:-distance][same], row[distance:][same]]))
    return np.concatenate(pairs).astype(np.int32)


def _read(file: Path) -> tuple[pl.DataFrame, int]:
    """The table, of text where the file is text, its names in small letters; how many of its lines cannot be read."""
    if not has_suffix(file, SUFFIXES):
        raise SystemExit(f"{file}: expected one of {', '.join(SUFFIXES)}, came {file.name!r}")
    if not file.is_file():
        raise SystemExit(f"{file}: expected a table, found no such file")
    with TemporaryDirectory() as folder, Rejects(Path(folder) / "rejects.jsonl") as rejects:
        try:
            if has_suffix(file, JSON_SUFFIXES):
                lines = _one_a_line(file, Path(folder))
                batches = [_of_text(batch.records) for batch in read_records(lines, rejects, progress=False)]
            else:
                batches = [batch.rows for batch in read_batches(file, rejects, progress=False)]
        except SchemaError as error:
            raise SystemExit(str(error)) from error
    if not batches:
        raise SystemExit(f"{file}: expected rows, came none ({rejects.rows} lines cannot be read)")
    frame = pl.concat(batches, how="diagonal")
    lists = [column for column in frame if isinstance(column.dtype, pl.List | pl.Array)]
    frame = frame.with_columns(
        pl.Series(column.name, [_joined(value, column.name) for value in column.to_list()], pl.String)
        for column in lists
    )
    # Of names that differ by their capitals alone, the one without any is the last and stays.
    names = {name.lower(): name for name in sorted(frame.columns, key=str.islower)}
    return frame.select(pl.col(name).alias(small) for small, name in names.items()), rejects.rows


def _one_a_line(file: Path, folder: Path) -> Path:
    """A file of JSON lines as it is; one JSON array as a file in ``folder`` with a value a line."""
    try:
        with gzip.open(file, "rb") if has_suffix(file, (".gz",)) else open(file, "rb") as opened:
            first = opened.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
            if not first.startswith(b"["):
                return file
            values = json.loads(first + opened.read())
    except (ValueError, RecursionError, EOFError, gzip.BadGzipFile, zlib.error):
        return file  # no array as a whole: whoever reads it line by line says what is wrong
    lines = folder / "lines.jsonl"
    lines.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return lines


def _of_text(records: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Objects of JSON → a column for each key of any of them."""
    names = dict.fromkeys(name for record in records for name in record)
    columns = {name: [_joined(record.get(name), name) for record in records] for name in names}
    return pl.DataFrame(columns, schema=dict.fromkeys(names, pl.String))


def _joined(value: Any, column: str) -> str | None:
    """A value as text: lists as a path in the column of categories, elsewhere as words one after another."""
    if not isinstance(value, list):
        return as_text(value)
    between = " > " if column.lower() in NAMES["category"] else " "
    return between.join(filter(None, (_joined(each, column) for each in value)))


def _text_or_none(text: pl.Expr) -> pl.Expr:
    return pl.when(~text.str.strip_chars().str.to_lowercase().is_in(NOTHING)).then(text)


def _ids(column: pl.Series) -> pl.Series:
    """Ids as text: without blanks around, without a picture's ending, and null where there is none.

    Where all are whole numbers with ".0" behind, a null among them has made them so, and it is taken off.
    """
    ending = "|".join(re.escape(ending) for ending in sorted(ENDINGS))
    text = pl.col("id").cast(pl.String).str.strip_chars().str.replace(rf"(?i)(?:{ending})$", "")
    ids = column.to_frame("id").select(_text_or_none(text)).to_series()
    return ids.str.strip_suffix(".0") if ids.str.contains(r"^-?\d+\.0$").all() else ids


def _pictures_of(ids: Sequence[str], folder: Path) -> list[Path | None]:
    """The picture of each id, by its name; of a number without one, by the number, whatever zeros stand before it."""
    found = _pictures(folder)
    pictures_of, ids_of = (Counter(map(_without_zeros, names)) for names in (found, ids))
    by_number = {_without_zeros(name): picture for name, picture in found.items()}

    def picture_of(product_id: str) -> Path | None:
        number = _without_zeros(product_id)
        single = pictures_of[number] == ids_of[number] == 1  # else it could be another one's
        return found.get(product_id) or (by_number[number] if single else None)

    return [picture_of(product_id) for product_id in ids]


def _without_zeros(name: str) -> str:
    return name.lstrip("0") if name.isdecimal() else name


def _pictures(folder: Path) -> dict[str, Path]:
    """Name without its ending → the picture; .jpg before the others."""
    if not folder.is_dir():
        raise SystemExit(f"{folder}: expected a folder of pictures, found none")
    pictures = [path for path in folder.iterdir() if path.suffix.lower() in ENDINGS]
    if not pictures:
        pictures = [path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS]
    in_order = sorted(pictures, key=lambda path: (path.suffix.lower() == ".jpg", path.name, path))
    return {path.stem: path for path in in_order}  # the last of a name stays


def _articles_words(frame: pl.DataFrame) -> list[tuple[str, list[str]]]:
    """H&M: the category path and the attributes of each article, as its importer has them."""
    path = pl.concat_str([pl.col(name) for name in CATEGORY_PATH], separator=" > ", ignore_nulls=True)
    attributes = pl.concat_list(
        pl.when(pl.col(name) != "Unknown").then(pl.format(name.removesuffix("_name") + "={}", pl.col(name)))
        for name in ATTRIBUTES
    ).list.drop_nulls()
    return list(frame.select(path=path, attributes=attributes).iter_rows())
