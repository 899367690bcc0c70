"""The tables hold what they are given, alike on both databases, and refuse what would be wrong."""

import traceback
from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine, inspect
from sqlalchemy.exc import IntegrityError, StatementError
from sqlalchemy.orm import Session

from recsys.data import tables
from recsys.data.database import open_database
from recsys.data.releases import live_release, publish_release, record_release
from recsys.errors import ConfigError, ReleaseError

NOON = datetime(2026, 1, 2, 12, 0, 0, 345678, tzinfo=UTC)


def test_rows_come_back_as_they_went_in(engine: Engine, one_row_of_each_table: list[tables.Base]) -> None:
    rows = one_row_of_each_table
    expected = {
        type(row): {column.key: getattr(row, column.key) for column in inspect(type(row)).columns} for row in rows
    }
    with Session(engine) as session, session.begin():
        for row in rows:
            session.add(row)
            session.flush()  # in the order given: the rows refer to each other
    with Session(engine) as session:
        for table, values in expected.items():
            row = session.scalars(sa.select(table)).one()
            for name, value in values.items():
                if value is not None:  # else a default or a generated number
                    assert getattr(row, name) == value, f"{table.__name__}.{name}"
        item = session.scalars(sa.select(tables.Item)).one()
        assert item.in_stock is True
        assert [image.path for image in item.images] == ["shirt.jpg"]


def test_times_are_utc_whatever_zone_they_came_in(engine: Engine) -> None:
    local = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    with Session(engine) as session, session.begin():
        session.add(tables.Event(event_id="e", event_type="search", session_id="s", timestamp=local))
    with Session(engine) as session:
        came = session.scalars(sa.select(tables.Event.timestamp)).one()
    assert came == NOON
    assert came.tzinfo == UTC


def test_a_time_without_a_zone_is_refused(engine: Engine) -> None:
    with Session(engine) as session, pytest.raises(StatementError, match="expected a datetime with a time zone"):
        session.scalars(sa.select(tables.Event).where(tables.Event.timestamp < datetime(2026, 1, 1)))


@pytest.mark.parametrize(
    "row",
    [
        tables.Event(event_id="e", event_type="bought", user_id="u", timestamp=NOON),
        tables.Event(event_id="e", event_type="purchase", user_id="u", quantity=0, timestamp=NOON),
        tables.Event(event_id="e", event_type="purchase", user_id="u"),
        tables.Review(review_id="r", item_id="i", rating=5.5, helpful_votes=0, timestamp=NOON),
        tables.Item(item_id="i", price_cents=-1, updated_at=NOON),
        tables.ItemImage(item_id="nobody", position=0, path="x"),
        tables.Publication(version="unknown", published_at=NOON),
    ],
    ids=lambda row: type(row).__name__,
)
def test_wrong_rows_are_refused(engine: Engine, row: tables.Base) -> None:
    values = {column.key: getattr(row, column.key) for column in inspect(type(row)).columns}
    given = {name: value for name, value in values.items() if value is not None}
    with engine.begin() as connection, pytest.raises(IntegrityError):
        connection.execute(sa.insert(type(row)), [given])


def test_a_sequence_number_is_never_used_twice(engine: Engine) -> None:
    for event_id in ("a", "b"):
        with Session(engine) as session, session.begin():
            session.add(tables.Event(event_id=event_id, event_type="search", session_id="s", timestamp=NOON))
            session.flush()
            number = session.scalar(sa.select(sa.func.max(tables.Event.sequence)))
            assert number == {"a": 1, "b": 2}[event_id]
        with Session(engine) as session, session.begin():
            session.execute(sa.delete(tables.Event))


def record(engine: Engine, version: str, checksum: str = "c") -> None:
    record_release(
        engine, version=version, path=f"var/{version}", data_cutoff=NOON, checksum=checksum, metrics={"m": 1}
    )


def test_publishing_and_rolling_back(engine: Engine) -> None:
    assert live_release(engine) is None
    record(engine, "v1")
    record(engine, "v2")
    assert live_release(engine) is None
    for version in ("v1", "v2", "v1"):
        publish_release(engine, version)
        live = live_release(engine)
        assert live is not None
        assert (live.version, live.path, live.data_cutoff, live.metrics) == (version, f"var/{version}", NOON, {"m": 1})


def test_publishing_what_does_not_exist_leaves_the_live_release(engine: Engine) -> None:
    record(engine, "v1")
    publish_release(engine, "v1")
    with pytest.raises(ReleaseError, match="one of v1, came 'v9'"):
        publish_release(engine, "v9")
    live = live_release(engine)
    assert live is not None
    assert live.version == "v1"


def test_a_version_is_one_release(engine: Engine) -> None:
    record(engine, "v1", checksum="aaa")
    record(engine, "v1", checksum="aaa")
    with pytest.raises(ReleaseError, match="expected checksum aaa as recorded, came bbb"):
        record(engine, "v1", checksum="bbb")


@pytest.mark.parametrize("url", ["mysql://host/db", "not a url", "shop.db"])
def test_a_url_that_we_do_not_speak(url: str) -> None:
    with pytest.raises(ConfigError, match="expected sqlite:///PATH or postgresql://"):
        open_database(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:/shop:s3cret@db/shop",
        "postgresql://db:s3cret/shop",
        "postgresql://shop:s3cret@db:54x2/shop",
        "mysql://shop:s3cret@db/shop",
    ],
)
def test_an_error_about_a_url_keeps_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"database: expected sqlite:///PATH or postgresql://.*, came \w+:") as caught:
        open_database(url)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_an_error_of_the_database_names_no_shopper(sqlite_engine: Engine) -> None:
    with pytest.raises(sa.exc.IntegrityError) as caught, sqlite_engine.begin() as connection:
        connection.execute(sa.insert(tables.User), [{"user_id": "ann", "attributes": {}}] * 2)
    assert "ann" not in str(caught.value)


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_who_wants_an_answer_in_time_waits_for_no_lock_longer_than_that(engine: Engine) -> None:
    url = engine.url.render_as_string(hide_password=False)
    record(engine, "v1")
    hurried = open_database(url, answer_seconds=0.1)
    change = sa.update(tables.Release).values(status="retired")
    with engine.begin() as other:
        other.execute(change)
        with pytest.raises(sa.exc.OperationalError, match="statement timeout"), hurried.begin() as connection:
            connection.execute(change)
    with hurried.begin() as connection:
        assert connection.execute(change).rowcount == 1
        asked = connection.connection.driver_connection.info.get_parameters()
        assert (asked["connect_timeout"], asked["tcp_user_timeout"]) == ("5", "100")
    hurried.dispose()
    patient = open_database(f"{url}&options=-c%20statement_timeout%3D60000", answer_seconds=0.1)
    with patient.connect() as connection:
        assert connection.scalar(sa.text("SHOW statement_timeout")) == "1min"
    patient.dispose()
