"""Probes and Prometheus. None of them asks for a key: they say nothing about shoppers or items."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from service.deps import ServiceDep
from service.problems import ProblemError
from service.schemas import Alive, Ready

router = APIRouter(tags=["operations"])


@router.get("/health/live", summary="Does the process answer?")
async def alive() -> Alive:
    """Always yes; an orchestrator restarts a process that does not answer."""
    return Alive()


@router.get("/health/ready", summary="Does it answer with a release?")
def ready(service: ServiceDep) -> Ready:
    """503 with the reason where the database is away or no release is live. Requests are answered all the same."""
    try:
        with service.engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        raise ProblemError(503, "not-ready", f"the database does not answer: {type(error).__name__}") from error
    live = service.live.current
    if live is None:
        raise ProblemError(503, "release-refused" if service.live.refused else "not-ready", service.live.why_none)
    return Ready(release=live.version)


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
def metrics(service: ServiceDep) -> Response:
    """The Prometheus text format, over all workers."""
    live = service.live.current
    cutoff = live.release.manifest.data_cutoff if live is not None else None
    return Response(service.metrics.export(cutoff), media_type=CONTENT_TYPE_LATEST)
