"""``PUT``, ``PATCH`` and ``DELETE /v1/items/{id}``, ``POST /v1/items:batch``: the catalogue, and answers obey it.

Stock, price and category count from the next answer on. A new item, and a changed text or picture, are embedded beside
the requests and can be found seconds later.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response

from recsys.data.store import put_item, put_items
from service.catalogue import delete_item, patch_item
from service.deps import Service, ServiceDep, needs_write, writes
from service.routes.items import ItemId, load_item, unknown_item
from service.schemas_shop import ItemBody, ItemOut, ItemPatch, ItemsAnswer, ItemsBatch
from service.shelf import NOT_LISTED, Facts

router = APIRouter(prefix="/v1", tags=["items"])


@router.put(
    "/items/{item_id:path}",
    dependencies=[needs_write],
    summary="Create or replace an item",
    responses={201: {"model": ItemOut, "description": "The item is new"}},
)
@writes
def replace_item(item_id: ItemId, body: ItemBody, service: ServiceDep, response: Response) -> ItemOut:
    """The item, whole: a field left out is unknown from now on, but `created_at` stays, or is now for a new item, and
    `in_stock` becomes true.

    Stock counts from the next answer on. A new item, or a changed text or picture, can be found within seconds.
    """
    images = Path(service.settings.images)
    created = put_item(service.engine, item_id, body.model_dump(), images, arrived=datetime.now(UTC))
    response.status_code = 201 if created else 200
    return _noted(service, item_id)


@router.patch("/items/{item_id:path}", dependencies=[needs_write], summary="Change fields of an item")
@writes
def change_item(item_id: ItemId, body: ItemPatch, service: ServiceDep) -> ItemOut:
    """Only the fields sent change; null makes one unknown."""
    changes = {name: _or_empty(name, value) for name, value in body.changes().items()}
    if changes and not patch_item(service.engine, item_id, changes):
        raise unknown_item(item_id)
    return _noted(service, item_id)


@router.delete("/items/{item_id:path}", dependencies=[needs_write], status_code=204, summary="Delete an item")
@writes
def remove_item(item_id: ItemId, service: ServiceDep) -> None:
    """Gone from the next answer on, of every worker. Events that speak of it stay; a later `PUT` brings it back."""
    if not delete_item(service.engine, item_id):
        raise unknown_item(item_id)
    service.live.note(item_id, NOT_LISTED)


@router.post("/items:batch", dependencies=[needs_write], summary="Create or replace many items")
@writes
def replace_items(body: ItemsBatch, service: ServiceDep) -> ItemsAnswer:
    """As `PUT` for each of them; all are stored, or none."""
    rows = [item.model_dump(exclude={"id"}) | {"item_id": item.id} for item in body.items]
    written = put_items(service.engine, rows, Path(service.settings.images), arrived=datetime.now(UTC))
    for item in body.items:
        service.live.note(item.id, Facts(True, item.in_stock, item.category, item.brand, item.price_cents))
    service.newcomers.offer(item.id for item in body.items)
    return ItemsAnswer(created=written.created, changed=written.changed, unchanged=written.unchanged)


def _noted(service: Service, item_id: str) -> ItemOut:
    """The item as it was stored, once the answers obey it."""
    item = load_item(service, item_id)
    if item is None:
        raise unknown_item(item_id)  # deleted by another in the meantime
    service.live.note(item_id, Facts(True, item.in_stock, item.category, item.brand, item.price_cents))
    service.newcomers.offer([item_id])
    return item


def _or_empty(name: str, value: Any) -> Any:
    """Attributes and pictures are never unknown: they are none."""
    return {} if name == "attributes" and value is None else [] if name == "images" and value is None else value
