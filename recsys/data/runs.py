"""What ran, when, how it went: one row for each execution of a pipeline."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine, update
from sqlalchemy.orm import Session

from recsys.data.tables import Run


def start_run(engine: Engine, pipeline: str, config: Mapping[str, Any]) -> str:
    """Note that ``pipeline`` begins; returns the run_id.

    Only one execution of a pipeline may be under way (its caller holds a lock), so whatever still says "running" was
    killed, and is noted as failed.
    """
    run_id = uuid.uuid4().hex
    now = datetime.now(UTC)
    with Session(engine) as session, session.begin():
        session.execute(
            update(Run)
            .where(Run.pipeline == pipeline, Run.status == "running")
            .values(status="failed", finished_at=now, error="stopped before it finished")
        )
        session.add(Run(run_id=run_id, pipeline=pipeline, status="running", started_at=now, config=dict(config)))
    return run_id


def finish_run(
    engine: Engine,
    run_id: str,
    stages: Sequence[Mapping[str, Any]],
    *,
    release: str | None = None,
    error: str | None = None,
) -> None:
    """Note how it ended: succeeded with a ``release``, or failed with an ``error``."""
    with Session(engine) as session, session.begin():
        run = session.get_one(Run, run_id)
        run.status = "failed" if error else "succeeded"
        run.finished_at = datetime.now(UTC)
        run.stages = [dict(stage) for stage in stages]
        run.release, run.error = release, error
