"""``create_app(settings)``: the parts of the service, put together.

    POST /v1/recommendations ─► routes/recommendations.py ─► recsys.recommend.recommend(live release)
    POST /v1/search          ─► routes/search.py          ─► recsys.search.search(live release)
    POST /v1/items:similar   ─► routes/items.py           ─► release.similar()
    POST /v1/events          ─► routes/events.py          ─► database ─► the next request's history
    PUT  /v1/items/{id}      ─► routes/catalogue.py       ─► database, the live release's shelf, and the newcomers
    GET  /health/*, /metrics ─► routes/health.py

Beside the requests run four threads: two watchers (of new releases, which may take minutes to load; of the catalogue
and API keys), the slate log, and the newcomers (items put since the night are embedded).
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from anyio import CapacityLimiter
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

import recsys.artifacts
import recsys.recommend
from recsys.artifacts import Release
from recsys.data.database import open_database
from recsys.request import Request, Slate
from service import openapi, problems
from service.body_limit import BodyLimit
from service.deps import Service
from service.keys import KeyRing
from service.live import Live, LiveRelease, Watcher
from service.metrics import CountRequests, Metrics
from service.newcomers import Newcomers
from service.routes import catalogue, events, health, items, recommendations, search
from service.settings import WRITE_THREADS, Settings
from service.slate_log import SlateLog

DATABASE_SECONDS = 10.0  # for one statement: less than service.live.LOOK_BACK, so that who waited is still seen


def create_app(
    settings: Settings,
    *,
    load_release: Callable[[str], Release] = recsys.artifacts.load_release,
    recommend: Callable[..., list[Slate]] = recsys.recommend.recommend,
) -> FastAPI:
    """The ASGI application. Nothing is opened before its lifespan begins, everything is closed when it ends.

    Args:
        settings: see Settings.
        load_release: opens what a row of ``releases`` points to.
        recommend: the request path.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        current_default_thread_limiter().total_tokens = settings.request_threads
        with _running(settings, metrics, load_release, recommend) as app.state.service:
            yield

    app = FastAPIOffline(  # FastAPI whose /docs loads nothing from another host
        title="Recommendations",
        version="1",
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        responses=openapi.PROBLEMS,
    )
    problems.install(app)
    app.add_middleware(
        BodyLimit,
        max_body_bytes=settings.max_body_bytes,
        larger={search.PATH: settings.max_picture_bytes + search.ROOM_FOR_FIELDS},
    )
    app.add_middleware(CountRequests, metrics=metrics)  # added last, so outermost: it sees what the limit refused
    for resource in (recommendations, search, items, catalogue, events, health):
        app.include_router(resource.router)
    openapi.install(app)
    return app


@contextmanager
def _running(
    settings: Settings,
    metrics: Metrics,
    load_release: Callable[[str], Release],
    recommend: Callable[..., list[Slate]],
) -> Iterator[Service]:
    """What every route depends on: the database, the live release, and the threads beside the requests."""
    engine = open_database(settings.database, DATABASE_SECONDS)

    def warm_up(live: Live) -> None:
        recommend(live.release, [Request(requested_at=live.earliest(settings.now()))], available=live.available)
        if live.release.embedder is not None:
            live.release.embedder.warm_in_background()

    live_release = LiveRelease(engine, load_release, warm_up, metrics, room=settings.late_items)
    newcomers = Newcomers(engine, live_release, settings, metrics)
    live_release.make_late, live_release.offer = newcomers.make, newcomers.offer
    service = Service(
        settings=settings,
        engine=engine,
        live=live_release,
        newcomers=newcomers,
        slate_log=SlateLog(engine, settings.slate_queue, metrics),
        keys=KeyRing(engine),
        metrics=metrics,
        recommend=recommend,
        writers=CapacityLimiter(WRITE_THREADS),
    )
    watchers = (
        Watcher(settings.reload_seconds, live_release.take_published),
        Watcher(settings.reload_seconds, live_release.poll, service.keys.refresh),
    )
    for watcher in watchers:
        watcher.look_once()  # a database that is away now does not keep the service from starting
        watcher.start()
    service.slate_log.start()
    newcomers.start()
    try:
        yield service
    finally:
        for watcher in watchers:
            watcher.stop()
        newcomers.stop()
        service.slate_log.stop()
        engine.dispose()
