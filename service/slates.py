"""From a slate to an answer: leave out what was deleted, add what a storefront draws, log it, count it."""

import logging
import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, bindparam, select
from sqlalchemy.exc import SQLAlchemyError

from recsys.data.tables import Item, ItemImage
from recsys.request import Slate, SlateItem
from service.deps import Service
from service.schemas import ItemSummary, ReasonOut, Recommendations, SlateItemOut, SlateItemWithSummary

VARIANT = "default"  # the arm of an experiment; none runs
NO_RELEASE = "none"  # what the log and the metrics call an answer without a release

logger = logging.getLogger(__name__)


def answer_with(
    service: Service,
    slate: Slate,
    *,
    placement: str,
    requested_at: datetime,
    started: float,
    user_id: str | None = None,
    session_id: str | None = None,
    return_items: bool = False,
) -> Recommendations:
    """The answer that carries ``slate``; its log row is queued, its metrics are counted.

    Args:
        service: the app's parts.
        slate: what to answer.
        placement: of the request, or ``similar``.
        requested_at: UTC.
        started: ``time.perf_counter()`` when the request came.
        user_id: of the request.
        session_id: of the request.
        return_items: add title, price and the rest to each item.
    """
    recommendation_id = uuid.uuid4().hex
    kept, summaries = _as_it_is_now(service, slate, return_items)
    items = [_shown(item, summaries.get(item.item_id, _UNKNOWN) if return_items else None) for item in kept]
    took_ms = (time.perf_counter() - started) * 1e3
    service.slate_log.append(
        {
            "recommendation_id": recommendation_id,
            "requested_at": requested_at,
            "placement": placement,
            "user_id": user_id,
            "session_id": session_id,
            "release": slate.release,
            "variant": VARIANT,
            "fallback": slate.fallback,
            "items": [
                # Every slot is deterministic: the item had to be there.
                {"item_id": item.item_id, "rank": item.rank, "score": _finite(item.score), "propensity": 1.0}
                for item in kept
            ],
            "took_ms": took_ms,
        }
    )
    service.metrics.recommendations.labels(placement, slate.fallback, slate.release).inc()
    return Recommendations(
        recommendation_id=recommendation_id,
        release=None if slate.release == NO_RELEASE else slate.release,
        variant=VARIANT,
        fallback=slate.fallback,
        items=items,
        took_ms=round(took_ms, 3),
    )


def _finite(score: float) -> float | None:
    """A score that is not a number ranked its item last; JSON has no word for it."""
    return score if math.isfinite(score) else None


def _reasons(item: SlateItem) -> list[ReasonOut]:
    return [
        ReasonOut(source=reason.source, item_id=reason.item_id, shares=reason.shares, text=reason.text)
        for reason in item.reasons
    ]


_UNKNOWN = ItemSummary(title=None, price_cents=None, brand=None, image=None, category=None, in_stock=True)


def _shown(item: SlateItem, summary: ItemSummary | None) -> SlateItemOut | SlateItemWithSummary:
    place: dict[str, Any] = {
        "id": item.item_id,
        "rank": item.rank,
        "score": _finite(item.score),
        "reasons": _reasons(item),
    }
    return SlateItemOut(**place) if summary is None else SlateItemWithSummary(**place, **dict(summary))


def _as_it_is_now(
    service: Service, slate: Slate, return_items: bool
) -> tuple[Sequence[SlateItem], dict[str, ItemSummary]]:
    """The slate's items that nobody deleted, ranked anew, and, where asked for, what a storefront draws of them.

    The shelf hears of what another worker deleted only with the next poll, and gone is gone: so each answer asks the
    database, a tenth of a millisecond for a page. Where that does not answer, the slate goes out as it is.
    """
    item_ids = [item.item_id for item in slate.items]
    summaries: dict[str, ItemSummary] = {}
    try:
        if return_items:
            summaries, deleted = load_summaries(service.engine, item_ids)
        else:
            deleted = find_deleted(service.engine, item_ids)
    except SQLAlchemyError:
        service.metrics.broken_parts.labels("items").inc()
        logger.exception("items could not be read; the slate goes out as it is")
        return slate.items, {}
    kept = [item for item in slate.items if item.item_id not in deleted]
    return [replace(item, rank=rank) for rank, item in enumerate(kept, start=1)] if deleted else kept, summaries


# Built once: a request pays for running them, not for composing them.
_ASKED_FOR = Item.item_id.in_(bindparam("item_ids", expanding=True))
_DELETED = select(Item.item_id).where(_ASKED_FOR, Item.deleted_at.is_not(None))
_SUMMARIES = (
    select(
        *(Item.item_id, Item.deleted_at, Item.title, Item.price_cents, Item.brand, Item.category, Item.in_stock),
        ItemImage.path,
    )
    .outerjoin(ItemImage, (ItemImage.item_id == Item.item_id) & (ItemImage.position == 0))
    .where(_ASKED_FOR)
)


def find_deleted(engine: Engine, item_ids: Sequence[str]) -> set[str]:
    """Those of these items that were deleted."""
    if not item_ids:
        return set()
    with engine.connect() as connection:
        return set(connection.scalars(_DELETED, {"item_ids": list(item_ids)}))


def load_summaries(engine: Engine, item_ids: Sequence[str]) -> tuple[dict[str, ItemSummary], set[str]]:
    """What a storefront needs to draw these items, by item id, and which were deleted; unknown ones are in neither."""
    summaries, deleted = {}, set()
    with engine.connect() as connection:
        for row in connection.execute(_SUMMARIES, {"item_ids": list(item_ids)}):
            if row.deleted_at is not None:
                deleted.add(row.item_id)
                continue
            summaries[row.item_id] = ItemSummary(
                title=row.title,
                price_cents=row.price_cents,
                brand=row.brand,
                image=row.path,
                category=row.category,
                in_stock=row.in_stock,
            )
    return summaries, deleted
