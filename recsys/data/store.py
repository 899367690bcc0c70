"""Every write of catalogue, reviews, users and events. The service and the importers share it.

All of them are idempotent: writing the same rows twice leaves the database as it was. Values are checked by the
caller (the HTTP models, the importers); the tables' own constraints are the last line.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, delete, select
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from recsys.content import picture_file
from recsys.data.load import id_batches, load_image_paths
from recsys.data.tables import Base, Event, Item, ItemImage, Review, User

EVENT_FIELDS = tuple(column.name for column in Event.__table__.columns if column.name != "sequence")
ITEM_FIELDS = (
    "title", "description", "category", "brand", "family", "price_cents", "in_stock", "attributes", "created_at",
)  # fmt: skip
REVIEW_FIELDS = tuple(column.name for column in Review.__table__.columns)

_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_FILE_CLOCK = timedelta(seconds=1)  # a file system's clock may be that much behind ours


class Written(NamedTuple):
    """What a write changed, in rows."""

    created: int
    changed: int
    unchanged: int


def insert_for(engine: Engine | Connection, table: type[Base]) -> Any:
    """``INSERT`` with ``ON CONFLICT``, which SQLAlchemy offers per database and not in general."""
    insert = postgresql_insert if engine.dialect.name == "postgresql" else sqlite_insert
    # PostgreSQL inserts many rows a statement, and counts those that were new only when asked to.
    return insert(table).execution_options(preserve_rowcount=True)


def insert_events(engine: Engine, events: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Add events in the order given; one whose ``event_id`` is known is left as it is.

    Args:
        engine: the database.
        events: mappings with ``event_id``, ``event_type``, an aware ``timestamp`` and any other of EVENT_FIELDS.

    Returns:
        ``(accepted, duplicates)``; they sum to ``len(events)``.
    """
    if not events:
        return 0, 0
    rows = [{name: event.get(name) for name in EVENT_FIELDS} for event in events]
    with engine.begin() as connection:
        _insert_users(connection, (row["user_id"] for row in rows))
        statement = insert_for(connection, Event).on_conflict_do_nothing(index_elements=["event_id"])
        accepted = connection.execute(statement, rows).rowcount
    return accepted, len(rows) - accepted


def insert_reviews(engine: Engine, reviews: Sequence[Mapping[str, Any]]) -> Written:
    """Add reviews; one whose ``review_id`` is known is left as it is.

    Args:
        engine: the database.
        reviews: mappings with all of REVIEW_FIELDS.
    """
    if not reviews:
        return Written(0, 0, 0)
    rows = [{name: review[name] for name in REVIEW_FIELDS} for review in reviews]
    with engine.begin() as connection:
        _insert_users(connection, (row["user_id"] for row in rows))
        statement = insert_for(connection, Review).on_conflict_do_nothing(index_elements=["review_id"])
        created = connection.execute(statement, rows).rowcount
    return Written(created, 0, len(rows) - created)


def put_users(engine: Engine, users: Sequence[Mapping[str, Any]]) -> Written:
    """Create users or replace their attributes; of several rows for one user the last counts.

    Args:
        engine: the database.
        users: mappings with ``user_id`` and ``attributes``, a dict.
    """
    rows = {user["user_id"]: user["attributes"] for user in sorted(users, key=lambda user: user["user_id"])}
    with engine.execution_options(sqlite_begin="IMMEDIATE").begin() as connection:
        known: dict[str, dict[str, Any]] = {}
        for some in id_batches(list(rows)):
            statement = select(User.user_id, User.attributes).where(User.user_id.in_(some)).with_for_update()
            known |= {user_id: attributes for user_id, attributes in connection.execute(statement)}
        written = [user_id for user_id in rows if user_id not in known or rows[user_id] != known[user_id]]
        if written:
            insert = insert_for(connection, User)
            connection.execute(
                insert.on_conflict_do_update(
                    index_elements=["user_id"], set_={"attributes": insert.excluded.attributes}
                ),
                [{"user_id": user_id, "attributes": rows[user_id]} for user_id in written],
            )
    created = len(rows.keys() - known.keys())
    return Written(created, len(written) - created, len(rows) - len(written))


def insert_unknown_items(engine: Engine, item_ids: Iterable[str]) -> int:
    """Add a bare item, nothing known but its id, for each id that the catalogue lacks; returns how many."""
    with engine.execution_options(sqlite_begin="IMMEDIATE").begin() as connection:
        return len(_insert_bare(connection, dict.fromkeys(item_ids)))


def put_item(
    engine: Engine,
    item_id: str,
    fields: Mapping[str, Any],
    images_root: Path | None = None,
    arrived: datetime | None = None,
) -> bool:
    """Create the item or replace it whole: a field that is not given becomes unknown.

    But ``in_stock`` becomes true, and ``created_at`` stays.

    Args:
        engine: the database.
        item_id: the shop's id.
        fields: any of ITEM_FIELDS and ``images``, a list of paths or URLs.
        images_root: see put_items().
        arrived: see put_items().

    Returns:
        True when the item was created, or was deleted and came back.
    """
    return put_items(engine, [{**fields, "item_id": item_id}], images_root, arrived).created == 1


def put_items(
    engine: Engine,
    items: Sequence[Mapping[str, Any]],
    images_root: Path | None = None,
    arrived: datetime | None = None,
) -> Written:
    """:func:`put_item` for many, in one transaction; an ``item_id`` comes at most once.

    A row that already is as given keeps its ``updated_at``. A deleted item that comes back counts as created.

    Args:
        engine: the database.
        items: as put_item() has them, with their ``item_id``.
        images_root: of relative picture paths; where it is given, a first picture whose file came after the row was
            written is a change of the row.
        arrived: UTC, ``created_at`` of those that are created and give none; None: unknown, or as it was before they
            were deleted.
    """
    rows = {item["item_id"]: _item_row(item) for item in sorted(items, key=lambda item: item["item_id"])}
    images = {item["item_id"]: [str(path) for path in item.get("images") or ()] for item in items}
    if len(rows) < len(items):
        raise ValueError(f"expected each item_id once, came {len(items)} items with {len(rows)} different ids")
    pictured = _picture_times(images, images_root) if images_root is not None else {}
    # Reads, then writes: SQLite must take the write lock first, or another writer in between would refuse us.
    with engine.execution_options(sqlite_begin="IMMEDIATE").begin() as connection:
        known = _known_items(connection, list(rows))
        new = [item_id for item_id in rows if item_id not in known]
        bare = _insert_bare(connection, new)
        known |= _known_items(connection, new)
        # From here on every row is locked, also one that another put while we waited for it.
        now = datetime.now(UTC)
        known_images = load_image_paths(connection, list(rows))
        created = {item_id for item_id in rows if item_id in bare or known[item_id]["deleted_at"] is not None}
        for item_id, row in rows.items():
            if row["created_at"] is None:
                row["created_at"] = (arrived if item_id in created else None) or known[item_id]["created_at"]
        new_images = [item_id for item_id in rows if images[item_id] != known_images.get(item_id, [])]
        written = created | set(new_images)
        for item_id, row in known.items():
            if row.pop("updated_at") < pictured.get(item_id, _LONG_AGO) or rows[item_id] != row:
                written.add(item_id)
        if written:
            insert = insert_for(connection, Item)
            replaced = [*ITEM_FIELDS, "updated_at", "deleted_at"]
            connection.execute(
                insert.on_conflict_do_update(
                    index_elements=["item_id"], set_={name: insert.excluded[name] for name in replaced}
                ),
                [{**row, "item_id": item_id, "updated_at": now} for item_id, row in rows.items() if item_id in written],
            )
        _replace_images(connection, {item_id: images[item_id] for item_id in new_images}, known_images.keys())
    return Written(len(created), len(written) - len(created), len(rows) - len(written))


def _insert_bare(connection: Connection, item_ids: Iterable[str]) -> set[str]:
    """Add a row with nothing but its id for each of these that has none, committed or about to be; returns which."""
    now = datetime.now(UTC)
    rows = [{"item_id": item_id, "updated_at": now} for item_id in item_ids]
    statement = insert_for(connection, Item).on_conflict_do_nothing(index_elements=["item_id"]).returning(Item.item_id)
    return set(connection.scalars(statement, rows)) if rows else set()


def _replace_images(connection: Connection, images: Mapping[str, Sequence[str]], stale: Collection[str]) -> None:
    """Give each item these pictures, after taking away those that the items in ``stale`` have."""
    for some in id_batches([item_id for item_id in images if item_id in stale]):
        connection.execute(delete(ItemImage).where(ItemImage.item_id.in_(some)))
    rows = [
        {"item_id": item_id, "position": position, "path": path}
        for item_id, paths in images.items()
        for position, path in enumerate(paths)
    ]
    if rows:
        connection.execute(insert_for(connection, ItemImage), rows)


def _item_row(item: Mapping[str, Any]) -> dict[str, Any]:
    row = {name: item.get(name) for name in ITEM_FIELDS}
    row["in_stock"] = True if row["in_stock"] is None else row["in_stock"]
    row["attributes"] = row["attributes"] or {}
    row["deleted_at"] = None
    return row


def _picture_times(images: Mapping[str, Sequence[str]], root: Path) -> dict[str, datetime]:
    """When the file of each item's first picture came to its place, UTC; those without such a file are absent."""
    times = {}
    for item_id, paths in images.items():
        try:
            if (picture := picture_file(paths, root)) is not None:
                # Not mtime, which a file copied with its times or moved there brings along.
                times[item_id] = datetime.fromtimestamp(picture.stat().st_ctime, UTC) + _FILE_CLOCK
        except (OSError, ValueError):  # ValueError: a NUL in the name
            continue
    return times


def _known_items(connection: Connection, item_ids: list[str]) -> dict[str, dict[str, Any]]:
    """Item → its row as it is, locked until the transaction ends; unknown ones are absent."""
    columns = [getattr(Item, name) for name in [*ITEM_FIELDS, "deleted_at", "updated_at"]]
    known = {}
    for some in id_batches(item_ids):
        # In order: two transactions lock the rows that both want in the same one.
        statement = select(Item.item_id, *columns).where(Item.item_id.in_(some)).order_by(Item.item_id)
        for row in connection.execute(statement.with_for_update()).mappings():
            known[row["item_id"]] = {name: value for name, value in row.items() if name != "item_id"}
    return known


def _insert_users(connection: Connection, user_ids: Iterable[str | None]) -> None:
    # Sorted: two transactions that add the same users do so in the same order and cannot wait for each other.
    rows = [{"user_id": user_id, "attributes": {}} for user_id in sorted({i for i in user_ids if i is not None})]
    if rows:
        connection.execute(insert_for(connection, User).on_conflict_do_nothing(index_elements=["user_id"]), rows)
