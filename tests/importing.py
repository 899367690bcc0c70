"""What the tests of all importers share."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from recsys.data.event_log import append_to_log, scan_events
from recsys.data.importers import ImportSummary, import_shop
from recsys.data.tables import Base

DATA = Path(__file__).parents[2] / "shared" / "data"


def rows_of(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, times of change included."""
    with engine.connect() as connection:
        return {
            name: sorted(map(tuple, connection.execute(sa.select(table))), key=repr)
            for name, table in Base.metadata.tables.items()
        }


def run_import(engine: Engine, source: Path, form: str, **options: Any) -> ImportSummary:
    rejects = options.pop("rejects", source.parent / "rejects.jsonl")
    return import_shop(engine, source, form, rejects=rejects, progress=False, **options)


def rejects_of(summary: ImportSummary) -> list[dict[str, Any]]:
    if summary.rejects is None:
        return []
    return [json.loads(line) for line in summary.rejects.read_text().splitlines()]


def logged(engine: Engine, tmp_path: Path) -> pl.DataFrame:
    append_to_log(engine, tmp_path / "log")
    return scan_events(tmp_path / "log").collect()


def real_data(folder: str) -> Path:
    if not (DATA / folder).is_dir():
        pytest.skip(f"needs the data in {DATA / folder}")
    return DATA / folder


def write_events(
    path: Path, *rows: str, header: str = "event_id,event_type,user_id,item_id,value,quantity,timestamp"
) -> None:
    """A file of events, lines as given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")


GOOD = "1,purchase,ann,shirt,1999,1,2026-01-02T12:00:00Z"
