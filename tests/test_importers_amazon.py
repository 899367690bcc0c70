"""Amazon's files of both editions become items, reviews and one event a review."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from importing import logged, real_data, rejects_of, rows_of, run_import
from sqlalchemy import Engine

from recsys.data.load import load_items, load_reviews

REVIEW_2018 = {
    "overall": 4.0, "vote": "1,341", "verified": True, "reviewTime": "09 1, 2016", "reviewerID": "A3C", "asin": "B01",
    "style": {"Size:": " 7.0 oz"}, "reviewText": "Cheap &amp; good.<br />Buy", "summary": "Good",
    "unixReviewTime": 1472688000,
}  # fmt: skip
PRODUCT_2018 = {
    "asin": "B01", "title": "Aftershave &amp; more", "description": ["Cools.", "Cools."], "feature": ["7 <b>oz</b>"],
    "category": ["Beauty", "Beauty", "Shaving", "x" * 90], "main_cat": "All Beauty", "brand": "Acme",
    "price": "$1,006.50 - $2,000.00", "date": "May 15, 2009", "imageURL": ["small.jpg"],
    "imageURLHighRes": ["https://m.example/a.jpg", "https://m.example/a.jpg", "https://m.example/b.jpg"],
    "details": {"\n  Scent: \n": "Ice Blue", "ASIN: ": "B01", "Shipping Weight:": "3 ounces"},
}  # fmt: skip
REVIEW_2023 = {
    "rating": 5.0, "title": "Such", "text": "a spray", "images": [{"small_image_url": "x"}], "asin": "B10",
    "parent_asin": "B00", "user_id": "AGK", "timestamp": 1588687728923, "helpful_vote": 2, "verified_purchase": False,
}  # fmt: skip
PRODUCT_2023 = {
    "main_category": "All Beauty", "title": "Hair spray", "average_rating": 4.8, "features": ["Holds"], "price": 9.99,
    "description": ["Long."], "store": "Howard", "categories": [], "parent_asin": "B00", "bought_together": None,
    "images": [
        {"thumb": "t1", "large": "https://m.example/side.jpg", "variant": "PT01", "hi_res": None},
        {"thumb": "t2", "large": "l2", "variant": "MAIN", "hi_res": "https://m.example/main.jpg"},
    ],
    "details": {"Item Form": "Spray", "UPC": "617", "Date First Available": "July 4, 2013", "Rank": {"A": 3}},
}  # fmt: skip


def write_lines(path: Path, *records: dict[str, Any] | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(record if isinstance(record, str) else json.dumps(record) for record in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def test_amazon_2018(engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "amazon"
    other_colour = REVIEW_2018 | {"style": {"Size:": " 9 oz"}}
    unverified = REVIEW_2018 | {"verified": False, "asin": "B02", "vote": None, "summary": None}
    write_lines(folder / "Beauty_5.json.gz", REVIEW_2018, REVIEW_2018, other_colour, unverified)
    write_lines(folder / "meta_Beauty.json.gz", PRODUCT_2018, PRODUCT_2018)
    summary = run_import(engine, folder, "amazon")
    assert rejects_of(summary) == []
    known, unknown = load_items(engine).to_dicts()
    assert known == {
        "item_id": "B01",
        "title": "Aftershave & more",
        "description": "Cools.\n7 oz",
        "category": "Beauty > Shaving",
        "brand": "Acme",
        "family": None,
        "price_cents": 100650,
        "in_stock": True,
        "attributes": ["Scent=Ice Blue"],
        "images": ["https://m.example/a.jpg", "https://m.example/b.jpg"],
        "created_at": datetime(2009, 5, 15, tzinfo=UTC),
    }
    assert unknown["item_id"] == "B02"
    assert unknown["title"] is None
    time = datetime(2016, 9, 1, tzinfo=UTC)
    reviews = load_reviews(engine).sort("item_id").drop("review_id")
    assert reviews.rows() == [
        ("B01", "A3C", 4.0, "Good", "Cheap & good. Buy", 1341, time),
        ("B02", "A3C", 4.0, None, "Cheap & good. Buy", 0, time),
    ]
    events = logged(engine, tmp_path).sort("item_id")
    assert events.select("event_type", "user_id", "item_id", "value", "quantity", "timestamp").rows() == [
        ("purchase", "A3C", "B01", None, 1, time),
        ("rating", "A3C", "B02", 4.0, None, time),
    ]
    before = rows_of(engine)
    run_import(engine, folder, "amazon")
    assert rows_of(engine) == before


def test_amazon_2023(engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "amazon"
    write_lines(folder / "All_Beauty.jsonl", REVIEW_2023, REVIEW_2023 | {"verified_purchase": True, "user_id": "B"})
    write_lines(folder / "meta_All_Beauty.jsonl", PRODUCT_2023)
    assert rejects_of(run_import(engine, folder, "amazon")) == []
    (item,) = load_items(engine).to_dicts()
    assert item == {
        "item_id": "B00",
        "title": "Hair spray",
        "description": "Long.\nHolds",
        "category": "All Beauty",
        "brand": "Howard",
        "family": None,
        "price_cents": 999,
        "in_stock": True,
        "attributes": ["Item Form=Spray"],
        "images": ["https://m.example/main.jpg", "https://m.example/side.jpg"],
        "created_at": datetime(2013, 7, 4, tzinfo=UTC),
    }
    time = datetime(2020, 5, 5, 14, 8, 48, 923000, tzinfo=UTC)
    assert load_reviews(engine).sort("user_id").drop("review_id").rows() == [
        ("B00", "AGK", 5.0, "Such", "a spray", 2, time),
        ("B00", "B", 5.0, "Such", "a spray", 2, time),
    ]
    events = logged(engine, tmp_path).sort("user_id").select("event_type", "item_id", "value", "timestamp")
    assert events.rows() == [("rating", "B00", 5.0, time), ("purchase", "B00", None, time)]


def test_bad_lines_of_amazon(sqlite_engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "amazon"
    write_lines(
        folder / "B_5.json.gz",
        REVIEW_2018,
        "{",
        REVIEW_2018 | {"overall": 9},
        REVIEW_2018 | {"asin": None},
        REVIEW_2018 | {"unixReviewTime": "never"},
        REVIEW_2018 | {"vote": "many"},
        REVIEW_2018 | {"reviewerID": "second"},
    )
    write_lines(
        folder / "meta_B.json.gz",
        PRODUCT_2018 | {"price": ".a-box-inner{background-color:#fff}"},
        PRODUCT_2018 | {"asin": None},
        PRODUCT_2018 | {"asin": "B05", "price": "", "title": "var aPageStart = (new Date()).getTime();"},
    )
    summary = run_import(sqlite_engine, folder, "amazon")
    found = [(Path(r["file"]).name, r["line"], r["column"], r["left_out"]) for r in rejects_of(summary)]
    assert found == [
        ("meta_B.json.gz", 1, "price", "value"),
        ("meta_B.json.gz", 2, "asin", "row"),
        ("B_5.json.gz", 2, None, "row"),
        ("B_5.json.gz", 3, "overall", "row"),
        ("B_5.json.gz", 4, "asin", "row"),
        ("B_5.json.gz", 5, "unixReviewTime", "row"),
        ("B_5.json.gz", 6, "vote", "row"),
    ]
    assert load_reviews(sqlite_engine).height == 2
    assert load_items(sqlite_engine).select("item_id", "price_cents", "title").rows() == [
        ("B01", None, "Aftershave & more"),
        ("B05", None, None),
    ]


def test_reviews_before_products(sqlite_engine: Engine, tmp_path: Path) -> None:
    write_lines(tmp_path / "reviews" / "B_5.json.gz", REVIEW_2018)
    write_lines(tmp_path / "products" / "meta_B.json.gz", PRODUCT_2018)
    run_import(sqlite_engine, tmp_path / "reviews", "amazon")
    assert load_items(sqlite_engine)["title"].to_list() == [None]
    run_import(sqlite_engine, tmp_path / "products" / "meta_B.json.gz", "amazon")
    assert load_items(sqlite_engine)["title"].to_list() == ["Aftershave & more"]


def test_files_that_somebody_unpacked(sqlite_engine: Engine, tmp_path: Path) -> None:
    write_lines(tmp_path / "amazon" / "B_5.json", REVIEW_2018)
    write_lines(tmp_path / "amazon" / "meta_B.json", PRODUCT_2018)
    assert rejects_of(run_import(sqlite_engine, tmp_path / "amazon", "amazon")) == []
    assert load_items(sqlite_engine)["title"].to_list() == ["Aftershave & more"]
    assert load_reviews(sqlite_engine).height == 1


def test_the_real_amazon_reviews(sqlite_engine: Engine, tmp_path: Path) -> None:
    source = real_data("amazon_reviews")
    summary = run_import(sqlite_engine, source, "amazon", rejects=tmp_path / "rejects.jsonl")
    assert {(reject["column"], reject["left_out"]) for reject in rejects_of(summary)} == {("price", "value")}
    assert summary.counts["reviews"].read == 5_269 + 3_176 + 2_972
    n_products, n_only_reviewed = 1_547, 116
    assert load_items(sqlite_engine).height == n_products + n_only_reviewed
    reviews = load_reviews(sqlite_engine)
    assert reviews.select("user_id", "item_id", "timestamp", "rating", "title", "text").is_unique().all()
    assert summary.counts["events"].created == reviews.height
