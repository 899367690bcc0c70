"""The nouns: the frames that stages exchange, each column named and typed once.

``item_id`` and ``user_id`` are the shop's own ids. Times are UTC with microseconds. Money is in cents.
A *row* is a position in a matrix and never leaves a release.
"""

from datetime import UTC, datetime, timedelta

import polars as pl

from recsys.errors import SchemaError

TIME = pl.Datetime("us", "UTC")
_Columns = dict[str, pl.DataType | type[pl.DataType]]

LONGEST_ID = 255  # characters, wherever an id comes in
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)  # of any time: a clock that was never set would stretch the log by decades
CLOCK_SKEW = timedelta(days=1)  # a sender's clock may be ahead of ours by so much; of live events see the service

EVENT_TYPES = (
    "impression",
    "detail-page-view",
    "add-to-cart",
    "remove-from-cart",
    "purchase",
    "search",
    "rating",
)

# What says that a shopper cares for an item, and so what a history consists of: not an impression, which the shop
# chose, nor a search, which names no item, nor a change of mind.
HISTORY_EVENT_TYPES = ("detail-page-view", "add-to-cart", "purchase", "rating")

_items: _Columns = {
    "item_id": pl.String,
    "title": pl.String,  # null when the shop gave none
    "description": pl.String,
    "category": pl.String,  # a path, general to special: "Women > Tops > Blouses"
    "brand": pl.String,
    "family": pl.String,  # one design in several colours or sizes shares it (H&M: product_code)
    "price_cents": pl.Int64,
    "in_stock": pl.Boolean,  # never null
    "attributes": pl.List(pl.String),  # "name=value" tokens, sorted; empty when none
    "images": pl.List(pl.String),  # paths or URLs, the first is the one encoded; empty when none
    "created_at": TIME,  # when the shop first offered it, null when unknown
}
ITEMS = pl.Schema(_items)

_reviews: _Columns = {
    "review_id": pl.String,
    "item_id": pl.String,
    "user_id": pl.String,
    "rating": pl.Float32,  # 1 to 5, null when none was given
    "title": pl.String,
    "text": pl.String,
    "helpful_votes": pl.Int32,  # never null
    "timestamp": TIME,
}
REVIEWS = pl.Schema(_reviews)

_events: _Columns = {
    "event_id": pl.String,
    "event_type": pl.String,  # one of EVENT_TYPES
    "user_id": pl.String,  # null when only the session is known
    "session_id": pl.String,
    "item_id": pl.String,  # null for a search
    "value": pl.Float64,  # what it cost or scored: price of a purchase in cents, stars of a rating
    "quantity": pl.Int32,
    "recommendation_id": pl.String,
    "position": pl.Int32,
    "timestamp": TIME,
}
EVENTS = pl.Schema(_events)


def validate(frame: pl.DataFrame, schema: pl.Schema, name: str) -> pl.DataFrame:
    """Return ``frame`` with exactly the columns of ``schema``, in its order.

    Args:
        frame: has at least the columns of ``schema``; more are dropped.
        schema: one of this module's.
        name: what to call the frame in an error.

    Raises:
        SchemaError: a column is missing or cannot be cast; the message names the frame, the column, what was
            expected and what came.
    """
    missing = [column for column in schema if column not in frame.columns]
    if missing:
        raise SchemaError(f"{name}: expected columns {list(schema)}, missing {missing}; it has {frame.columns}")
    casts = []
    for column, dtype in schema.items():
        came = frame.schema[column]
        if came != dtype:
            try:
                casts.append(frame[column].cast(dtype))
            except pl.exceptions.PolarsError as error:
                raise SchemaError(f"{name}.{column}: expected {dtype}, came {came}: {error}") from error
    return frame.with_columns(casts).select(list(schema))
