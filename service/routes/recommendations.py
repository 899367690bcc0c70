"""``POST /v1/recommendations``: what to show to this shopper, here, now."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from fastapi import APIRouter
from sqlalchemy import or_, select

from recsys.data.load import load_user_history
from recsys.data.tables import Event
from recsys.request import Interaction, Request, Slate
from service.deps import Service, ServiceDep, needs_read
from service.newest import newest_items
from service.schemas import Recommendations, RecommendationsRequest
from service.slates import answer_with

router = APIRouter(prefix="/v1", tags=["recommendations"])
logger = logging.getLogger(__name__)
T = TypeVar("T")


@router.post("/recommendations", dependencies=[needs_read], summary="Items for a shopper")
def recommendations(body: RecommendationsRequest, service: ServiceDep) -> Recommendations:
    """At most `limit` items, best first, for the shopper and the page.

    Unknown shoppers, unknown items and empty histories are no errors: `fallback` says which rung answered.
    Events posted before this call are already seen.
    """
    started, requested_at = time.perf_counter(), service.settings.now()
    if body.user_id is None and body.session_id is None:
        history: list[Interaction] = []
    else:
        history = _or_else(service, "history", lambda: _history(service, body), [])
    exclude = list(body.exclude_item_ids)
    if body.exclude_purchased:
        exclude += _or_else(service, "purchases", lambda: _purchased(service, body), [])
    request = Request(
        requested_at=requested_at,
        placement=body.placement,
        user_id=body.user_id,
        session_id=body.session_id,
        history=history,
        item_ids=body.item_ids,
        limit=body.limit,
        exclude_item_ids=exclude,
        exclude_purchased=body.exclude_purchased,
        explain=body.explain,
    )
    slate = _slate(service, request)
    return answer_with(
        service,
        slate,
        placement=body.placement,
        requested_at=requested_at,
        started=started,
        user_id=body.user_id,
        session_id=body.session_id,
        return_items=body.return_items,
    )


def _slate(service: Service, request: Request) -> Slate:
    """The release's answer, or, where there is none, what came last."""
    live = service.live.current
    if live is not None:
        try:
            request = replace(request, requested_at=live.earliest(request.requested_at))
            return service.recommend(live.release, [request], available=live.available)[0]
        except Exception:  # whatever broke, the shop's page still gets items
            service.metrics.broken_parts.labels("recommend").inc()
            logger.exception("release %s failed to answer; what came last is answered", live.version)
    return newest_items(service.engine, request.limit, {*request.exclude_item_ids, *request.item_ids})


def _history(service: Service, body: RecommendationsRequest) -> list[Interaction]:
    # All that is stored, whatever its time: a storefront's clock may be ahead of ours, and what it sent still counts.
    return load_user_history(service.engine, body.user_id, body.session_id, limit=service.settings.history_limit)


def _purchased(service: Service, body: RecommendationsRequest) -> list[str]:
    """All that the shopper ever bought: a history's last events may not reach back to it."""
    known = [
        column == value
        for column, value in ((Event.user_id, body.user_id), (Event.session_id, body.session_id))
        if value is not None
    ]
    if not known:
        return []
    query = select(Event.item_id).distinct().where(or_(*known), Event.event_type == "purchase")
    with service.engine.connect() as connection:
        return [item_id for item_id in connection.scalars(query) if item_id is not None]


def _or_else(service: Service, part: str, load: Callable[[], T], otherwise: T) -> T:
    """``load()``; where it fails, count it and go on without."""
    try:
        return load()
    except Exception:
        service.metrics.broken_parts.labels(part).inc()
        logger.exception("%s could not be read; answering without", part)
        return otherwise
