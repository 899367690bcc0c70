"""The last rung: an answer from the database alone, when no release can give one."""

from collections.abc import Collection

from sqlalchemy import Engine, select

from recsys.data.tables import Item
from recsys.request import Slate, SlateItem


def newest_items(engine: Engine, limit: int, exclude: Collection[str] = (), category: str | None = None) -> Slate:
    """What came last and is in stock, newest first.

    Args:
        engine: the shop's database.
        limit: how many items at most.
        exclude: item ids to leave out.
        category: only items of exactly this category path.
    """
    query = select(Item.item_id).where(Item.in_stock, Item.deleted_at.is_(None))
    if category is not None:
        query = query.where(Item.category == category)
    # More than asked for, and the excluded left out here: a list of a thousand ids is no part of a fast query.
    query = query.order_by(Item.created_at.desc().nulls_last(), Item.item_id).limit(limit + len(exclude))
    with engine.connect() as connection:
        item_ids = [item_id for item_id in connection.scalars(query) if item_id not in exclude][:limit]
    items = tuple(SlateItem(item_id, rank, 1.0 / rank) for rank, item_id in enumerate(item_ids, start=1))
    return Slate(items, "newest", "none")
