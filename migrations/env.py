"""How Alembic reaches the database.

``alembic -x url=sqlite:///var/shop.db upgrade head``, or the URL in RECSYS_DATABASE; called from
``recsys.data.database.upgrade_database``, the engine comes with the configuration.
"""

import os
from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import Connection, Engine

from recsys.data.database import open_database
from recsys.data.tables import Base, UTCDateTime

ADVISORY_LOCK = 7_310_517  # any number that nothing else in the database uses


def get_engine() -> Engine:
    """The engine given by the caller, else one for the URL given on the command line or in the environment."""
    engine: Engine | None = context.config.attributes.get("engine")
    if engine is not None:
        return engine
    url = context.get_x_argument(as_dictionary=True).get("url") or os.environ.get("RECSYS_DATABASE")
    if not url:
        raise SystemExit("which database? give -x url=sqlite:///var/shop.db or set RECSYS_DATABASE")
    return open_database(url)


def render_item(kind: str, item: Any, autogen_context: AutogenContext) -> str | Literal[False]:
    """Write plain types into migrations: an old one must not change when our classes do."""
    if kind == "type" and isinstance(item, UTCDateTime):
        return "sa.DateTime(timezone=True)"
    return False


def migrate(connection: Connection) -> None:
    """Run the migrations in one transaction: all of them or none."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,  # SQLite alters a table by copying it
        render_item=render_item,
        transactional_ddl=True,  # on SQLite too: the engine's "begin" hook makes it so
    )
    with context.begin_transaction():
        if connection.dialect.name == "postgresql":
            # Two services that start together: the second waits, then finds nothing to do.
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")
        context.run_migrations()


if context.is_offline_mode():
    raise SystemExit("--sql is not supported: migrations are tested against a live database only")

with get_engine().connect() as connection:
    if connection.dialect.name == "sqlite":
        # Copying a table drops the old one, which with foreign keys enforced would also delete the rows that refer
        # to it. The switch has no effect inside a transaction, so it is thrown on the driver's own connection.
        driver_connection: Any = connection.connection.driver_connection
        driver_connection.execute("PRAGMA foreign_keys = OFF")
        try:
            migrate(connection.execution_options(sqlite_begin="IMMEDIATE"))
            broken = driver_connection.execute("PRAGMA foreign_key_check").fetchall()
            if broken:
                raise SystemExit(f"after the migration, rows refer to missing rows: {broken[:5]}")
        finally:
            driver_connection.execute("PRAGMA foreign_keys = ON")
    else:
        migrate(connection)
