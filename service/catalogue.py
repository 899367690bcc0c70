"""Items of the database for the service: facts for the shelf, whole items for embedding, and changes in part."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, insert, select, update

from recsys.content import MOST_REVIEWS
from recsys.data.load import attribute_tokens, id_batches, load_image_paths
from recsys.data.tables import Item, ItemImage, Review
from recsys.embedder import Review as SaidReview
from recsys.late import CatalogueItem
from service.shelf import NOT_LISTED, Facts

_FACTS = select(
    Item.item_id, Item.updated_at, Item.deleted_at, Item.in_stock, Item.category, Item.brand, Item.price_cents
)


def read_facts(engine: Engine, since: datetime | None = None) -> Iterator[tuple[str, datetime, Facts]]:
    """(item_id, updated_at, facts) of every item, or of those written at ``since`` (UTC) or later."""
    query = _FACTS if since is None else _FACTS.where(Item.updated_at >= since)
    with engine.connect() as connection:
        for row in connection.execution_options(yield_per=10_000).execute(query):
            yield row.item_id, row.updated_at, _facts(row)


def facts_of(engine: Engine, item_ids: Sequence[str]) -> Iterator[tuple[str, Facts]]:
    """(item_id, facts) of those of these items that the catalogue has ever held."""
    with engine.connect() as connection:
        for some in id_batches(item_ids):
            for row in connection.execute(_FACTS.where(Item.item_id.in_(some))):
                yield row.item_id, _facts(row)


def _facts(row: Row[*tuple[Any, ...]]) -> Facts:
    if row.deleted_at is not None:
        return NOT_LISTED
    return Facts(True, row.in_stock, row.category, row.brand, row.price_cents)


def load_catalogue_items(
    engine: Engine, item_ids: Sequence[str], now: datetime
) -> list[tuple[datetime, CatalogueItem]]:
    """(updated_at, item) of those that are there and not deleted, in no order.

    Args:
        engine: the shop's database.
        item_ids: any number.
        now: UTC; ages of reviews are counted to here.
    """
    found = []
    with engine.connect() as connection:
        for some in id_batches(item_ids):
            rows = connection.execute(
                select(Item.__table__).where(Item.item_id.in_(some), Item.deleted_at.is_(None))
            ).all()
            images, reviews = load_image_paths(connection, some), _reviews(connection, some, now)
            found += [
                (row.updated_at, _item(row, images.get(row.item_id, ()), reviews.get(row.item_id, ()))) for row in rows
            ]
    return found


def patch_item(engine: Engine, item_id: str, changes: Mapping[str, Any]) -> bool:
    """Set the named fields and no other, in one transaction; False where there is no such item.

    Args:
        engine: the shop's database.
        item_id: the shop's id.
        changes: any of ITEM_FIELDS and ``images``.
    """
    columns = {name: value for name, value in changes.items() if name != "images"}
    with engine.execution_options(sqlite_begin="IMMEDIATE").begin() as connection:
        there = update(Item).where(Item.item_id == item_id, Item.deleted_at.is_(None))
        if connection.execute(there.values(**columns, updated_at=datetime.now(UTC))).rowcount == 0:
            return False
        if "images" in changes:
            connection.execute(delete(ItemImage).where(ItemImage.item_id == item_id))
            rows = [
                {"item_id": item_id, "position": position, "path": path}
                for position, path in enumerate(changes["images"])
            ]
            if rows:
                connection.execute(insert(ItemImage), rows)
    return True


def delete_item(engine: Engine, item_id: str) -> bool:
    """Take the item out of the catalogue; past events go on speaking of it. False where there is no such item."""
    there = update(Item).where(Item.item_id == item_id, Item.deleted_at.is_(None))
    with engine.execution_options(sqlite_begin="IMMEDIATE").begin() as connection:
        now = datetime.now(UTC)  # not before the wait for another writer: polls look back only so far
        return bool(connection.execute(there.values(deleted_at=now, updated_at=now)).rowcount)


def _item(row: Row[Any], images: Sequence[str], reviews: Sequence[SaidReview]) -> CatalogueItem:
    return CatalogueItem(
        item_id=row.item_id,
        title=row.title,
        description=row.description,
        category=row.category,
        brand=row.brand,
        family=row.family,
        price_cents=row.price_cents,
        in_stock=row.in_stock,
        attributes=attribute_tokens(row.attributes),
        images=images,
        created_at=row.created_at,
        reviews=reviews,
    )


def _reviews(connection: Connection, item_ids: Sequence[str], now: datetime) -> dict[str, list[SaidReview]]:
    rows = connection.execute(
        select(Review.item_id, Review.title, Review.text, Review.rating, Review.helpful_votes, Review.timestamp)
        .where(Review.item_id.in_(item_ids))
        .order_by(Review.item_id, Review.helpful_votes.desc(), Review.review_id)
    )
    found: dict[str, list[SaidReview]] = {}
    for item_id, title, text, rating, votes, timestamp in rows:
        mine = found.setdefault(item_id, [])
        said = ". ".join(part for part in (title, text) if part is not None)
        if said and len(mine) < MOST_REVIEWS:
            mine.append(SaidReview(said, rating, votes, (now - timestamp).total_seconds() / 86_400))
    return found
