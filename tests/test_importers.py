"""The generic form goes in whole, twice without a difference, and what is wrong in it is explained."""

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from importing import GOOD, logged, rejects_of, rows_of, run_import, write_events
from PIL import Image
from polars.testing import assert_frame_equal
from sqlalchemy import Engine

from recsys.data.load import load_items, load_reviews
from recsys.schema import EVENTS, ITEMS, REVIEWS

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def write_shop(folder: Path, form: str) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """A shop of two items, two reviews and three events; returns the frames that loading should give."""
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (20, 30), "blue").save(folder / "images" / "blue, shirt.jpg")
    Image.new("RGB", (20, 30), "red").save(folder / "images" / "red.png")
    items = pl.DataFrame(
        {
            "item_id": ["mug", "shirt"],
            "title": ["Mug", 'Shirt "Ann"\nin blue'],
            "description": [None, "Weich, très léger 👕"],
            "category": ["Home", "Men > Shirts"],
            "brand": [None, "Acme"],
            "family": [None, "s1"],
            "price_cents": [None, 1999],
            "in_stock": [True, False],
            "attributes": [[], ["colour=blue", "size=M", "size=S"]],
            "images": [["https://shop.example/mug.jpg"], ["images/blue, shirt.jpg", "images/red.png"]],
            "created_at": [None, NOON],
        },
        schema=ITEMS,
    )
    reviews = pl.DataFrame(
        {
            "review_id": ["r1", "r2"],
            "item_id": ["shirt", "mug"],
            "user_id": ["ann", None],
            "rating": [4.5, None],
            "title": ["Good", None],
            "text": ["Fits, and it is blue", "I broke it"],
            "helpful_votes": [3, 0],
            "timestamp": [NOON, NOON + timedelta(microseconds=7)],
        },
        schema=REVIEWS,
    )
    events = pl.DataFrame(
        {
            "event_id": ["1", "2", "3"],
            "event_type": ["search", "purchase", "rating"],
            "user_id": [None, "ann", "ann"],
            "session_id": ["s", "s", None],
            "item_id": [None, "shirt", "not in the catalogue"],
            "value": [None, 1999.0, 2.0],
            "quantity": [None, 2, None],
            "recommendation_id": [None, "q", None],
            "position": [None, 3, None],
            "timestamp": [NOON, NOON + timedelta(seconds=1), NOON + timedelta(days=1)],
        },
        schema=EVENTS,
    )
    for name, frame in (("items", items), ("reviews", reviews), ("events", events)):
        if form == "parquet":
            frame.write_parquet(folder / f"{name}.parquet")
        elif form == "jsonl":
            (folder / f"{name}.jsonl").write_text(
                "\n".join(json.dumps(row, default=str) for row in frame.to_dicts()) + "\n\n"
            )
        else:
            lists = [column for column, dtype in frame.schema.items() if dtype == pl.List(pl.String)]
            text = frame.with_columns(pl.col(lists).list.join("|")).write_csv()
            (folder / f"{name}.csv.gz").write_bytes(gzip.compress(text.encode("utf-8-sig")))
    return items, reviews, events


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_generic_forms_give_the_frames_that_were_written(engine: Engine, tmp_path: Path, form: str) -> None:
    items, reviews, events = write_shop(tmp_path / "shop", form)
    summary = run_import(engine, tmp_path / "shop", "generic", images_root=tmp_path / "shop")
    assert rejects_of(summary) == []
    assert summary.exit_status == 0
    assert_frame_equal(load_items(engine), items)
    assert_frame_equal(load_reviews(engine), reviews)
    assert_frame_equal(logged(engine, tmp_path), events)

    before = rows_of(engine)
    again = run_import(engine, tmp_path / "shop", "generic", images_root=tmp_path / "shop")
    assert rows_of(engine) == before
    assert [count.unchanged for count in again.counts.values()] == [2, 2, 3]


def test_image_paths_are_absolute_unless_below_the_images_folder(sqlite_engine: Engine, tmp_path: Path) -> None:
    write_shop(tmp_path / "shop", "parquet")
    run_import(sqlite_engine, tmp_path / "shop", "generic")
    absolute = [str(tmp_path / "shop" / "images" / name) for name in ("blue, shirt.jpg", "red.png")]
    assert load_items(sqlite_engine)["images"].to_list() == [["https://shop.example/mug.jpg"], absolute]


@pytest.mark.parametrize(
    ("row", "column", "expected", "came"),
    [
        (",purchase,ann,shirt,1,1,2026-01-02", "event_id", "an id", ""),
        ("2,bought,ann,shirt,1,1,2026-01-02", "event_type", "one of impression, detail-page-view", "bought"),
        ("2,,ann,shirt,1,1,2026-01-02", "event_type", "one of impression", ""),
        ("2,purchase,,shirt,1,1,2026-01-02", "user_id", "a user_id or a session_id", ""),
        ("2,purchase,ann,,1,1,2026-01-02", "item_id", "only a search has none", ""),
        ("2,purchase,ann,shirt,NaN,1,2026-01-02", "value", "a number, 0 or more", "NaN"),
        ("2,purchase,ann,shirt,inf,1,2026-01-02", "value", "a number, 0 or more", "inf"),
        ("2,purchase,ann,shirt,-3,1,2026-01-02", "value", "a number, 0 or more", "-3"),
        ("2,rating,ann,shirt,6,1,2026-01-02", "value", "stars from 1 to 5", "6"),
        ("2,rating,ann,shirt,,1,2026-01-02", "value", "stars from 1 to 5", ""),
        ("2,purchase,ann,shirt,1,-1,2026-01-02", "quantity", "a whole number, 1 or more", "-1"),
        ("2,purchase,ann,shirt,1,0,2026-01-02", "quantity", "a whole number, 1 or more", "0"),
        ("2,purchase,ann,shirt,1,1.5,2026-01-02", "quantity", "a whole number, 1 or more", "1.5"),
        ("2,purchase,ann,shirt,1,99999999999,2026-01-02", "quantity", "a whole number, 1 or more", "99999999999"),
        ("2,purchase,ann,shirt,1,1,yesterday", "timestamp", "a time as ISO 8601", "yesterday"),
        ("2,purchase,ann,shirt,1,1,2026-02-30", "timestamp", "a time as ISO 8601", "2026-02-30"),
        ("2,purchase,ann,shirt,1,1,2999-01-01", "timestamp", "not in the future", "2999-01-01"),
        ("2,purchase,ann,shirt,1,1,1969-12-31", "timestamp", "not before 1970", "1969-12-31"),
        ("2,purchase,ann,shirt,1,1,", "timestamp", "a time as ISO 8601", ""),
        ("2,purchase,ann,shirt,1,1", None, "7 cells", "6 cells"),
        ("2,purchase,ann,sh\0irt,1,1,2026-01-02", None, "without NUL", "2,purchase,ann,sh\0irt,1,1,2026-01-02"),
        (f"{'x' * 256},purchase,ann,shirt,1,1,2026-01-02", "event_id", "an id: text of 1 to 255", "x" * 200),
    ],
)
def test_a_bad_event_is_explained_and_the_good_ones_go_in(
    sqlite_engine: Engine, tmp_path: Path, row: str, column: str | None, expected: str, came: str
) -> None:
    write_events(tmp_path / "shop" / "events.csv", GOOD, row, GOOD.replace("1,", "3,", 1))
    summary = run_import(sqlite_engine, tmp_path / "shop", "generic")
    (reject,) = rejects_of(summary)
    assert reject["file"] == str(tmp_path / "shop" / "events.csv")
    assert (reject["line"], reject["column"], reject["came"], reject["left_out"]) == (3, column, came, "row")
    assert expected in reject["expected"]
    assert (reject["row"]["event_id"] if column else reject["row"].split(",")[0]) == row.split(",")[0]
    assert (summary.exit_status, summary.rejected_rows, summary.counts["events"].created) == (1, 1, 2)
    assert logged(sqlite_engine, tmp_path)["event_id"].to_list() == ["1", "3"]


def test_bytes_that_are_not_utf8_and_lines_within_quotes(sqlite_engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "items.csv").write_bytes(
        b'item_id,title\na,"two\nlines"\nb,caf\xe9\nc,"caf\xc3\xa9"\n,nameless\nd,x\0\n'
    )
    summary = run_import(sqlite_engine, tmp_path / "shop", "generic")
    assert [(reject["line"], reject["column"]) for reject in rejects_of(summary)] == [
        (4, None),
        (7, None),
        (6, "item_id"),
    ]
    assert load_items(sqlite_engine)["title"].to_list() == ["two\nlines", "café"]


def test_a_quote_that_nobody_closes_is_named(sqlite_engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "items.csv").write_text('item_id,title\na,"A"\nb,"B\nc,C\nd,D\n')
    summary = run_import(sqlite_engine, tmp_path / "shop", "generic")
    assert load_items(sqlite_engine)["item_id"].to_list() == ["a"]
    (reject,) = rejects_of(summary)
    assert (reject["line"], reject["expected"]) == (3, 'a " that closes the one opened here')
    assert reject["row"] == "b,B\nc,C\nd,D\n"


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\r", "\n\n"])
def test_a_csv_file_may_end_with_or_without_a_line_break(sqlite_engine: Engine, tmp_path: Path, end: str) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "items.csv").write_bytes(b'item_id,title\na,A\nb,"B"' + end.encode())
    assert rejects_of(run_import(sqlite_engine, tmp_path / "shop", "generic")) == []
    assert load_items(sqlite_engine)["title"].to_list() == ["A", "B"]


def test_bad_lines_of_json(engine: Engine, tmp_path: Path) -> None:
    lines = [
        '{"item_id": "a", "price_cents": 5, "attributes": {"size": ["S", "M"], "warm": true}}',
        "{not json",
        '["a list"]',
        '{"item_id": "nul", "title": "a\\u0000b"}',
        '{"item_id": "half", "title": "\\ud83d"}',
        '{"item_id": "whole", "title": "\\ud83d\\udc55"}',
        '{"item_id": "c", "price_cents": NaN}',
        '{"item_id": "d", "price_cents": -1}',
        '{"item_id": "e", "price_cents": 1.5}',
        '{"title": "nameless"}',
        '{"item_id": "f", "attributes": "no equals sign", "in_stock": "perhaps"}',
        '{"item_id": 7, "in_stock": false, "created_at": 1767355200000}',
    ]
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "items.jsonl").write_text("\n".join(lines))
    summary = run_import(engine, tmp_path / "shop", "generic")
    assert [(reject["line"], reject["column"]) for reject in rejects_of(summary)] == [
        (2, None), (3, None), (4, None), (5, None), (7, "price_cents"), (8, "price_cents"), (9, "price_cents"),
        (10, "item_id"), (11, "in_stock"), (11, "attributes"),
    ]  # fmt: skip
    assert summary.rejected_rows == 9
    items = load_items(engine)
    assert items["item_id"].to_list() == ["7", "a", "whole"]
    assert items["attributes"].to_list() == [[], ["size=M", "size=S", "warm=true"], []]
    assert items["created_at"].to_list() == [NOON, None, None]
    assert items["in_stock"].to_list() == [False, True, True]


def test_bad_values_of_parquet(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    frame = pl.DataFrame(
        {
            "event_id": ["1", "2", "3", "4", None, "6\0"],
            "event_type": ["purchase"] * 6,
            "user_id": [10, 11, 12, 13, 14, 15],
            "item_id": ["a"] * 6,
            "value": [1.0, float("nan"), 3.0, 4.0, 5.0, 6.0],
            "quantity": [1, 1, -1, 1, 1, 1],
            "timestamp": [NOON.replace(tzinfo=None)] * 3 + [datetime(1950, 1, 1)] + [NOON.replace(tzinfo=None)] * 2,
        }
    )
    frame.write_parquet(tmp_path / "shop" / "events.parquet")
    summary = run_import(engine, tmp_path / "shop", "generic")
    found = [(reject["line"], reject["column"], reject["came"]) for reject in rejects_of(summary)]
    assert found == [
        (2, "value", "nan"),
        (3, "quantity", -1),
        (4, "timestamp", "1950-01-01 00:00:00"),
        (5, "event_id", None),
        (6, "event_id", "6\0"),
    ]
    assert logged(engine, tmp_path).select("event_id", "user_id", "timestamp").rows() == [("1", "10", NOON)]


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-01-02", datetime(2026, 1, 2, tzinfo=UTC)),
        ("2026-01-02T12:00:00Z", NOON),
        ("2026-01-02 12:00", NOON),
        ("2026-01-02 12:00:00.25", NOON + timedelta(seconds=0.25)),
        ("2026-01-02T14:00:00+02:00", NOON),
        ("2026-01-02 07:00:00-0500", NOON),
        ("2026-01-02T12:00:00.000001+00:00", NOON + timedelta(microseconds=1)),
        ("2026-01-02T12:00Z", NOON),
        ("2026-01-02T14:00+02:00", NOON),
        ("20260102", datetime(2026, 1, 2, tzinfo=UTC)),
        ("20260102T120000Z", NOON),
        ("20260102T120000.25Z", NOON + timedelta(seconds=0.25)),
        ("20260102T1200", NOON),
        ("20260102 070000-0500", NOON),
        ("1767355200", NOON),
        ("1767355200000", NOON),
        ("1767355200000000", NOON),
        ("1767355200.5", NOON + timedelta(seconds=0.5)),
    ],
)
def test_times(sqlite_engine: Engine, tmp_path: Path, text: str, time: datetime) -> None:
    # A file with times in one form, and in a file with others.
    write_events(tmp_path / "shop" / "events.csv", f"1,purchase,ann,a,1,1,{text}")
    write_events(tmp_path / "other" / "events.csv", f"2,purchase,ann,a,1,1,{text}", "3,purchase,ann,a,1,1,2026-01-03")
    for folder in ("shop", "other"):
        assert rejects_of(run_import(sqlite_engine, tmp_path / folder, "generic")) == []
    assert logged(sqlite_engine, tmp_path)["timestamp"].to_list()[:2] == [time, time]


@pytest.mark.parametrize("number", [20260131, 1767355200, 912384000, 912384000000, 20269931, 202601311015, 17])
def test_numbers_are_times_or_dates_but_no_guesses(sqlite_engine: Engine, tmp_path: Path, number: int) -> None:
    expected = {
        20260131: datetime(2026, 1, 31, tzinfo=UTC),
        1767355200: NOON,
        912384000: datetime(1998, 11, 30, tzinfo=UTC),  # public reviews are as old
        912384000000: datetime(1998, 11, 30, tzinfo=UTC),
    }
    events = {"event_id": ["number"], "event_type": ["purchase"], "user_id": ["ann"], "item_id": ["a"]}
    (tmp_path / "shop").mkdir()
    pl.DataFrame({**events, "timestamp": [number]}).write_parquet(tmp_path / "shop" / "events.parquet")
    write_events(tmp_path / "other" / "events.csv", f"text,purchase,ann,a,1,1,{number}")
    for folder in ("shop", "other"):
        came = [reject["came"] for reject in rejects_of(run_import(sqlite_engine, tmp_path / folder, "generic"))]
        assert [str(value) for value in came] == ([] if number in expected else [str(number)])
    known = [expected[number]] * 2 if number in expected else []
    assert logged(sqlite_engine, tmp_path)["timestamp"].to_list() == known


@pytest.mark.parametrize("nested", ["[" * 5_000, "[" * 200_000])
def test_a_value_that_is_nested_too_deeply_is_a_reject(sqlite_engine: Engine, tmp_path: Path, nested: str) -> None:
    (tmp_path / "shop").mkdir()
    frame = pl.DataFrame({"item_id": ["a", "b"], "attributes": [nested, "size=M"], "images": [None, nested]})
    frame.write_csv(tmp_path / "shop" / "items.csv")
    summary = run_import(sqlite_engine, tmp_path / "shop", "generic")
    assert [(reject["line"], reject["column"]) for reject in rejects_of(summary)] == [(2, "attributes"), (3, "images")]


def test_an_item_that_comes_twice(sqlite_engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "items.csv").write_text("item_id,title\na,One\nb,Two\na,One\nb,Other\n")
    summary = run_import(sqlite_engine, tmp_path / "shop", "generic")
    assert [(reject["line"], reject["came"]) for reject in rejects_of(summary)] == [(5, "b")]
    assert load_items(sqlite_engine)["title"].to_list() == ["One", "Two"]
    assert vars(summary.counts["items"]) == {"read": 4, "created": 2, "changed": 0, "unchanged": 1, "rejected": 1}


def test_the_nightly_import_keeps_when_an_item_came(engine: Engine, tmp_path: Path) -> None:
    for rows in ("item_id,title,created_at\na,One,2026-01-02T12:00:00Z\n", "item_id,title\na,Other\nb,New\n"):
        (tmp_path / "shop").mkdir(exist_ok=True)
        (tmp_path / "shop" / "items.csv").write_text(rows)
        run_import(engine, tmp_path / "shop", "generic")
    assert load_items(engine).select("title", "created_at").rows() == [("Other", NOON), ("New", None)]


def test_columns_passed_over_are_named(sqlite_engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "items.csv").write_text("item_id,pirce_cents\na,5\n")
    summary = run_import(sqlite_engine, tmp_path / "shop", "generic")
    assert "items.csv: columns passed over: pirce_cents" in summary.describe()
