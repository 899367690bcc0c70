"""The Parquet event log: what training reads, lazily, so that history never has to fit in memory.

::

    var/events/
        committed.json                                     how far the log has come, in which database, and how many
                                                           events each day has
        day=2026-01-02/000000000001-000000200000.parquet   that day's events among those sequence numbers

Events are appended in batches by ``sequence``, the order of arrival. A late event lands in the partition of the day on
which it happened, in the file of the batch in which it came. A batch counts from the moment ``committed.json`` names
its last number, which happens after all its files are safely on disk: readers pass over files of a batch that never
finished, and the next append removes them. Readers count the events of the days that they read: a file that is gone
is an error, not a shorter past.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
from sqlalchemy import Engine, func, select

from recsys.data.tables import Event, Identity
from recsys.errors import SchemaError
from recsys.schema import EVENTS

BATCH_EVENTS = 200_000  # events per batch: about 100 MiB while it is written

UNFINISHED = ".unfinished"

LOGGED = pl.Schema([("sequence", pl.Int64()), *EVENTS.items()])


@dataclass(frozen=True)
class Committed:
    """The content of ``committed.json``."""

    database_id: str
    sequence: int  # the last number in the log
    days: dict[str, int]  # "2026-01-02" → how many events the log has of that day


def append_to_log(engine: Engine, log_dir: Path | str) -> int:
    """Copy the events that arrived since the last call into the log; returns how many.

    May be killed at any point and called again: no event is lost and none comes twice. Two calls at once wait for each
    other.

    Raises:
        SchemaError: the log was written from another database, or from this one before an older copy of it was
            restored; or files of it are gone.
    """
    log_dir = Path(log_dir)
    log_dir.mkdir(parents=True, exist_ok=True)
    appended = 0
    with _only_one_writer(log_dir):
        with engine.connect() as connection:
            database_id = connection.execute(select(Identity.database_id)).scalar_one()
        committed = _read_committed(log_dir) or Committed(database_id, 0, {})
        if committed.database_id != database_id:
            raise SchemaError(
                f"{log_dir}: expected the log of database {database_id}, came that of {committed.database_id}; "
                "name another folder for the events, or remove this one to write it anew"
            )
        _check_continues(engine, log_dir, committed)
        for path in [*log_dir.rglob("*" + UNFINISHED), *_files(log_dir)]:
            if path.name.endswith(UNFINISHED) or _last_sequence(path) > committed.sequence:
                path.unlink()
        end = _last_finished_sequence(engine)
        while committed.sequence < end:
            events, last = _read_events(engine, committed.sequence, end)
            days = dict(committed.days)
            for (day,), of_day in events.group_by(pl.col("timestamp").dt.date(), maintain_order=True):
                path = log_dir / f"day={day}" / f"{committed.sequence + 1:012d}-{last:012d}.parquet"
                path.parent.mkdir(exist_ok=True)
                _replace(path, of_day.write_parquet)
                days[str(day)] = days.get(str(day), 0) + of_day.height
            committed = Committed(database_id, last, days)
            _write_committed(log_dir, committed)
            appended += events.height
    return appended


def scan_events(log_dir: Path | str, since: date | None = None, until: date | None = None) -> pl.LazyFrame:
    """The events of the log as EVENTS, by ``timestamp``, those of one time in order of arrival; each ``event_id`` once.

    Args:
        log_dir: where :func:`append_to_log` wrote. Missing or empty: no events.
        since: first day (UTC) to read, None for all. Other days' files are not opened.
        until: last day (UTC) to read, None for all.

    Raises:
        SchemaError: files of these days are gone, or ``committed.json`` is not as expected.
    """
    committed = _read_committed(Path(log_dir))
    logged = pl.LazyFrame(schema=LOGGED) if committed is None else _scan(Path(log_dir), committed, since, until)
    return (
        logged.sort("timestamp", "sequence")
        .unique("event_id", keep="first", maintain_order=True)  # one deleted from the database and sent again
        .select(list(EVENTS))
    )


def _scan(log_dir: Path, committed: Committed, since: date | None, until: date | None) -> pl.LazyFrame:
    """The committed events of some days as LOGGED, in no order; all of them, or SchemaError."""

    def wanted(day: date) -> bool:
        return (since is None or day >= since) and (until is None or day <= until)

    paths = [path for path in _files(log_dir) if _last_sequence(path) <= committed.sequence and wanted(_day(path))]
    logged = pl.scan_parquet(paths, schema=LOGGED) if paths else pl.LazyFrame(schema=LOGGED)
    days = {day: count for day, count in committed.days.items() if wanted(date.fromisoformat(day))}
    came = logged.select(pl.len()).collect().item()  # of the files' footers alone
    if came != sum(days.values()):
        gone = sorted(days.keys() - {str(_day(path)) for path in paths})
        raise SchemaError(
            f"{log_dir}: expected {sum(days.values())} events of {len(days)} days as committed.json has them, came "
            f"{came}, and no file of {len(gone)} days {gone[:5]}; bring the files back, or remove the whole folder: "
            "the next night writes it anew from the database"
        )
    return logged


def _check_continues(engine: Engine, log_dir: Path, committed: Committed) -> None:
    """Compare the newest event that the database and the log should both have.

    A database that was restored from an older copy gives out numbers again that the log has already seen; what came
    under them would never be copied.
    """
    newest = (
        select(Event.sequence, Event.event_id, Event.timestamp)
        .where(Event.sequence <= committed.sequence)
        .order_by(Event.sequence.desc())
        .limit(1)
    )
    with engine.connect() as connection:
        row = connection.execute(newest).one_or_none()
    if row is None:
        return
    same = (pl.col("sequence") == row.sequence) & (pl.col("event_id") == row.event_id)
    day = row.timestamp.date()
    if _scan(log_dir, committed, day, day).filter(same).collect().is_empty():
        raise SchemaError(
            f"{log_dir}: expected event {row.event_id!r} under the number {row.sequence}, as the database has it; the "
            "log has another there, so the database was restored from an older copy. Move this folder away: the next "
            "night writes it anew from the database (what came after the copy stands only in the old folder)"
        )


def _last_finished_sequence(engine: Engine) -> int:
    """The number up to which every event is committed, for good."""
    with engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            # Numbers are given out before the commit, so a higher one may be visible while a lower one is not yet.
            # This waits until all who hold one have finished; it is let go at once.
            connection.exec_driver_sql("LOCK TABLE events IN SHARE MODE")
        last = connection.execute(select(func.max(Event.sequence))).scalar() or 0
        connection.rollback()
        if connection.dialect.name == "sqlite":
            # Commits may not be on disk yet (see database.py), and the log must not know more than the disk does.
            driver_connection: Any = connection.connection.driver_connection
            driver_connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        return last


def _read_events(engine: Engine, after: int, end: int) -> tuple[pl.DataFrame, int]:
    """The next events as LOGGED, and the last sequence number that they cover (numbers may be missing)."""
    columns = [getattr(Event, name) for name in LOGGED]
    statement = select(*columns).where(Event.sequence > after, Event.sequence <= end).order_by(Event.sequence)
    with engine.connect() as connection:
        rows = connection.execute(statement.limit(BATCH_EVENTS)).all()
    frame = pl.DataFrame({name: [row[i] for row in rows] for i, name in enumerate(LOGGED)}, schema=LOGGED)
    return frame, end if len(rows) < BATCH_EVENTS else rows[-1].sequence


def _read_committed(log_dir: Path) -> Committed | None:
    path = log_dir / "committed.json"
    try:
        return Committed(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        names = [field.name for field in fields(Committed)]
        raise SchemaError(
            f"{path}: expected JSON with {names}, came other: {error}; remove the whole folder: the next night writes "
            "it anew from the database"
        ) from error


def _write_committed(log_dir: Path, committed: Committed) -> None:
    _replace(log_dir / "committed.json", lambda path: path.write_text(json.dumps(asdict(committed))))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Put a file in its place complete and on disk, or not at all."""
    unfinished = path.with_name(path.name + UNFINISHED)
    write(unfinished)
    _sync(unfinished)
    unfinished.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files(log_dir: Path) -> list[Path]:
    return sorted(log_dir.glob("day=*/*-*.parquet"))


def _last_sequence(path: Path) -> int:
    return int(path.stem.partition("-")[2])


def _day(path: Path) -> date:
    return date.fromisoformat(path.parent.name.removeprefix("day="))


@contextmanager
def _only_one_writer(log_dir: Path) -> Iterator[None]:
    with open(log_dir / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the file is closed, also by a process that dies
        yield
