"""The last rung: an answer from the database alone, when no release can give one."""

from collections.abc import Collection

from sqlalchemy import ColumnElement, Engine, or_, select

from recsys.data.tables import Item
from recsys.request import Slate, SlateItem
from service.shelf import Filter


def newest_items(
    engine: Engine,
    limit: int,
    exclude: Collection[str] = (),
    category: str | None = None,
    wanted: Filter = Filter(),  # noqa: B008 - frozen
) -> Slate:
    """What came last and is in stock, newest first.

    Args:
        engine: the shop's database.
        limit: how many items at most.
        exclude: item ids to leave out.
        category: only items of exactly this category path.
        wanted: what they must pass besides; of categories and brands as the database compares them.
    """
    shown = [Item.deleted_at.is_(None), *_passing(wanted)]
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


def _passing(wanted: Filter) -> list[ColumnElement[bool]]:
    passing: list[ColumnElement[bool]] = [Item.in_stock.is_(True)] if wanted.in_stock else []
    if wanted.category is not None:
        below = Item.category.startswith(wanted.category + " > ", autoescape=True)
        passing.append(or_(Item.category == wanted.category, below))
    if wanted.brands:
        passing.append(Item.brand.in_(wanted.brands))
    if wanted.price_from is not None:
        passing.append(Item.price_cents >= wanted.price_from)
    if wanted.price_to is not None:
        passing.append(Item.price_cents <= wanted.price_to)
    return passing
