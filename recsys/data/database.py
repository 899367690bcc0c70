"""Open the database and bring its tables up to date."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import Connection as SQLiteConnection
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from recsys.errors import ConfigError

BUSY_TIMEOUT_MS = 30_000  # how long a SQLite writer waits for another
CONNECT_SECONDS = 5  # how long who asks for answers in time waits for a PostgreSQL server

MIGRATIONS = Path(__file__).parents[2] / "migrations"


def open_database(url: str, answer_seconds: float | None = None) -> Engine:
    """Open ``url``; creates a SQLite file and its folder when missing, but no tables (see :func:`upgrade_database`).

    Args:
        url: ``sqlite:///var/shop.db`` or ``postgresql://user@host/name``.
        answer_seconds: a PostgreSQL server that takes longer for one statement, or is away, is an OperationalError.
            What the URL itself says of timeouts wins. None: wait as long as it takes.

    Raises:
        ConfigError: not a URL of a database that we speak.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        # Without the error and the rest of the URL: a password may stand in either.
        scheme, colon, _ = url.partition(":")
        came = f"{scheme}:… of another form, or with a port that is no number" if colon else repr(url)
        raise ConfigError(f"database: expected sqlite:///PATH or postgresql://…, came {came}") from None
    backend = parsed.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise ConfigError(f"database: expected sqlite:///PATH or postgresql://…, came {backend}://…")
    if backend == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
        if answer_seconds is not None:
            parsed = parsed.set(query={**_limits(answer_seconds), **parsed.query})
    elif parsed.database and parsed.database != ":memory:":
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        parsed,
        json_serializer=_write_json,
        pool_pre_ping=backend == "postgresql",
        hide_parameters=True,  # errors go to logs, and shoppers' ids should not
    )
    if backend == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def upgrade_database(engine: Engine) -> None:
    """Create or alter the tables to what this version expects; does nothing when they already are."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["engine"] = engine
    command.upgrade(config, "head")


@contextmanager
def current_database(url: str) -> Iterator[Engine]:
    """``url`` for one command: opened, its tables up to date, and closed at the end.

    Raises:
        ConfigError: see open_database().
    """
    engine = open_database(url)
    try:
        upgrade_database(engine)
        yield engine
    finally:
        engine.dispose()


def _limits(answer_seconds: float) -> dict[str, str]:
    """What libpq calls them; ``tcp_user_timeout`` is for a server that vanished without a word."""
    milliseconds = str(round(answer_seconds * 1000))
    return {
        "connect_timeout": str(CONNECT_SECONDS),
        "tcp_user_timeout": milliseconds,
        "options": f"-c statement_timeout={milliseconds}",
    }


def _write_json(value: Any) -> str:
    # Sorted keys: equal values are equal text, so SQLite too can tell whether a row changed.
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _configure_sqlite(connection: SQLiteConnection, record: ConnectionPoolEntry) -> None:
    # None: Python's sqlite3 begins no transactions by itself (it would leave CREATE TABLE outside of them).
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA journal_mode = WAL")  # readers and the one writer do not wait for each other
    connection.execute("PRAGMA synchronous = NORMAL")  # with WAL: a power cut may lose the last commits, never corrupt
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('sqlite_begin', 'DEFERRED')}")
