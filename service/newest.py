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
    shown = [Item.in_stock, Item.deleted_at.is_(None)]
    if category is not None:
        shown.append(Item.category == category)
    # More than asked for, and the excluded left out here: a list of a thousand ids is no part of a fast query.
    # Items of unknown age come last, by a query of their own: so the first one reads its index and stops.
    enough = limit + len(exclude)
    dated = select(Item.item_id).where(*shown, Item.created_at.is_not(None))
    undated = select(Item.item_id).where(*shown, Item.created_at.is_(None))
    with engine.connect() as connection:
        found = list(connection.scalars(dated.order_by(Item.created_at.desc(), Item.item_id).limit(enough)))
        if len(found) < enough:
            found += connection.scalars(undated.order_by(Item.item_id).limit(enough - len(found)))
    chosen = [item_id for item_id in found if item_id not in exclude][:limit]
    items = tuple(SlateItem(item_id, rank, 1.0 / rank) for rank, item_id in enumerate(chosen, start=1))
    return Slate(items, "newest", "none")
