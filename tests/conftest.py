"""Databases for the tests: SQLite in a file, and a real PostgreSQL server, started once a session.

``engine`` runs a test on both, each time on a fresh database with the tables of today.
"""

import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from pytest_postgresql.janitor import DatabaseJanitor
from sqlalchemy import Engine

from recsys.data import tables
from recsys.data.database import open_database, upgrade_database
from recsys.data.store import put_items

if TYPE_CHECKING:  # they bring the service, which most tests do without
    from fastapi.testclient import TestClient

    from service.deps import Service

DATABASES = ("sqlite", "postgresql")
TEMPLATE = "recsys_template"

settings.register_profile("suite", deadline=None)  # that a machine is busy is nobody's failure
settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: a mistake shows in seconds."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(params=DATABASES)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An empty database with all tables, on SQLite and on PostgreSQL."""
    with ExitStack() as stack:
        yield _open(request, stack, request.param, migrated=True)


@pytest.fixture
def sqlite_engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An empty SQLite database with all tables, for tests where the database does not matter."""
    with ExitStack() as stack:
        yield _open(request, stack, "sqlite", migrated=True)


@pytest.fixture(params=DATABASES)
def blank_engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A database without any table, on SQLite and on PostgreSQL."""
    with ExitStack() as stack:
        yield _open(request, stack, request.param, migrated=False)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied: quicker than migrating for every test."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for release directories, built once."""
    return tmp_path_factory.mktemp("releases")


@pytest.fixture
def shop(engine: Engine, releases: Path) -> Engine:
    """A database with the catalogue of service_shop.py and a live release, on SQLite and on PostgreSQL."""
    return _with_shop(engine, releases)


@pytest.fixture
def sqlite_shop(sqlite_engine: Engine, releases: Path) -> Engine:
    """The same on SQLite alone, where the database does not matter."""
    return _with_shop(sqlite_engine, releases)


@pytest.fixture
def plain(sqlite_shop: Engine) -> Iterator[tuple["TestClient", "Service"]]:
    """Its service, without encoders: items are found as arrivals all the same."""
    from service_shop import serve

    with serve(sqlite_shop) as started:
        started[1].newcomers.flush()
        yield started


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Callable[..., DatabaseJanitor]]:
    """Starts a server that listens on a socket in its own folder only; gives the maker of its databases.

    Skips, saying why, where PostgreSQL's server programs are missing.
    """
    programs = _postgresql_programs()
    if programs is None:
        pytest.skip("PostgreSQL's server programs (initdb, pg_ctl) are not installed: Debian's package is postgresql")
    folder = Path(tempfile.mkdtemp(prefix="recsys-pg-"))  # short: a socket's path has at most 107 characters
    # The server refuses to run as root, as containers do; then it runs as the user that its package made.
    as_user = {"user": "postgres", "group": "postgres", "extra_groups": ()} if os.geteuid() == 0 else {}
    if as_user:
        shutil.chown(folder, "postgres", "postgres")

    def run(program: str, *arguments: str) -> None:
        command = [str(programs / program), "-D", str(folder / "data"), *arguments]
        with open(os.devnull) as nothing, open(folder / "programs.log", "ab") as log:
            done = subprocess.run(command, stdin=nothing, stdout=log, stderr=log, cwd=folder, check=False, **as_user)
        if done.returncode != 0:
            said = "\n".join(path.read_text() for path in sorted(folder.glob("*.log")))
            raise RuntimeError(f"{program} failed with status {done.returncode}:\n{said}")

    # Nothing here needs to survive a power cut.
    options = f"-F -c listen_addresses='' -c unix_socket_directories={folder} -c full_page_writes=off"
    try:
        run("initdb", "--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C")
        run("pg_ctl", "start", "-w", "-l", str(folder / "server.log"), "-o", options)
        try:

            def database(name: str, **settings: object) -> DatabaseJanitor:
                return DatabaseJanitor(user="postgres", host=str(folder), port=5432, dbname=name, **settings)

            with database(TEMPLATE, as_template=True) as template:
                _migrate(_postgresql_url(template))
                yield database
        finally:
            run("pg_ctl", "stop", "-m", "immediate")
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def one_row_of_each_table() -> list[tables.Base]:
    """Rows not yet in any database; all tables but ``identity``, which has its row from the migration."""
    noon = datetime(2026, 1, 2, 12, 0, 0, 345678, tzinfo=UTC)
    return [
        tables.Item(
            item_id="shirt",
            title="Blue shirt",
            category="Men > Shirts",
            price_cents=1999,
            attributes={"colour": "blue", "sizes": ["S", "M"]},
            created_at=noon,
            updated_at=noon,
            images=[tables.ItemImage(position=0, path="shirt.jpg")],
        ),
        tables.Review(
            review_id="r1", item_id="shirt", user_id="ann", rating=4.5, text="Good", helpful_votes=2, timestamp=noon
        ),
        tables.User(user_id="ann", attributes={"age": 30}),
        tables.Event(
            event_id="e1",
            event_type="purchase",
            user_id="ann",
            item_id="shirt",
            value=1999.0,
            quantity=1,
            timestamp=noon,
            properties={"channel": "app"},
        ),
        tables.Recommendation(
            recommendation_id="q1",
            requested_at=noon,
            placement="home",
            user_id="ann",
            release="v1",
            fallback="full",
            items=[{"item_id": "shirt", "rank": 1, "score": 0.5, "propensity": 1.0}],
            took_ms=1.25,
        ),
        tables.Release(
            version="v1", path="var/releases/v1", created_at=noon, data_cutoff=noon, checksum="c", metrics={"ndcg": 0.5}
        ),
        tables.Publication(version="v1", published_at=noon),
        tables.Run(run_id="n1", pipeline="retrain", status="succeeded", started_at=noon, config={"seed": 1}),
        tables.Experiment(name="x1", variants=[{"name": "a", "release": "v1", "share": 1.0}], started_at=noon),
        tables.ApiKey(key_hash="0" * 64, name="storefront", scopes=["read"], created_at=noon),
    ]


def _with_shop(engine: Engine, releases: Path) -> Engine:
    from service_shop import items, publish  # brings faiss and LightGBM, which most tests here do without

    put_items(engine, items())
    publish(engine, releases)
    return engine


def _migrate(url: str) -> None:
    engine = open_database(url)
    try:
        upgrade_database(engine)
    finally:
        engine.dispose()  # SQLite's last connection to close folds the write-ahead log into the file


def _open(request: pytest.FixtureRequest, stack: ExitStack, kind: str, migrated: bool) -> Engine:
    if kind == "sqlite":
        path = request.getfixturevalue("tmp_path") / "shop.db"
        if migrated:
            shutil.copy(request.getfixturevalue("sqlite_template"), path)
        engine = open_database(f"sqlite:///{path}")
    else:
        database = request.getfixturevalue("postgresql_server")
        name = f"test_{uuid.uuid4().hex}"
        template = {"template_dbname": TEMPLATE} if migrated else {}
        engine = open_database(_postgresql_url(stack.enter_context(database(name, **template))))
    stack.callback(engine.dispose)
    return engine


def _postgresql_url(database: DatabaseJanitor) -> str:
    return f"postgresql://postgres@/{database.dbname}?host={database.host}"


def _postgresql_programs() -> Path | None:
    """The folder of the newest server programs: Debian keeps them out of PATH."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    found = str(versions[-1]) if versions else shutil.which("initdb")
    return Path(found).resolve().parent if found else None
