"""H&M Personalized Fashion Recommendations: Kaggle's CSV files, or the same tables as Parquet.

::

    articles.csv or .parquet                               required
    transactions_train.csv, transactions.csv or .parquet   required
    customers.csv or .parquet                              attributes of users
    images/0<xx>/<article_id>.jpg or images/<article_id>.jpg

An article becomes an item: ``family`` is its product code (one design, several colours), the category path goes from
index group to product type, the remaining names are attributes, and the description is ``detail_desc``. Its price is
the median paid on the last day on which it sold. When it was first offered is not in the data, so ``created_at`` is
unknown.

A line of transactions becomes one purchase event of quantity 1 at midnight UTC of its day. Equal lines (same day,
customer, article, price and channel) are real: the shopper bought several. Their ``event_id`` differs by an ordinal,
so each counts, and importing again adds none.

Prices are scaled in the data. Times 59 000 every one of them is a whole number of cents, and five in six end in 99; so
that is taken as the scale.
"""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import polars as pl

from recsys.data.importers.checks import MAX_CENTS
from recsys.data.importers.files import Batch, has_suffix, read_batches, stem
from recsys.data.importers.intake import Intake
from recsys.errors import SchemaError

CENTS_PER_PRICE = 59_000

CATEGORY_PATH = ("index_group_name", "index_name", "section_name", "product_group_name", "product_type_name")
ATTRIBUTES = (
    "graphical_appearance_name", "colour_group_name", "perceived_colour_value_name", "perceived_colour_master_name",
    "department_name", "garment_group_name",
)  # fmt: skip
ARTICLE_COLUMNS = ("article_id", "product_code", "prod_name", *CATEGORY_PATH, *ATTRIBUTES, "detail_desc")
TRANSACTION_COLUMNS = ("t_dat", "customer_id", "article_id", "price", "sales_channel_id")
ITEM_NAMES = {
    "item_id": "article_id", "title": "prod_name", "description": "detail_desc", "family": "product_code",
}  # fmt: skip
EVENT_NAMES = {"timestamp": "t_dat", "user_id": "customer_id", "item_id": "article_id", "value": "price"}

# Kaggle's ids are numbers of fixed width; a program that read them as numbers has cut the zeros in front.
ARTICLE_DIGITS = 10
PRODUCT_DIGITS = 7


def import_hm(intake: Intake, source: Path, progress: bool) -> list[str]:
    """Take in the H&M data; returns remarks for the summary.

    Raises:
        SchemaError: a file or one of its columns is missing.
    """
    articles = _find_required(source, "articles")
    transactions = _find_required(source, "transactions_train", "transactions")
    customers = _find(source, "customers")
    pictures = _find_images(source.resolve() / "images")
    _require(transactions, TRANSACTION_COLUMNS, _column_names(transactions))
    try:
        prices = _last_prices(transactions)
        in_day_order = _is_in_day_order(transactions)
    except (pl.exceptions.PolarsError, OSError) as error:  # OSError: gzip that ends early
        raise SchemaError(f"{transactions}: expected a whole file of sales, came {error}") from error
    for batch in _read(articles, ARTICLE_COLUMNS, intake, progress):
        intake.take_items(batch, _items(batch.rows, prices, pictures), ITEM_NAMES)
    if customers is not None:
        for batch in _read(customers, ("customer_id",), intake, progress):
            intake.take_users(batch, _users(batch.rows), {"user_id": "customer_id"})
    ordinals = Ordinals(in_day_order)
    for batch in _read(transactions, TRANSACTION_COLUMNS, intake, progress):
        intake.take_events(batch, _events(batch.rows, ordinals), EVENT_NAMES)
    return [f"{len(pictures):,} images found"]


class Ordinals:
    """Numbers equal keys 0, 1, 2, … over all batches of a file.

    Remembers the keys of the last day only, if the file is in the order of days; else all of them.
    """

    def __init__(self, in_day_order: bool) -> None:
        self.in_day_order = in_day_order
        self._seen = pl.DataFrame(schema={"key": pl.String, "day": pl.String, "count": pl.UInt32})

    def number(self, keys: pl.DataFrame) -> pl.Series:
        """Args: keys: ``key`` and the ``day`` that it is of."""
        in_batch = pl.int_range(pl.len(), dtype=pl.UInt32).over("key")
        before = pl.col("count").fill_null(0)
        numbered = keys.join(self._seen.select("key", "count"), on="key", how="left", maintain_order="left")
        ordinals = numbered.select((in_batch + before).alias("ordinal")).to_series()
        counts = keys.group_by("key", "day").agg(pl.len().cast(pl.UInt32).alias("count"))
        seen = pl.concat([self._seen, counts]).group_by("key", "day").agg(pl.col("count").sum())
        self._seen = seen.filter(pl.col("day") == keys["day"].max()) if self.in_day_order else seen
        return ordinals


def _items(rows: pl.DataFrame, prices: pl.DataFrame, pictures: Mapping[str, Path]) -> pl.DataFrame:
    item_id = _padded("article_id", ARTICLE_DIGITS)
    frame = rows.select(
        item_id.alias("item_id"),
        pl.col("prod_name").alias("title"),
        pl.col("detail_desc").alias("description"),
        _path(CATEGORY_PATH).alias("category"),
        _padded("product_code", PRODUCT_DIGITS).alias("family"),
        pl.concat_list(
            pl.when(_is_known(name)).then(pl.format(name.removesuffix("_name") + "={}", pl.col(name)))
            for name in ATTRIBUTES
        )
        .list.drop_nulls()
        .alias("attributes"),
    )
    images = [[str(pictures[item_id])] if item_id in pictures else [] for item_id in frame["item_id"]]
    return frame.join(prices, on="item_id", how="left", maintain_order="left").with_columns(
        pl.Series("images", images, dtype=pl.List(pl.String))
    )


def _users(rows: pl.DataFrame) -> pl.DataFrame:
    attributes = [
        {name: value for name, value in row.items() if name != "customer_id" and value not in (None, "")}
        for row in rows.iter_rows(named=True)
    ]
    return rows.select(pl.col("customer_id").alias("user_id")).with_columns(
        pl.Series("attributes", attributes, dtype=pl.Object)
    )


def _events(rows: pl.DataFrame, ordinals: Ordinals) -> pl.DataFrame:
    price = pl.col("price").cast(pl.String)
    # What is no number stays as it is, for the check to find.
    cents = pl.coalesce(_cents("price").cast(pl.String), price)
    frame = rows.select(
        pl.lit("purchase").alias("event_type"),
        pl.col("customer_id").alias("user_id"),
        _padded("article_id", ARTICLE_DIGITS).alias("item_id"),
        cents.alias("value"),
        pl.lit(1).alias("quantity"),
        pl.col("t_dat").alias("timestamp"),
        pl.concat_str(
            [
                _day(),
                pl.col("customer_id"),
                _padded("article_id", ARTICLE_DIGITS),
                cents,
                pl.col("sales_channel_id").cast(pl.String),
            ],
            separator="|",
            ignore_nulls=False,
        )
        .fill_null("")
        .alias("key"),
        _day().alias("day"),
    )
    numbers = ordinals.number(frame.select("key", "day"))
    event_ids = [
        blake2b(f"hm|{key}|{number}".encode(), digest_size=16).hexdigest() for key, number in zip(frame["key"], numbers)
    ]
    return frame.with_columns(pl.Series("event_id", event_ids, dtype=pl.String))


def _last_prices(transactions: Path) -> pl.DataFrame:
    """``item_id``, ``price_cents``: the median on the last day on which the item sold."""
    sales = _scan(transactions).select(
        _padded("article_id", ARTICLE_DIGITS).alias("item_id"),
        _day().str.to_date("%Y-%m-%d", strict=False).alias("day"),
        _cents("price").alias("cents"),
    )
    by_day = (
        sales.filter(pl.col("cents").is_between(0, MAX_CENTS), pl.col("day").is_not_null())
        .group_by("item_id", "day")
        .agg(pl.col("cents").median())
        .collect(engine="streaming")
    )
    last = by_day.filter(pl.col("day") == pl.col("day").max().over("item_id"))
    return last.select("item_id", pl.col("cents").round().cast(pl.Int64).alias("price_cents"))


def _is_in_day_order(transactions: Path) -> bool:
    return bool(_scan(transactions).select((_day() >= _day().shift(1)).all()).collect().item())


def _scan(path: Path) -> pl.LazyFrame:
    if has_suffix(path, (".parquet",)):
        return pl.scan_parquet(path)
    # Lines that are not as they should be are rejected when the file is read row by row.
    return pl.scan_csv(path, infer_schema=False, truncate_ragged_lines=True, ignore_errors=True, encoding="utf8-lossy")


def _read(path: Path, columns: Sequence[str], intake: Intake, progress: bool) -> Iterator[Batch]:
    for batch in read_batches(path, intake.rejects, progress):
        _require(path, columns, batch.rows.columns)
        yield batch


def _require(path: Path, columns: Sequence[str], came: Sequence[str]) -> None:
    missing = [name for name in columns if name not in came]
    if missing:
        raise SchemaError(f"{path}: expected the columns {missing}, came {list(came)}")


def _column_names(path: Path) -> list[str]:
    try:
        return _scan(path).collect_schema().names()
    except pl.exceptions.NoDataError as error:
        raise SchemaError(f"{path}: expected a line with the names of the columns, came an empty file") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SchemaError(f"{path}: expected a table, came {error}") from error


def _find(source: Path, *stems: str) -> Path | None:
    for path in sorted(source.iterdir()) if source.is_dir() else ():
        if stem(path) in stems and has_suffix(path, (".csv", ".csv.gz", ".parquet")):
            return path
    return None


def _find_required(source: Path, *stems: str) -> Path:
    path = _find(source, *stems)
    if path is None:
        raise SchemaError(f"{source}: expected a file {' or '.join(stems)}, .csv or .parquet, came none")
    return path


def _find_images(folder: Path) -> dict[str, Path]:
    """Article → its picture, which lies in the folder or, as Kaggle has it, one deeper."""
    return {path.stem: path for pattern in ("*.jpg", "*/*.jpg") for path in folder.glob(pattern)}


def _padded(name: str, digits: int) -> pl.Expr:
    text = pl.col(name).cast(pl.String).str.replace(r"^(\d+)\.0$", "${1}")  # numbers that were floats for a while
    return pl.when(text.str.contains(r"^\d+$")).then(text.str.zfill(digits)).otherwise(text)


def _day() -> pl.Expr:
    """``2018-09-20``, also where a program made the day into midnight; what is no day stays as it is."""
    text = pl.col("t_dat").cast(pl.String)
    return text.str.replace(r"^(\d{4}-\d\d-\d\d)[ T].*$", "${1}")


def _cents(name: str) -> pl.Expr:
    return (pl.col(name).cast(pl.Float64, strict=False) * CENTS_PER_PRICE).round()


def _is_known(name: str) -> pl.Expr:
    return ~pl.col(name).cast(pl.String).str.to_lowercase().is_in(["", "unknown", "undefined"])


def _path(names: Sequence[str]) -> pl.Expr:
    """``Ladieswear > Ladieswear > Tops`` says one step twice; it is said once."""
    steps = [
        pl.when(_is_known(name) & (pl.col(name).ne_missing(pl.col(before)) if before else pl.lit(True))).then(
            pl.col(name)
        )
        for before, name in zip([None, *names], names)
    ]
    path = pl.concat_str(steps, separator=" > ", ignore_nulls=True)
    return pl.when(path != "").then(path)
