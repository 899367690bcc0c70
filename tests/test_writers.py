"""Two who write at once: the second waits, and then nothing is lost, neither by it nor by who looks for changes."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from recsys.data.load import load_items
from recsys.data.store import insert_unknown_items, put_item, put_items
from recsys.data.tables import Item, ItemImage
from service.catalogue import delete_item, patch_item

PATIENCE = 30  # seconds until a test that hangs fails


def begin_writing(engine: Engine) -> sa.Connection:
    """A transaction that holds SQLite's write lock; PostgreSQL locks by the row."""
    connection = engine.connect().execution_options(sqlite_begin="IMMEDIATE")
    connection.begin()
    return connection


def when_another_says(engine: Engine, words: str) -> threading.Event:
    """Is set as soon as another thread is about to send a statement that begins so."""
    here, said = threading.current_thread(), threading.Event()

    @sa.event.listens_for(engine, "before_cursor_execute")
    def listen(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if threading.current_thread() is not here and statement.startswith(words):
            said.set()

    return said


def in_background(write: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(write()))
    thread.start()
    return thread, results


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)
def test_a_new_item_put_twice_at_once_is_as_the_later_one_says(engine: Engine) -> None:
    inserting = when_another_says(engine, "INSERT INTO items")
    with begin_writing(engine) as first:
        first.execute(sa.insert(Item), {"item_id": "hat", "title": "First", "updated_at": datetime.now(UTC)})
        first.execute(sa.insert(ItemImage), [{"item_id": "hat", "position": n, "path": f"{n}.jpg"} for n in (0, 1)])
        second, results = in_background(lambda: put_item(engine, "hat", {"title": "Second", "images": ["b.jpg"]}))
        assert inserting.wait(PATIENCE)  # it has looked, and saw no hat
        first.commit()
    second.join(PATIENCE)
    assert results == [False]  # the first created it
    assert load_items(engine).select("item_id", "title", "images").rows() == [("hat", "Second", ["b.jpg"])]


@pytest.mark.parametrize(
    "write",
    [
        lambda engine: put_item(engine, "hat", {"title": "Red hat"}),
        lambda engine: patch_item(engine, "hat", {"in_stock": False}),
        lambda engine: delete_item(engine, "hat"),
        lambda engine: insert_unknown_items(engine, ["cap"]),
    ],
    ids=["put", "patch", "delete", "unknown"],
)
def test_a_row_says_when_it_was_written_not_when_its_writer_began_to_wait(
    sqlite_engine: Engine, write: Callable[[Engine], Any]
) -> None:
    """Who polls looks back some seconds; a writer may wait longer than that for another."""
    put_items(sqlite_engine, [{"item_id": "hat"}])
    waiting = when_another_says(sqlite_engine, "BEGIN")
    with begin_writing(sqlite_engine) as other:
        writer, _ = in_background(lambda: write(sqlite_engine))
        assert waiting.wait(PATIENCE)
        before = datetime.now(UTC)
        other.rollback()
    writer.join(PATIENCE)
    with sqlite_engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.max(Item.updated_at))) >= before
