"""Amazon Reviews, the 2018 and the 2023 edition: JSON lines, gzip-compressed or not.

A folder with ``meta_*.json.gz`` or ``meta_*.jsonl`` (products) and any other files of these forms (reviews), or one
such file. The edition is told from each line's fields.

A product becomes an item; its id is ``parent_asin`` (2023), which gathers sizes and colours, or ``asin`` (2018). The
bullet points follow the description; ``details`` are attributes, save those that only name the product or its parcel.
A product that only reviews name becomes an item of which nothing but the id is known.

A line of reviews becomes a review and one event: a verified one shows a ``purchase``, whose price the data does not
say; any other is a ``rating`` with its stars. The same words by the same shopper on the same product at the same time
are one review, however often the files repeat them (for each colour, for instance).
"""

import html
import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import polars as pl

from recsys.data.importers.files import JSON_SUFFIXES, Records, as_text, has_suffix, read_records
from recsys.data.importers.intake import Intake
from recsys.errors import SchemaError

# The names by edition; the first that a line has is meant.
REVIEW_FIELDS = {
    "item_id": ("parent_asin", "asin"),
    "user_id": ("user_id", "reviewerID"),
    "rating": ("rating", "overall"),
    "title": ("title", "summary"),
    "text": ("text", "reviewText"),
    "helpful_votes": ("helpful_vote", "vote"),
    "timestamp": ("timestamp", "unixReviewTime"),
}
VERIFIED = ("verified_purchase", "verified")

PRICE = re.compile(r"(?:from\s*)?\$?\s*(\d[\d,]*(?:\.\d+)?)(?:\s*-\s*\$?\s*\d[\d,]*(?:\.\d+)?)?")
UNKNOWN_PRICES = ("", "None", "—", "-")
TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
SPACE = re.compile(r"\s+")

# These name the product or its parcel and say nothing of what it is like.
UNTELLING_DETAILS = re.compile(
    r"asin|upc|isbn|ean|item model number|.*part number|.*rank|.*date.*|.*shipping.*|.*dimensions.*|.*weight.*|"
    r"customer reviews|discontinued.*",
    re.IGNORECASE,
)
DATE_DETAILS = ("Date First Available", "Date first listed on Amazon", "Date first available at Amazon.com")
DETAIL_CHARACTERS = 80  # longer ones are prose, not attributes
CATEGORY_CHARACTERS = 60


def import_amazon(intake: Intake, source: Path, progress: bool) -> list[str]:
    """Take in Amazon reviews and their products; returns remarks for the summary.

    Raises:
        SchemaError: there is no file of this form.
    """
    files = (
        sorted(path for path in source.iterdir() if has_suffix(path, JSON_SUFFIXES)) if source.is_dir() else [source]
    )
    if not files:
        raise SchemaError(f"{source}: expected files with one of the endings {', '.join(JSON_SUFFIXES)}, came none")
    products = [path for path in files if path.name.startswith("meta_")]
    for path in products:
        for batch in read_records(path, intake.rejects, progress):
            _take_products(intake, batch)
    for path in files:
        if path not in products:
            for batch in read_records(path, intake.rejects, progress):
                _take_reviews(intake, batch)
    return []


def _take_reviews(intake: Intake, batch: Records) -> None:
    names = {name: _present(batch.records[0], fields) for name, fields in REVIEW_FIELDS.items()}
    reviews = [_review(record) for record in batch.records]
    rows = pl.DataFrame(reviews, schema=dict.fromkeys(("review_id", *REVIEW_FIELDS), pl.String), orient="row")
    good = intake.take_reviews(batch, rows, names)
    intake.take_unknown_items(good["item_id"])
    verified = [bool(_first(batch.records[row], VERIFIED)) for row in good["row"]]
    events = good.with_columns(pl.Series("verified", verified, dtype=pl.Boolean)).filter(
        pl.col("verified") | pl.col("rating").is_not_null()
    )
    events = events.select(
        "row",
        pl.format("review-{}", "review_id").alias("event_id"),
        pl.when("verified").then(pl.lit("purchase")).otherwise(pl.lit("rating")).alias("event_type"),
        "user_id",
        "item_id",
        pl.when(~pl.col("verified")).then("rating").alias("value"),
        pl.when("verified").then(1).alias("quantity"),
        "timestamp",
    )
    taken = Records(
        batch.path, [batch.lines[row] for row in events["row"]], [batch.records[row] for row in events["row"]]
    )
    intake.take_events(taken, events.drop("row"), names)


def _review(record: Mapping[str, Any]) -> list[str | None]:
    values = {name: as_text(_first(record, fields)) for name, fields in REVIEW_FIELDS.items()}
    values["title"], values["text"] = _clean(values["title"]), _clean(values["text"])
    if values["helpful_votes"] is not None:
        values["helpful_votes"] = values["helpful_votes"].replace(",", "")  # "1,341"
    said = [values[name] for name in ("user_id", "item_id", "timestamp", "rating", "title", "text")]
    review_id = blake2b(json.dumps(said).encode(), digest_size=16).hexdigest()
    return [review_id, *values.values()]


def _take_products(intake: Intake, batch: Records) -> None:
    rows = []
    for position, record in enumerate(batch.records):
        price_cents = _price_cents(record.get("price"))
        if price_cents is None and as_text(record.get("price")) not in (None, *UNKNOWN_PRICES):
            line, expected = batch.lines[position], "a price such as $9.99, 9.99 or $9.99 - $19.99"
            intake.rejects.add(batch.path, line, "price", expected, as_text(record["price"]), record, "value")
        rows.append(_item(record) | {"price_cents": price_cents})
    schema: dict[str, Any] = {
        "item_id": pl.String, "title": pl.String, "description": pl.String, "category": pl.String, "brand": pl.String,
        "attributes": pl.List(pl.String), "images": pl.List(pl.String), "created_at": pl.Datetime("us", "UTC"),
        "price_cents": pl.Int64,
    }  # fmt: skip
    names = {"item_id": _present(batch.records[0], REVIEW_FIELDS["item_id"])}
    intake.take_items(batch, pl.DataFrame(rows, schema=schema), names)


def _item(record: Mapping[str, Any]) -> dict[str, Any]:
    title = _clean(as_text(record.get("title")))
    if title is not None and "getTime()" in title:  # a script that came instead, known of the 2018 edition
        title = None
    details = _details(record)
    words = [*_strings(record.get("description")), *_strings(record.get("features") or record.get("feature"))]
    category = [_clean(step) for step in _strings(record.get("categories") or record.get("category"))]
    path = list(dict.fromkeys(step for step in category if step and len(step) <= CATEGORY_CHARACTERS))
    top = _clean(as_text(record.get("main_category") or record.get("main_cat")))
    return {
        "item_id": as_text(_first(record, REVIEW_FIELDS["item_id"])),
        "title": title,
        "description": "\n".join(dict.fromkeys(text for text in map(_clean, words) if text)) or None,
        "category": " > ".join(path) or top,
        "brand": _clean(as_text(record.get("store") or record.get("brand"))),
        "attributes": sorted(
            f"{name}={value}"
            for name, value in details.items()
            if not UNTELLING_DETAILS.fullmatch(name) and len(value) <= DETAIL_CHARACTERS
        ),
        "images": _image_urls(record),
        "created_at": _first_offered([*(details.get(name) for name in DATE_DETAILS), as_text(record.get("date"))]),
    }


def _details(record: Mapping[str, Any]) -> dict[str, str]:
    details = record.get("details")
    if isinstance(details, str):
        try:
            details = json.loads(details)
        except ValueError:
            details = None
    if not isinstance(details, dict):
        return {}
    pairs = ((_clean(name), _clean(as_text(value))) for name, value in details.items() if not isinstance(value, dict))
    named = ((name.strip(": \u200e\u200f").replace("=", " "), value) for name, value in pairs if name and value)
    return {name: value.strip("\u200e\u200f ") for name, value in named if name and value.strip("\u200e\u200f ")}


def _price_cents(price: Any) -> int | None:
    match = PRICE.fullmatch((as_text(price) or "").strip())
    return round(float(match[1].replace(",", "")) * 100) if match else None


def _first_offered(dates: list[str | None]) -> datetime | None:
    for text in dates:
        for form in ("%B %d, %Y", "%b %d, %Y"):
            try:
                return datetime.strptime(text or "", form).replace(tzinfo=UTC)
            except ValueError:
                continue
    return None


def _image_urls(record: Mapping[str, Any]) -> list[str]:
    images = record.get("images")
    if isinstance(images, dict):  # one list per size, as the Hub has it
        columns = [images.get(size) or [] for size in ("hi_res", "large", "thumb", "variant")]
        length = max(map(len, columns))
        rows = zip(*(list(column) + [None] * (length - len(column)) for column in columns))
        images = [dict(zip(("hi_res", "large", "thumb", "variant"), row)) for row in rows]
    if isinstance(images, list):
        pictures = [image for image in images if isinstance(image, dict)]
        pictures.sort(key=lambda image: image.get("variant") != "MAIN")
        urls: list[Any] = [image.get("hi_res") or image.get("large") or image.get("thumb") for image in pictures]
    else:
        urls = list(_strings(record.get("imageURLHighRes") or record.get("imageURL")))
    return [url for url in dict.fromkeys(urls) if isinstance(url, str) and url]


def _strings(value: Any) -> Iterator[str]:
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str):
            yield text


def _clean(text: str | None) -> str | None:
    """Without HTML; None when nothing is left."""
    if text is None:
        return None
    if "<" in text:
        text = TAG.sub(" ", text)
    if "&" in text:
        text = html.unescape(text)
    return SPACE.sub(" ", text).strip() or None


def _first(record: Mapping[str, Any], fields: tuple[str, ...]) -> Any:
    return next((record[name] for name in fields if record.get(name) is not None), None)


def _present(record: Mapping[str, Any], fields: tuple[str, ...]) -> str:
    return next((name for name in fields if name in record), fields[-1])
