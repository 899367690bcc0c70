"""What the store writes is what the loaders read, on both databases."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa
from polars.testing import assert_frame_equal
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from recsys.data.load import attribute_tokens, load_items, load_reviews, load_user_history
from recsys.data.store import insert_events, insert_reviews, insert_unknown_items, put_item, put_items, put_users
from recsys.data.tables import Event, Item, User
from recsys.request import Interaction
from recsys.schema import ITEMS, REVIEWS

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)

SHIRT = {
    "title": "Blue shirt",
    "description": "Cotton – très léger 👕",
    "category": "Men > Shirts",
    "brand": "Acme",
    "family": "shirt",
    "price_cents": 1999,
    "in_stock": False,
    "attributes": {"size": ["S", "M"], "colour": "blue"},
    "images": ["b.jpg", "a.jpg"],
    "created_at": NOON,
}


def event(event_id: str, minutes: float = 0, **fields: Any) -> dict[str, Any]:
    given = {"event_type": "purchase", "user_id": "ann", "item_id": "shirt", "timestamp": NOON}
    return {"event_id": event_id, **given, **fields} | {"timestamp": NOON + timedelta(minutes=minutes)}


def test_an_empty_database_gives_empty_frames(engine: Engine) -> None:
    assert_frame_equal(load_items(engine), pl.DataFrame(schema=ITEMS))
    assert_frame_equal(load_reviews(engine), pl.DataFrame(schema=REVIEWS))
    assert load_user_history(engine, user_id="nobody", session_id="none") == []


def test_items_come_back_sorted_with_all_that_was_put(engine: Engine) -> None:
    assert put_item(engine, "shirt", SHIRT)
    assert put_item(engine, "Zebra", {})
    expected = pl.DataFrame(
        {
            "item_id": ["Zebra", "shirt"],  # by code point, whatever the database's locale
            "title": [None, "Blue shirt"],
            "description": [None, "Cotton – très léger 👕"],
            "category": [None, "Men > Shirts"],
            "brand": [None, "Acme"],
            "family": [None, "shirt"],
            "price_cents": [None, 1999],
            "in_stock": [True, False],
            "attributes": [[], ["colour=blue", "size=M", "size=S"]],
            "images": [[], ["b.jpg", "a.jpg"]],
            "created_at": [None, NOON],
        },
        schema=ITEMS,
    )
    assert_frame_equal(load_items(engine), expected)


def test_attribute_tokens() -> None:
    assert attribute_tokens({"b": 1, "a": ["y", "x"], "c": "p=q"}) == ["a=x", "a=y", "b=1", "c=p=q"]


def updated_at(engine: Engine, item_id: str) -> datetime:
    with Session(engine) as session:
        return session.get_one(Item, item_id).updated_at


def test_putting_the_same_item_again_changes_nothing(engine: Engine) -> None:
    assert put_item(engine, "shirt", SHIRT)
    before = updated_at(engine, "shirt")
    assert not put_item(engine, "shirt", SHIRT)
    assert updated_at(engine, "shirt") == before


@pytest.mark.parametrize(("picture", "written"), [("b.jpg", (0, 1, 0)), ("nowhere.jpg", (0, 0, 1))])
def test_a_picture_that_was_replaced_since_is_a_change(
    engine: Engine, tmp_path: Path, picture: str, written: tuple[int, int, int]
) -> None:
    shirt = {**SHIRT, "item_id": "shirt", "images": [picture, "a.jpg"]}
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"a picture")
    assert put_items(engine, [shirt], images_root=tmp_path) == (1, 0, 0)
    for moment, expected in ((NOON.replace(year=2000), written), (NOON.replace(year=2100), (0, 0, 1))):
        with engine.begin() as connection:
            connection.execute(sa.update(Item).values(updated_at=moment))
        assert put_items(engine, [shirt], images_root=tmp_path) == expected
        assert (updated_at(engine, "shirt") != moment) == (expected == (0, 1, 0))
    with engine.begin() as connection:
        connection.execute(sa.update(Item).values(updated_at=NOON.replace(year=2000)))
    assert put_items(engine, [shirt]) == (0, 0, 1)  # nobody said where pictures are


@pytest.mark.parametrize(
    "change",
    [{"title": None}, {"price_cents": 5}, {"attributes": {}}, {"images": ["a.jpg", "b.jpg"]}, {"images": []}],
    ids=str,
)
def test_a_changed_item_is_replaced_whole(engine: Engine, change: dict[str, Any]) -> None:
    put_items(engine, [{**SHIRT, "item_id": "shirt"}, {"item_id": "other", "images": ["c.jpg"]}])
    before = updated_at(engine, "shirt")
    other = updated_at(engine, "other")
    written = put_items(engine, [{**SHIRT, **change, "item_id": "shirt"}, {"item_id": "other", "images": ["c.jpg"]}])
    assert written == (0, 1, 1)
    assert updated_at(engine, "shirt") > before
    assert updated_at(engine, "other") == other
    with_change = load_items(engine).filter(pl.col("item_id") == "shirt").row(0, named=True)
    name = next(iter(change))
    assert with_change[name] == (change[name] or None if name == "title" else change[name] or [])


def test_when_an_item_came_stays_where_nobody_says(engine: Engine) -> None:
    put_item(engine, "shirt", SHIRT)
    later = NOON + timedelta(days=9)
    bare = [{"item_id": "new"}, {"item_id": "shirt", "title": "Shirt"}]
    for arrived in (None, later):
        put_items(engine, bare, arrived=arrived)
        assert load_items(engine).select("item_id", "created_at").rows() == [("new", None), ("shirt", NOON)]
    put_items(engine, [{"item_id": "newer"}], arrived=later)
    assert load_items(engine)["created_at"].to_list() == [None, later, NOON]
    put_item(engine, "shirt", {"created_at": later})
    assert load_items(engine)["created_at"].to_list() == [None, later, later]


def test_a_deleted_item_is_not_loaded_and_can_come_back(engine: Engine) -> None:
    put_item(engine, "shirt", SHIRT)
    with Session(engine) as session, session.begin():
        session.get_one(Item, "shirt").deleted_at = NOON
    assert load_items(engine).is_empty()
    assert put_item(engine, "shirt", SHIRT)
    assert load_items(engine)["item_id"].to_list() == ["shirt"]


def test_more_items_than_fit_in_one_query(engine: Engine) -> None:
    items = [{"item_id": f"i{n:05}", "images": [f"{n}.jpg"]} for n in range(1234)]
    assert put_items(engine, items) == (1234, 0, 0)
    assert put_items(engine, items) == (0, 0, 1234)
    assert load_items(engine)["images"].to_list() == [[f"{n}.jpg"] for n in range(1234)]


def test_an_item_twice_in_one_call_is_a_mistake_of_the_caller(engine: Engine) -> None:
    with pytest.raises(ValueError, match="2 items with 1 different"):
        put_items(engine, [{"item_id": "a"}, {"item_id": "a"}])


def test_unknown_items_become_bare_ones_and_known_ones_stay(engine: Engine) -> None:
    put_item(engine, "shirt", SHIRT)
    assert insert_unknown_items(engine, ["shirt", "new", "new"]) == 1
    assert load_items(engine)["title"].to_list() == [None, "Blue shirt"]


def test_reviews_come_back(engine: Engine) -> None:
    review = {
        "review_id": "r1",
        "item_id": "unknown item",
        "user_id": "ann",
        "rating": 4.5,
        "title": "Good",
        "text": "Fits",
        "helpful_votes": 3,
        "timestamp": NOON,
    }
    silent = dict.fromkeys(review) | {"review_id": "r0", "item_id": "i", "helpful_votes": 0, "timestamp": NOON}
    assert insert_reviews(engine, [review, silent]) == (2, 0, 0)
    assert insert_reviews(engine, [review]) == (0, 0, 1)
    assert_frame_equal(load_reviews(engine), pl.DataFrame([silent, review], schema=REVIEWS))


def test_events_are_idempotent_and_name_their_users(engine: Engine) -> None:
    assert insert_events(engine, []) == (0, 0)
    assert insert_events(engine, [event("a"), event("b"), event("a", item_id="other")]) == (2, 1)
    assert insert_events(engine, [event("b"), event("c", session_id="s", user_id=None)]) == (1, 1)
    with Session(engine) as session:
        assert session.scalars(sa.select(Event.event_id).order_by(Event.sequence)).all() == ["a", "b", "c"]
        assert session.scalars(sa.select(Event.item_id).where(Event.event_id == "a")).one() == "shirt"
        assert session.scalars(sa.select(User.user_id)).all() == ["ann"]


def test_users_are_replaced_only_when_they_differ(engine: Engine) -> None:
    insert_events(engine, [event("a")])
    users = [{"user_id": "ann", "attributes": {"age": 30}}, {"user_id": "bob", "attributes": {}}]
    assert put_users(engine, users) == (1, 1, 0)
    assert put_users(engine, users) == (0, 0, 2)


def test_history_is_oldest_first_and_the_newest_of_it(engine: Engine) -> None:
    insert_events(engine, [event(str(n), minutes=-n, item_id=f"i{n}") for n in range(10)])
    history = load_user_history(engine, user_id="ann", limit=3)
    assert history == [Interaction(f"i{n}", "purchase", NOON - timedelta(minutes=n)) for n in (2, 1, 0)]
    assert history[0].timestamp.tzinfo == UTC


def test_history_ends_before_the_request(engine: Engine) -> None:
    insert_events(engine, [event(str(n), minutes=n, item_id=f"i{n}") for n in range(4)])
    history = load_user_history(engine, user_id="ann", before=NOON + timedelta(minutes=2))
    assert [past.item_id for past in history] == ["i0", "i1"]


def test_history_keeps_the_order_of_arrival_within_one_moment(engine: Engine) -> None:
    insert_events(engine, [event(name, item_id=name) for name in "dacb"])
    assert [past.item_id for past in load_user_history(engine, user_id="ann")] == list("dacb")
    assert [past.item_id for past in load_user_history(engine, user_id="ann", limit=2)] == list("cb")


def test_history_of_user_and_session_together_counts_a_shared_event_once(engine: Engine) -> None:
    insert_events(
        engine,
        [
            event("1", minutes=1, item_id="before login", user_id=None, session_id="s"),
            event("2", minutes=2, item_id="both", session_id="s"),
            event("3", minutes=3, item_id="other device", session_id="t"),
            event("4", minutes=4, item_id="someone else", user_id="bob", session_id="u"),
        ],
    )
    together = load_user_history(engine, user_id="ann", session_id="s")
    assert [past.item_id for past in together] == ["before login", "both", "other device"]
    assert [past.item_id for past in load_user_history(engine, session_id="s")] == ["before login", "both"]
    assert [past.item_id for past in load_user_history(engine, user_id="ann")] == ["both", "other device"]
    assert load_user_history(engine) == []


def test_history_has_what_the_shopper_cared_for_only(engine: Engine) -> None:
    types = ["impression", "detail-page-view", "add-to-cart", "remove-from-cart", "purchase", "rating"]
    insert_events(engine, [event(name, minutes=n, event_type=name) for n, name in enumerate(types)])
    insert_events(engine, [event("s", event_type="search", item_id=None)])
    history = load_user_history(engine, user_id="ann")
    assert [past.event_type for past in history] == ["detail-page-view", "add-to-cart", "purchase", "rating"]


@pytest.mark.parametrize("column", ["user_id", "session_id"])
def test_history_is_read_from_its_index_alone(sqlite_engine: Engine, column: str) -> None:
    statements: list[tuple[str, Any]] = []
    sa.event.listen(sqlite_engine, "before_cursor_execute", lambda *args: statements.append(args[2:4]))
    load_user_history(sqlite_engine, **{column: "x"})
    history = next(found for found in statements if "FROM events" in found[0])
    with sqlite_engine.connect() as connection:
        plan = [row.detail for row in connection.exec_driver_sql("EXPLAIN QUERY PLAN " + history[0], history[1])]
    assert len(plan) == 1  # no sorting step
    assert f"USING COVERING INDEX ix_events_{column}_timestamp_sequence_event_type_item_id" in plan[0]
