"""Migrations go up and down with rows in the tables, and lead to exactly the tables that the code declares."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, inspect
from sqlalchemy.orm import Session

from recsys.data.database import MIGRATIONS, open_database, upgrade_database
from recsys.data.tables import Base, Identity, Item

ROOT = Path(__file__).parents[1]


def alembic(engine: Engine) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["engine"] = engine
    return config


def insert_rows(engine: Engine, rows: list[Base]) -> None:
    with Session(engine) as session, session.begin():
        for row in rows:
            session.add(row)
            session.flush()  # in the order given: the rows refer to each other


def test_up_with_rows_check_down_and_up_again(blank_engine: Engine, one_row_of_each_table: list[Base]) -> None:
    upgrade_database(blank_engine)
    assert set(inspect(blank_engine).get_table_names()) == {*Base.metadata.tables, "alembic_version"}
    insert_rows(blank_engine, one_row_of_each_table)

    command.check(alembic(blank_engine))  # raises when the tables and the code differ
    upgrade_database(blank_engine)  # nothing to do, and nothing lost
    with Session(blank_engine) as session:
        for table in Base.metadata.sorted_tables:
            assert session.scalar(sa.select(sa.func.count()).select_from(table)) == 1, table.name

    command.downgrade(alembic(blank_engine), "base")
    assert inspect(blank_engine).get_table_names() == ["alembic_version"]
    upgrade_database(blank_engine)
    with Session(blank_engine) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Item)) == 0


def test_check_sees_a_table_that_differs_from_the_code(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP INDEX ix_reviews_item_id")
    with pytest.raises(Exception, match="ix_reviews_item_id"):
        command.check(alembic(engine))


def test_constraints_bear_the_declared_names(engine: Engine) -> None:
    inspector = inspect(engine)
    assert inspector.get_pk_constraint("items")["name"] == "pk_items"
    assert {check["name"] for check in inspector.get_check_constraints("reviews")} == {
        "ck_reviews_rating",
        "ck_reviews_helpful_votes",
    }
    assert [key["name"] for key in inspector.get_foreign_keys("item_images")] == ["fk_item_images_item_id_items"]
    assert [key["name"] for key in inspector.get_unique_constraints("events")] == ["uq_events_event_id"]


def test_a_failed_migration_changes_nothing(blank_engine: Engine, tmp_path: Path) -> None:
    scripts = tmp_path / "migrations"
    (scripts / "versions").mkdir(parents=True)
    (scripts / "env.py").write_text((MIGRATIONS / "env.py").read_text())
    (scripts / "versions" / "0001_half.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\nrevision = '0001'\ndown_revision = None\n"
        "def upgrade():\n    op.create_table('first', sa.Column('x', sa.Integer()))\n"
        "    raise RuntimeError('power cut')\n"
    )
    config = alembic(blank_engine)
    config.set_main_option("script_location", str(scripts))
    with pytest.raises(RuntimeError, match="power cut"):
        command.upgrade(config, "head")
    assert "first" not in inspect(blank_engine).get_table_names()


def test_copying_a_table_on_sqlite_keeps_the_rows_that_refer_to_it(
    sqlite_engine: Engine, tmp_path: Path, one_row_of_each_table: list[Base]
) -> None:
    insert_rows(sqlite_engine, one_row_of_each_table)
    scripts = tmp_path / "migrations"
    (scripts / "versions").mkdir(parents=True)
    (scripts / "env.py").write_text((MIGRATIONS / "env.py").read_text())
    for script in (MIGRATIONS / "versions").glob("*.py"):
        (scripts / "versions" / script.name).write_text(script.read_text())
    (scripts / "versions" / "9999_copy.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\nrevision = '9999'\n"
        f"down_revision = {_head(sqlite_engine)!r}\n"
        "def upgrade():\n"
        "    with op.batch_alter_table('items', recreate='always') as batch:\n"
        "        batch.add_column(sa.Column('extra', sa.Integer()))\n"
        "def downgrade():\n    pass\n"
    )
    config = alembic(sqlite_engine)
    config.set_main_option("script_location", str(scripts))
    command.upgrade(config, "head")
    with sqlite_engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*), count(extra) FROM items").one() == (1, 0)
        assert connection.exec_driver_sql("SELECT count(*) FROM item_images").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_each_database_has_its_own_identity(tmp_path: Path) -> None:
    identities = set()
    for name in ("a", "b"):
        engine = open_database(f"sqlite:///{tmp_path}/{name}.db")
        upgrade_database(engine)
        with Session(engine) as session:
            identities.add(session.scalars(sa.select(Identity.database_id)).one())
        engine.dispose()
    assert len(identities) == 2


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_the_alembic_command(tmp_path: Path, by: str) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    arguments = ["-x", f"url={url}"] if by == "argument" else []
    environment = {**os.environ, **({"RECSYS_DATABASE": url} if by == "environment" else {})}
    program = [sys.executable, "-m", "alembic", *arguments, "upgrade", "head"]
    subprocess.run(program, cwd=ROOT, env=environment, check=True, capture_output=True)
    engine = open_database(url)
    command.check(alembic(engine))
    engine.dispose()


def test_the_alembic_command_asks_which_database() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "RECSYS_DATABASE"}
    program = [sys.executable, "-m", "alembic", "upgrade", "head"]
    done = subprocess.run(program, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert "RECSYS_DATABASE" in done.stderr


def _head(engine: Engine) -> str:
    with engine.connect() as connection:
        return str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar())
