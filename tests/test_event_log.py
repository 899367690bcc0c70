"""The Parquet log holds every event of the database once, whatever happens while it is written."""

import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa
from polars.testing import assert_frame_equal
from sqlalchemy import Engine

from recsys.data import event_log
from recsys.data.database import open_database, upgrade_database
from recsys.data.event_log import append_to_log, scan_events
from recsys.data.store import insert_events
from recsys.data.tables import Event
from recsys.errors import SchemaError
from recsys.schema import EVENTS

START = datetime(2026, 1, 1, tzinfo=UTC)


def make_events(first: int, last: int, days: float = 3) -> list[dict[str, Any]]:
    """Events e<first> … e<last>, spread over ``days``; their times are not in the order of arrival."""
    types = ("detail-page-view", "add-to-cart", "purchase")
    return [
        {
            "event_id": f"e{n}",
            "event_type": types[n % 3],
            "user_id": f"u{n % 5}" if n % 4 else None,
            "session_id": f"s{n % 7}",
            "item_id": f"i{n % 11}",
            "value": n / 2 if n % 3 == 2 else None,
            "quantity": 1 + n % 2,
            "recommendation_id": "q" if n % 6 == 0 else None,
            "position": n % 12 if n % 6 == 0 else None,
            "timestamp": START + timedelta(days=(n * 0.37) % days, microseconds=n),
        }
        for n in range(first, last)
    ]


def as_frame(events: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(events, schema=EVENTS).sort("timestamp", maintain_order=True)


def files_of(log: Path) -> dict[str, bytes]:
    return {str(path.relative_to(log)): path.read_bytes() for path in sorted(log.rglob("*.*")) if path.is_file()}


def test_the_log_holds_the_events_by_time_and_by_day(engine: Engine, tmp_path: Path) -> None:
    events = make_events(0, 50)
    insert_events(engine, events)
    assert append_to_log(engine, tmp_path / "log") == 50
    assert_frame_equal(scan_events(tmp_path / "log").collect(), as_frame(events))
    days = sorted(path.name for path in (tmp_path / "log").glob("day=*"))
    assert days == ["day=2026-01-01", "day=2026-01-02", "day=2026-01-03"]
    for path in (tmp_path / "log").glob("day=*/*.parquet"):
        assert set(pl.read_parquet(path)["timestamp"].dt.date()) == {date.fromisoformat(path.parent.name[4:])}


def test_no_log_and_an_empty_log_have_no_events(engine: Engine, tmp_path: Path) -> None:
    for _ in range(2):
        assert_frame_equal(scan_events(tmp_path / "log").collect(), pl.DataFrame(schema=EVENTS))
        assert append_to_log(engine, tmp_path / "log") == 0


def test_appending_again_adds_only_what_is_new(engine: Engine, tmp_path: Path) -> None:
    log = tmp_path / "log"
    insert_events(engine, make_events(0, 20))
    append_to_log(engine, log)
    before = files_of(log)
    assert append_to_log(engine, log) == 0
    assert files_of(log) == before

    insert_events(engine, make_events(15, 40, days=30))  # five are known, and many are late
    assert append_to_log(engine, log) == 20
    assert before.items() - {("committed.json", before["committed.json"])} <= files_of(log).items()
    expected = make_events(0, 20) + make_events(20, 40, days=30)
    assert_frame_equal(scan_events(log).collect(), as_frame(expected))


def test_events_of_one_moment_keep_their_order_of_arrival(engine: Engine, tmp_path: Path) -> None:
    names = list("qwertyuiop")
    for name in names:
        insert_events(engine, [{**make_events(0, 1)[0], "event_id": name}])
        append_to_log(engine, tmp_path / "log")
    assert scan_events(tmp_path / "log").collect()["event_id"].to_list() == names


def test_only_the_files_of_the_days_asked_for_are_read(sqlite_engine: Engine, tmp_path: Path) -> None:
    events = make_events(0, 60)
    insert_events(sqlite_engine, events)
    append_to_log(sqlite_engine, tmp_path / "log")
    second = date(2026, 1, 2)
    next((tmp_path / "log").glob("day=2026-01-01/*.parquet")).write_bytes(b"not read")
    of_the_day = as_frame(events).filter(pl.col("timestamp").dt.date() == second)
    assert not of_the_day.is_empty()
    assert_frame_equal(scan_events(tmp_path / "log", since=second, until=second).collect(), of_the_day)
    since = as_frame(events).filter(pl.col("timestamp").dt.date() >= second)
    assert_frame_equal(scan_events(tmp_path / "log", since=second).collect(), since)


def test_batches_do_not_show(sqlite_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "BATCH_EVENTS", 7)
    insert_events(sqlite_engine, make_events(0, 50))
    with sqlite_engine.begin() as connection:  # numbers may be missing
        connection.execute(sa.delete(Event).where(Event.event_id.in_(["e3", "e20", "e49"])))
    assert append_to_log(sqlite_engine, tmp_path / "log") == 47
    gone = {"e3", "e20", "e49"}
    assert_frame_equal(
        scan_events(tmp_path / "log").collect(),
        as_frame([event for event in make_events(0, 50) if event["event_id"] not in gone]),
    )


class Killed(BaseException):
    """Stands for the end of the process: nothing after it runs, nothing catches it."""


def die_after(steps: int) -> Iterator[None]:
    for _ in range(steps):
        yield
    raise Killed


def test_killed_anywhere_nothing_is_lost_or_doubled(
    sqlite_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "BATCH_EVENTS", 4)
    insert_events(sqlite_engine, make_events(0, 10, days=2))
    replace, sync = event_log._replace, event_log._sync

    def count_steps(steps: Iterator[None]) -> None:
        """Each file is written, brought to disk, put in place, and its folder brought to disk: die between any two."""

        def step_and_replace(path: Path, write: Any) -> None:
            next(steps)
            replace(path, write)

        def step_and_sync(path: Path) -> None:
            next(steps)
            sync(path)
            next(steps)

        monkeypatch.setattr(event_log, "_replace", step_and_replace)
        monkeypatch.setattr(event_log, "_sync", step_and_sync)

    n_deaths = 0
    for steps in range(1000):
        log = tmp_path / str(steps)
        count_steps(die_after(steps))
        try:
            append_to_log(sqlite_engine, log)
        except Killed:
            n_deaths += 1
        else:
            break
        # A reader sees whole batches, from the first on.
        seen = scan_events(log).collect()
        assert seen.height in (0, 4, 8, 10)
        assert set(seen["event_id"]) == {f"e{n}" for n in range(seen.height)}

        monkeypatch.setattr(event_log, "_replace", replace)
        monkeypatch.setattr(event_log, "_sync", sync)
        insert_events(sqlite_engine, make_events(10, 11, days=2))
        append_to_log(sqlite_engine, log)
        assert_frame_equal(scan_events(log).collect(), as_frame(make_events(0, 11, days=2)))
        rows = sum(pl.read_parquet(path).height for path in log.glob("day=*/*"))
        assert rows == 11  # also on disk: no file of a batch that failed is left
        with sqlite_engine.begin() as connection:
            connection.execute(sa.delete(Event).where(Event.event_id == "e10"))
    assert n_deaths > 20


def test_the_log_of_another_database_is_refused(sqlite_engine: Engine, tmp_path: Path) -> None:
    insert_events(sqlite_engine, make_events(0, 5))
    append_to_log(sqlite_engine, tmp_path / "log")
    before = files_of(tmp_path / "log")
    other = open_database(f"sqlite:///{tmp_path}/other.db")
    upgrade_database(other)
    insert_events(other, make_events(0, 9))
    with pytest.raises(SchemaError, match="expected the log of database"):
        append_to_log(other, tmp_path / "log")
    other.dispose()
    assert files_of(tmp_path / "log") == before


def restore(engine: Engine, copied: list[dict[str, Any]], next_number: int) -> None:
    """Make the database what an older copy of it was: these events, and the numbers after them not given out yet."""
    with engine.begin() as connection:
        connection.execute(sa.delete(Event).where(Event.event_id.not_in([event["event_id"] for event in copied])))
        if engine.dialect.name == "sqlite":
            connection.execute(sa.text(f"UPDATE sqlite_sequence SET seq = {next_number - 1} WHERE name = 'events'"))
        else:
            connection.execute(sa.text(f"ALTER SEQUENCE events_sequence_seq RESTART WITH {next_number}"))


@pytest.mark.parametrize("n_new", [1, 4, 9], ids=["fewer than were lost", "as many", "more"])
def test_a_database_restored_from_an_older_copy_is_refused(engine: Engine, tmp_path: Path, n_new: int) -> None:
    log = tmp_path / "log"
    insert_events(engine, make_events(0, 10))
    append_to_log(engine, log)
    before = files_of(log)
    restore(engine, make_events(0, 6), next_number=7)
    assert append_to_log(engine, log) == 0  # nothing came since, so nothing is lost
    insert_events(engine, make_events(20, 20 + n_new))
    with pytest.raises(SchemaError, match=rf"expected event 'e{19 + min(n_new, 4)}' under the number .* restored"):
        append_to_log(engine, log)
    assert files_of(log) == before


def test_the_newest_events_may_be_deleted_from_the_database(engine: Engine, tmp_path: Path) -> None:
    insert_events(engine, make_events(0, 10))
    append_to_log(engine, tmp_path / "log")
    with engine.begin() as connection:
        connection.execute(sa.delete(Event).where(Event.event_id.in_(["e8", "e9"])))
    insert_events(engine, make_events(10, 12))
    assert append_to_log(engine, tmp_path / "log") == 2
    assert_frame_equal(scan_events(tmp_path / "log").collect(), as_frame(make_events(0, 12)))


def test_files_that_are_gone_are_missed(sqlite_engine: Engine, tmp_path: Path) -> None:
    log = tmp_path / "log"
    for first in (0, 20):  # two files a day
        insert_events(sqlite_engine, make_events(first, first + 20))
        append_to_log(sqlite_engine, log)
    shutil.rmtree(log / "day=2026-01-02")
    with pytest.raises(SchemaError, match=r"expected 40 events of 3 days .*, came 27, and no file of .*2026-01-02"):
        scan_events(log)
    last = date(2026, 1, 3)
    assert scan_events(log, since=last).collect().height == 14
    next(log.glob("day=2026-01-03/*.parquet")).unlink()
    with pytest.raises(SchemaError, match=r"expected 14 events of 1 days"):
        scan_events(log, since=last)


def test_a_log_of_another_form_is_named(sqlite_engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "committed.json").write_text('{"database_id": "x", "sequence": 3}')
    with pytest.raises(SchemaError, match=r"committed.json: expected JSON with .*'days'.* remove the whole folder"):
        append_to_log(sqlite_engine, tmp_path)


def test_an_event_deleted_and_sent_again_counts_once(sqlite_engine: Engine, tmp_path: Path) -> None:
    events = make_events(0, 3)
    insert_events(sqlite_engine, events)
    append_to_log(sqlite_engine, tmp_path / "log")
    with sqlite_engine.begin() as connection:
        connection.execute(sa.delete(Event).where(Event.event_id == "e1"))
    insert_events(sqlite_engine, events)
    assert append_to_log(sqlite_engine, tmp_path / "log") == 1
    assert_frame_equal(scan_events(tmp_path / "log").collect(), as_frame(events))


def test_two_at_once_write_each_event_once(engine: Engine, tmp_path: Path) -> None:
    insert_events(engine, make_events(0, 40))
    appended: list[int] = []
    threads = [
        threading.Thread(target=lambda: appended.append(append_to_log(engine, tmp_path / "log"))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(appended) == [0, 0, 0, 40]
    assert sum(pl.read_parquet(path).height for path in (tmp_path / "log").glob("day=*/*")) == 40


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_an_event_whose_transaction_ends_late_is_not_passed_over(engine: Engine, tmp_path: Path) -> None:
    """PostgreSQL numbers rows before their commit: here number 1 is committed after number 2 was visible."""
    early, late = make_events(0, 2)
    done = threading.Event()

    def append() -> None:
        append_to_log(engine, tmp_path / "log")
        done.set()

    with engine.connect() as slow:
        slow.execute(sa.insert(Event), [early])
        insert_events(engine, [late])
        appending = threading.Thread(target=append)
        appending.start()
        assert not done.wait(timeout=0.2)  # it waits for the transaction that holds number 1
        slow.commit()
    appending.join(timeout=10)
    assert done.is_set()
    append_to_log(engine, tmp_path / "log")
    assert set(scan_events(tmp_path / "log").collect()["event_id"]) == {"e0", "e1"}
