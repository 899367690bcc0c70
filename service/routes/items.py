"""``/v1/items``: an item as it is now, and what is like it. Changing it: service/routes/catalogue.py."""

import logging
import time
from typing import Annotated

from fastapi import APIRouter, Path
from sqlalchemy import select

from recsys.data.load import load_image_paths
from recsys.data.tables import Item
from recsys.reasons import why_alike
from recsys.request import Reason, Slate, SlateItem
from service.deps import Service, ServiceDep, needs_read
from service.fields import Identifier
from service.live import Live
from service.newest import newest_items
from service.problems import FieldError, ProblemError, show
from service.schemas import Recommendations, SimilarItemsRequest
from service.schemas_shop import ItemOut
from service.slates import answer_with

router = APIRouter(prefix="/v1", tags=["items"])
logger = logging.getLogger(__name__)

ItemId = Annotated[Identifier, Path(description="the shop's id of the item", examples=["sku-58"])]


@router.post("/items:similar", dependencies=[needs_read], summary="Items like an item")
def similar_items(body: SimilarItemsRequest, service: ServiceDep) -> Recommendations:
    """At most `limit` items in stock, most alike first; `weights` blends image, text and behaviour.

    Where nothing can be compared (the release does not know the item yet, or it has no image and `weights` asks for
    images alone), the newest of its category are answered, and `fallback` says so.
    """
    started, requested_at = time.perf_counter(), service.settings.now()
    live, slate = service.live.current, None
    if live is not None and live.release.row_of(body.item_id) is not None:
        try:
            slate = _similar(live, body)
        except Exception:  # whatever broke, the shop's page still gets items
            service.metrics.broken_parts.labels("similar").inc()
            logger.exception("release %s failed to answer; what came last is answered", live.version)
    if slate is None or not slate.items:
        item = load_item(service, body.item_id)
        if item is None:
            raise unknown_item(body.item_id)
        slate = newest_items(service.engine, body.limit, {body.item_id, *body.exclude_item_ids}, item.category)
    return answer_with(
        service,
        slate,
        placement="similar",
        requested_at=requested_at,
        started=started,
        return_items=body.return_items,
    )


@router.get("/items/{item_id:path}", dependencies=[needs_read], summary="One item")
def read_item(item_id: ItemId, service: ServiceDep) -> ItemOut:
    """The item as the catalogue holds it now."""
    item = load_item(service, item_id)
    if item is None:
        raise unknown_item(item_id)
    return item


def _similar(live: Live, body: SimilarItemsRequest) -> Slate:
    release, weights = live.release, None
    if body.weights is not None:
        weights = {name: weight for name, weight in body.weights if weight > 0}
    excluded = set(body.exclude_item_ids)
    nearest = release.similar([body.item_id], body.limit + len(excluded), weights, live.available)
    shown = [(item_id, score) for item_id, score in nearest if item_id not in excluded][: body.limit]
    reasons: list[tuple[Reason, ...]] = [()] * len(shown)
    if body.explain:
        reasons = [(why_alike(release, body.item_id, item_id, weights),) for item_id, _ in shown]
    items = tuple(
        SlateItem(item_id, rank, score, why)
        for rank, ((item_id, score), why) in enumerate(zip(shown, reasons), start=1)
    )
    return Slate(items, "full", live.version)


def load_item(service: Service, item_id: str) -> ItemOut | None:
    """The item as the catalogue holds it now, None for one that it does not hold."""
    with service.engine.connect() as connection:
        row = connection.execute(
            select(Item.__table__).where(Item.item_id == item_id, Item.deleted_at.is_(None))
        ).one_or_none()
        if row is None:
            return None
        images = load_image_paths(connection, [item_id]).get(item_id, [])
        live = service.live.current
        return ItemOut(
            id=row.item_id,
            title=row.title,
            description=row.description,
            category=row.category,
            brand=row.brand,
            family=row.family,
            price_cents=row.price_cents,
            in_stock=row.in_stock,
            attributes=row.attributes,
            images=images,
            created_at=row.created_at,
            updated_at=row.updated_at,
            in_release=live is not None and live.release.row_of(item_id) is not None,
        )


def unknown_item(item_id: str) -> ProblemError:
    """404, to be raised."""
    error = FieldError(field="item_id", message="expected an item of the catalogue", came=show(item_id))
    return ProblemError(404, "unknown-item", f"the catalogue has no item {show(item_id)}", (error,))
