"""``POST /v1/events``: what shoppers do. The next request sees it."""

from datetime import UTC, datetime

from fastapi import APIRouter

from recsys.data.store import insert_events
from service.deps import ServiceDep, needs_write, writes
from service.problems import show
from service.schemas_shop import EVENT_CLOCK_SKEW, EventsAnswer, EventsRequest, RejectedEvent

router = APIRouter(prefix="/v1", tags=["events"])


@router.post("/events", dependencies=[needs_write], summary="Store events")
@writes
def store_events(body: EventsRequest, service: ServiceDep) -> EventsAnswer:
    """Store the good events, give the others back with their errors.

    Idempotent by `event_id`: sending a batch again after a lost answer is harmless.
    """
    now = datetime.now(UTC)
    good, rejected = [], []
    for index, event in enumerate(body.events):
        if isinstance(event, str):  # its error, see EventsRequest
            rejected.append(RejectedEvent(index=index, error=event))
        elif event.timestamp is not None and event.timestamp > now + EVENT_CLOCK_SKEW:
            came = show(event.timestamp.isoformat())
            error = f"timestamp: expected a time that is not in the future (now is {now.isoformat()}), came {came}"
            rejected.append(RejectedEvent(index=index, error=error))
        else:
            good.append(event.model_dump() | {"timestamp": event.timestamp or now})
    accepted, duplicates = insert_events(service.engine, good) if good else (0, 0)
    count = service.metrics.events
    count.labels("accepted").inc(accepted)
    count.labels("duplicate").inc(duplicates)
    count.labels("rejected").inc(len(rejected))
    return EventsAnswer(accepted=accepted, duplicates=duplicates, rejected=rejected)
