"""``POST /v1/search``: items by words, by a picture, or by both."""

import logging
import time
from typing import Annotated

from fastapi import APIRouter, Depends

from recsys.errors import UnreadableImage
from recsys.request import Slate
from recsys.search import Query, search
from service.deps import Service, ServiceDep, needs_read
from service.newest import newest_items
from service.schemas import Recommendations, SearchRequest
from service.shelf import Filter
from service.slates import answer_with
from service.uploads import PICTURE, check_picture, read_search, unreadable

PATH = "/v1/search"
ROOM_FOR_FIELDS = 100_000  # bytes of a form beside the picture
PATIENCE_SECONDS = 20.0  # for encoders that are still loading, where nothing else can answer

router = APIRouter(tags=["search"])
logger = logging.getLogger(__name__)

_FORM = {
    "type": "object",
    "required": [PICTURE],
    "additionalProperties": False,
    "properties": {
        PICTURE: {"type": "string", "format": "binary", "description": "JPEG, PNG, WebP or GIF (its first frame)"},
        "text": {"type": "string", "description": "what to look for in addition, in words"},
        "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 24},
        "filter": {"type": "string", "description": "as JSON, the same as in a JSON body"},
        "user_id": {"type": "string"},
        "session_id": {"type": "string"},
        "explain": {"type": "boolean", "default": False},
        "return_items": {"type": "boolean", "default": False},
    },
}
_BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": {"$ref": "#/components/schemas/SearchRequest"}},
        "multipart/form-data": {"schema": _FORM},
    },
}

Asked = Annotated[tuple[SearchRequest, bytes | None], Depends(read_search)]


@router.post(
    PATH,
    dependencies=[needs_read],
    summary="Items by words, by a picture, or by both",
    openapi_extra={"requestBody": _BODY},
)
def find_items(asked: Asked, service: ServiceDep) -> Recommendations:
    """At most `limit` items that pass `filter`, best first; none where nothing fits.

    Words come as JSON; a picture comes as a form (`multipart/form-data`), with the other fields beside it. Words are
    searched by meaning and literally, so codes and brand names are found. `fallback` says which rung answered.
    """
    started, requested_at = time.perf_counter(), service.settings.now()
    body, picture = asked
    if picture is not None:
        check_picture(picture, service.settings.max_picture_bytes)
    slate = _slate(service, body, picture)
    return answer_with(
        service,
        slate,
        placement="search",
        requested_at=requested_at,
        started=started,
        user_id=body.user_id,
        session_id=body.session_id,
        return_items=body.return_items,
    )


def _slate(service: Service, body: SearchRequest, picture: bytes | None) -> Slate:
    live, wanted = service.live.current, _filter(body)
    if live is not None:
        release = live.release
        allowed = live.shelf.allowed(wanted, len(release.item_ids))
        query = Query(text=body.text, picture=picture, limit=body.limit, explain=body.explain)
        by_words = query.words is not None and release.search is not None
        ready = release.embedder is not None and release.embedder.wait(0.0 if by_words else PATIENCE_SECONDS)
        try:
            return search(release, query, allowed=allowed, embed=ready)
        except UnreadableImage as error:
            raise unreadable(str(error), picture or b"") from error
        except Exception:  # whatever broke, the shop's page still gets an answer
            service.metrics.broken_parts.labels("search").inc()
            logger.exception("release %s failed to search; what came last is answered", live.version)
    return newest_items(service.engine, body.limit, wanted=wanted)


def _filter(body: SearchRequest) -> Filter:
    asked = body.filter
    return Filter(asked.category, tuple(asked.brand), asked.price_from_cents, asked.price_to_cents, asked.in_stock)
