"""Read the database into the frames of ``recsys.schema``, and one shopper's history for a request.

Events for training are not read from here but from the Parquet log: ``recsys.data.event_log.scan_events``.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl
from sqlalchemy import Connection, Engine, Select, String, bindparam, select, type_coerce
from sqlalchemy.orm import InstrumentedAttribute

from recsys.data.tables import Event, Item, ItemImage, Review
from recsys.request import LONGEST_HISTORY, Interaction
from recsys.schema import HISTORY_EVENT_TYPES, ITEMS, REVIEWS

ID_BATCH = 500  # ids in one IN (…): PostgreSQL and SQLite plan longer lists slowly


def id_batches(item_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """The ids in parts that a query may name."""
    return (item_ids[start : start + ID_BATCH] for start in range(0, len(item_ids), ID_BATCH))


def load_items(engine: Engine) -> pl.DataFrame:
    """All items that are not deleted, as ITEMS, sorted by ``item_id``."""
    scalars = [name for name in ITEMS if name not in ("attributes", "images")]
    with engine.connect() as connection:
        rows = connection.execute(
            select(*(getattr(Item, name) for name in scalars), Item.attributes).where(Item.deleted_at.is_(None))
        ).all()
        paths = load_image_paths(connection)
    frame = pl.DataFrame(
        {
            **{name: [row[i] for row in rows] for i, name in enumerate(scalars)},
            "attributes": [attribute_tokens(row.attributes) for row in rows],
            "images": [paths.get(row.item_id, []) for row in rows],
        },
        schema=pl.Schema({name: ITEMS[name] for name in [*scalars, "attributes", "images"]}),
    )
    # Sorted here and not by the database: PostgreSQL's order would depend on its locale.
    return frame.select(list(ITEMS)).sort("item_id")


def load_image_paths(connection: Connection, item_ids: Sequence[str] | None = None) -> dict[str, list[str]]:
    """Item → its pictures' paths in their order; items without any are absent.

    Args:
        connection: of the database.
        item_ids: any number; None for all items.
    """
    query = select(ItemImage.item_id, ItemImage.path).order_by(ItemImage.item_id, ItemImage.position)
    some = [query] if item_ids is None else [query.where(ItemImage.item_id.in_(ids)) for ids in id_batches(item_ids)]
    paths: dict[str, list[str]] = {}
    for each in some:
        for item_id, path in connection.execute(each):
            paths.setdefault(item_id, []).append(path)
    return paths


def attribute_tokens(attributes: dict[str, Any]) -> list[str]:
    """``{"colour": "red", "size": ["S", "M"]}`` → ``["colour=red", "size=M", "size=S"]``."""
    pairs = (
        (name, value)
        for name, values in attributes.items()
        for value in (values if isinstance(values, list) else [values])
    )
    return sorted(f"{name}={value}" for name, value in pairs)


def load_reviews(engine: Engine) -> pl.DataFrame:
    """All reviews as REVIEWS, sorted by ``review_id``."""
    with engine.connect() as connection:
        rows = connection.execute(select(*(getattr(Review, name) for name in REVIEWS))).all()
    return pl.DataFrame(
        {name: [row[i] for row in rows] for i, name in enumerate(REVIEWS)}, schema=REVIEWS, strict=False
    ).sort("review_id")


def _newest_events(column: InstrumentedAttribute[str | None]) -> Select[int, str, str, datetime]:
    # Built once: a request pays for running it, not for composing it. Reads only the index that starts with `column`.
    return (
        select(Event.sequence, type_coerce(Event.item_id, String), Event.event_type, Event.timestamp)
        .where(
            column == bindparam("shopper"),
            Event.timestamp < bindparam("before"),
            Event.event_type.in_(HISTORY_EVENT_TYPES),
            Event.item_id.is_not(None),
        )
        .order_by(Event.timestamp.desc(), Event.sequence.desc())
        .limit(bindparam("limit"))
    )


_BY_USER = _newest_events(Event.user_id)
_BY_SESSION = _newest_events(Event.session_id)
_END_OF_TIME = datetime(9999, 12, 31, tzinfo=UTC)


def load_user_history(
    engine: Engine,
    user_id: str | None = None,
    session_id: str | None = None,
    limit: int = LONGEST_HISTORY,
    before: datetime | None = None,
) -> list[Interaction]:
    """The newest ``limit`` interactions of a user, of a session, or of either, oldest first.

    An event of both the user and the session comes once; events at one time keep their order of arrival. Only
    HISTORY_EVENT_TYPES count. Unknown ids have no history.

    Args:
        engine: the database.
        user_id: the shop's id of the shopper, None when not known.
        session_id: the session, None when not known.
        limit: at most so many, at least 1.
        before: UTC; only what happened earlier than this.
    """
    found: dict[tuple[datetime, int], Interaction] = {}
    with engine.connect() as connection:
        for statement, shopper in ((_BY_USER, user_id), (_BY_SESSION, session_id)):
            if shopper is None:
                continue
            parameters = {"shopper": shopper, "before": before or _END_OF_TIME, "limit": limit}
            for sequence, item_id, event_type, timestamp in connection.execute(statement, parameters):
                found[timestamp, sequence] = Interaction(item_id, event_type, timestamp)
    return [found[key] for key in sorted(found)[-limit:]]
