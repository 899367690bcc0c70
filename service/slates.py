"""From a slate to an answer: log it, count it, and add what a storefront draws."""

import logging
import math
import time
import uuid
from collections.abc import Sequence
from datetime import datetime

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
    if return_items:
        items = _with_summaries(service, slate.items)
    else:
        items = [
            SlateItemOut(id=item.item_id, rank=item.rank, score=_finite(item.score), reasons=_reasons(item))
            for item in slate.items
        ]
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
                for item in slate.items
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


def _with_summaries(service: Service, items: Sequence[SlateItem]) -> list[SlateItemOut | SlateItemWithSummary]:
    """Each item with its summary; without, where the database does not answer or no longer holds it."""
    try:
        summaries = load_summaries(service.engine, [item.item_id for item in items])
    except SQLAlchemyError:
        service.metrics.broken_parts.labels("items").inc()
        logger.exception("items could not be read; the slate goes out without them")
        summaries = {}
    unknown = ItemSummary(title=None, price_cents=None, brand=None, image=None, category=None, in_stock=True)
    return [
        SlateItemWithSummary(
            id=item.item_id,
            rank=item.rank,
            score=_finite(item.score),
            reasons=_reasons(item),
            **dict(summaries.get(item.item_id, unknown)),
        )
        for item in items
    ]


# Built once: a request pays for running it, not for composing it.
_SUMMARIES = (
    select(Item.item_id, Item.title, Item.price_cents, Item.brand, ItemImage.path, Item.category, Item.in_stock)
    .outerjoin(ItemImage, (ItemImage.item_id == Item.item_id) & (ItemImage.position == 0))
    .where(Item.item_id.in_(bindparam("item_ids", expanding=True)))
)


def load_summaries(engine: Engine, item_ids: Sequence[str]) -> dict[str, ItemSummary]:
    """What a storefront needs to draw these items, by item id; unknown ones are absent."""
    with engine.connect() as connection:
        return {
            item_id: ItemSummary(
                title=title, price_cents=price_cents, brand=brand, image=image, category=category, in_stock=in_stock
            )
            for item_id, title, price_cents, brand, image, category, in_stock in connection.execute(
                _SUMMARIES, {"item_ids": list(item_ids)}
            )
        }
