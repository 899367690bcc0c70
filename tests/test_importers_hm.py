"""H&M's files, in both forms, become items, users and purchases."""

import gzip
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sqlalchemy as sa
from importing import logged, real_data, rejects_of, rows_of, run_import
from PIL import Image
from sqlalchemy import Engine

from recsys.data.importers import files
from recsys.data.load import load_items
from recsys.data.tables import User
from recsys.errors import SchemaError


def write_hm(folder: Path, form: str, transactions: list[tuple[Any, ...]]) -> None:
    articles = {
        "article_id": ["0108775015", "0111565001"],
        "product_code": ["0108775", "0111565"],
        "prod_name": ["Strap top", "Stockings"],
        "product_type_name": ["Vest top", "Underwear Tights"],
        "product_group_name": ["Garment Upper body", "Socks & Tights"],
        "graphical_appearance_name": ["Solid", "Unknown"],
        "colour_group_name": ["Black", "Light Beige"],
        "perceived_colour_value_name": ["Dark", "Light"],
        "perceived_colour_master_name": ["Black", "Beige"],
        "department_name": ["Jersey Basic", "Tights basic"],
        "index_name": ["Ladieswear", "Lingeries/Tights"],
        "index_group_name": ["Ladieswear", "Ladieswear"],
        "section_name": ["Womens Everyday Basics", "Womens Nightwear"],
        "garment_group_name": ["Jersey Basic", "Socks and Tights"],
        "detail_desc": ["Jersey top with narrow shoulder straps.", None],
    }
    columns = ["t_dat", "customer_id", "article_id", "price", "sales_channel_id"]
    sales = pl.DataFrame(transactions, schema=dict.fromkeys(columns, pl.String), orient="row")
    folder.mkdir()
    if form == "csv":
        pl.DataFrame(articles).write_csv(folder / "articles.csv")
        sales.write_csv(folder / "transactions_train.csv")
        (folder / "images" / "010").mkdir(parents=True)
        image = folder / "images" / "010" / "0108775015.jpg"
    else:  # as a program leaves it that read the ids as numbers
        numbers = pl.col("article_id").cast(pl.Int64)
        pl.DataFrame(articles).with_columns(numbers, pl.col("product_code").cast(pl.Int64)).write_parquet(
            folder / "articles.parquet"
        )
        sales.with_columns(
            numbers,
            pl.col("t_dat").str.to_date(),
            pl.col("price").cast(pl.Float32),
            pl.col("sales_channel_id").cast(pl.Int8),
        ).write_parquet(folder / "transactions.parquet")
        (folder / "images").mkdir()
        image = folder / "images" / "0108775015.jpg"
    Image.new("RGB", (8, 8)).save(image)


HM_SALES = [
    ("2018-09-20", "ann", "0108775015", "0.050830508474576264", "2"),
    ("2018-09-20", "ann", "0108775015", "0.050830508474576264", "2"),
    ("2018-09-20", "bob", "0108775015", "0.030491525423728813", "1"),
    ("2018-09-20", "ann", "0108775015", "0.050830508474576264", "2"),
    ("2018-09-21", "ann", "0108775015", "0.050830508474576264", "2"),
    ("2018-09-21", "ann", "0108775015", "0.016932203389830508", "2"),
    ("2018-09-21", "cid", "0108775015", "0.016932203389830508", "2"),
]


@pytest.mark.parametrize("batch_rows", [1, 2, 50_000])
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_hm(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, batch_rows: int) -> None:
    monkeypatch.setattr(files, "BATCH_ROWS", batch_rows)
    write_hm(tmp_path / "hm", form, HM_SALES)
    assert rejects_of(run_import(engine, tmp_path / "hm", "hm", images_root=tmp_path / "hm")) == []
    top, stockings = load_items(engine).to_dicts()
    assert top == {
        "item_id": "0108775015",
        "title": "Strap top",
        "description": "Jersey top with narrow shoulder straps.",
        "category": "Ladieswear > Womens Everyday Basics > Garment Upper body > Vest top",
        "brand": None,
        "family": "0108775",
        "price_cents": 999,  # median of the last day: 29.99, 9.99, 9.99
        "in_stock": True,
        "attributes": [
            "colour_group=Black", "department=Jersey Basic", "garment_group=Jersey Basic", "graphical_appearance=Solid",
            "perceived_colour_master=Black", "perceived_colour_value=Dark",
        ],
        "images": ["images/010/0108775015.jpg" if form == "csv" else "images/0108775015.jpg"],
        "created_at": None,
    }  # fmt: skip
    assert (stockings["description"], stockings["price_cents"], stockings["images"]) == (None, None, [])
    assert stockings["category"].startswith("Ladieswear > Lingeries/Tights > Womens Nightwear > ")
    assert not any(token.startswith("graphical_appearance=") for token in stockings["attributes"])

    events = logged(engine, tmp_path)
    assert events.select(
        pl.col("timestamp").dt.to_string("%F %T"), "user_id", "item_id", "value", "quantity"
    ).rows() == [
        (f"{day} 00:00:00", user, item, round(float(price) * 59_000), 1) for day, user, item, price, _ in HM_SALES
    ]
    assert events["event_id"].n_unique() == len(HM_SALES)

    before = rows_of(engine)
    run_import(engine, tmp_path / "hm", "hm", images_root=tmp_path / "hm")
    assert rows_of(engine) == before


def test_both_forms_of_hm_are_the_same_events(sqlite_engine: Engine, tmp_path: Path) -> None:
    write_hm(tmp_path / "csv", "csv", HM_SALES)
    write_hm(tmp_path / "parquet", "parquet", HM_SALES)
    run_import(sqlite_engine, tmp_path / "csv", "hm")
    summary = run_import(sqlite_engine, tmp_path / "parquet", "hm")
    assert (summary.counts["events"].created, summary.counts["events"].unchanged) == (0, len(HM_SALES))


@pytest.mark.parametrize("unit", ["datetime[ms]", "datetime[ns]", "in a time zone", "text with a time"])
def test_hm_days_that_a_program_made_into_times_are_the_same_events(
    sqlite_engine: Engine, tmp_path: Path, unit: str
) -> None:
    write_hm(tmp_path / "csv", "csv", HM_SALES)
    write_hm(tmp_path / "parquet", "parquet", HM_SALES)
    day = pl.col("t_dat")
    times = {
        "datetime[ms]": day.cast(pl.Datetime("ms")),
        "datetime[ns]": day.cast(pl.Datetime("ns")),
        "in a time zone": day.cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
        "text with a time": day.cast(pl.Datetime("us")).dt.to_string("%F %T"),
    }
    path = tmp_path / "parquet" / "transactions.parquet"
    pl.read_parquet(path).with_columns(times[unit]).write_parquet(path)
    run_import(sqlite_engine, tmp_path / "csv", "hm")
    summary = run_import(sqlite_engine, tmp_path / "parquet", "hm")
    assert (summary.counts["events"].created, summary.counts["events"].unchanged) == (0, len(HM_SALES))
    assert load_items(sqlite_engine)["price_cents"].to_list() == [999, None]


def test_hm_ids_that_a_program_made_into_floating_point(sqlite_engine: Engine, tmp_path: Path) -> None:
    write_hm(tmp_path / "hm", "parquet", HM_SALES)
    for name in ("articles", "transactions"):
        path = tmp_path / "hm" / f"{name}.parquet"
        pl.read_parquet(path).with_columns(pl.col("article_id").cast(pl.Float64)).write_parquet(path)
    run_import(sqlite_engine, tmp_path / "hm", "hm")
    assert load_items(sqlite_engine)["item_id"].to_list() == ["0108775015", "0111565001"]
    assert logged(sqlite_engine, tmp_path)["item_id"].unique().to_list() == ["0108775015"]


def test_hm_sales_in_any_order_of_days_all_count(
    sqlite_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "BATCH_ROWS", 1)
    write_hm(tmp_path / "hm", "csv", [HM_SALES[n] for n in (4, 0, 5, 1, 6, 2, 3)])
    assert run_import(sqlite_engine, tmp_path / "hm", "hm").counts["events"].created == len(HM_SALES)


def test_bad_lines_of_hm(sqlite_engine: Engine, tmp_path: Path) -> None:
    bad = [
        ("2018-09-20", None, "0108775015", "0.05", "2"),
        ("someday", "ann", "0108775015", "0.05", "2"),
        ("2018-09-20", "ann", "0108775015", "free", "2"),
        ("2018-09-20", "ann", "0108775015", "NaN", "2"),
        ("2018-09-20", "ann", None, "0.05", "2"),
        ("2018-09-20", "ann", "0108775015", "-0.05", "2"),
        ("2018-09-22", "ann", "0108775015", "NaN", "2"),  # on the last day, which gives the item its price
        ("2018-09-22", "ann", "0108775015", "inf", "2"),
    ]
    write_hm(tmp_path / "hm", "csv", HM_SALES + bad)
    (tmp_path / "hm" / "images" / "010" / "0108775015.jpg").write_text("no picture")
    summary = run_import(sqlite_engine, tmp_path / "hm", "hm")
    assert [(reject["line"], reject["column"], reject["came"]) for reject in rejects_of(summary)[1:]] == [
        (9, "customer_id", ""), (10, "t_dat", "someday"), (11, "price", "free"), (12, "price", "NaN"),
        (13, "article_id", ""), (14, "price", "-0.05"), (15, "price", "NaN"), (16, "price", "inf"),
    ]  # fmt: skip
    assert rejects_of(summary)[0]["column"] == "images"
    assert summary.counts["events"].created == len(HM_SALES)
    assert load_items(sqlite_engine)["price_cents"].to_list() == [999, None]


def test_hm_customers_are_users(sqlite_engine: Engine, tmp_path: Path) -> None:
    write_hm(tmp_path / "hm", "csv", HM_SALES)
    (tmp_path / "hm" / "customers.csv").write_text("customer_id,FN,age\nann,1.0,49\ndan,,\n,,20\n")
    summary = run_import(sqlite_engine, tmp_path / "hm", "hm")
    assert [(reject["line"], reject["column"]) for reject in rejects_of(summary)] == [(4, "customer_id")]
    with sqlite_engine.connect() as connection:
        users = dict(connection.execute(sa.select(User.user_id, User.attributes)).all())
    assert users == {"ann": {"FN": "1.0", "age": "49"}, "bob": {}, "cid": {}, "dan": {}}


def test_hm_without_its_files(sqlite_engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="expected a file articles, "):
        run_import(sqlite_engine, tmp_path, "hm")
    write_hm(tmp_path / "hm", "csv", HM_SALES)
    (tmp_path / "hm" / "articles.csv").write_text("article_id,prod_name\n1,Top\n")
    with pytest.raises(SchemaError, match=r"articles.csv: expected the columns \['product_code'"):
        run_import(sqlite_engine, tmp_path / "hm", "hm")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "came an empty file"),
        (b"t_dat,customer_id\n2018-09-20,ann\n", "expected the columns ['article_id', 'price', 'sales_channel_id']"),
        ("t_dat,customer_id\n".encode("utf-16"), "transactions_train.csv: expected "),
    ],
)
def test_hm_sales_that_are_none(sqlite_engine: Engine, tmp_path: Path, content: bytes, expected: str) -> None:
    write_hm(tmp_path / "hm", "csv", HM_SALES)
    (tmp_path / "hm" / "transactions_train.csv").write_bytes(content)
    with pytest.raises(SchemaError) as raised:
        run_import(sqlite_engine, tmp_path / "hm", "hm")
    assert expected in str(raised.value)


@pytest.mark.parametrize("name", ["transactions_train.csv.gz", "transactions_train.parquet"])
def test_hm_sales_that_are_cut_off(sqlite_engine: Engine, tmp_path: Path, name: str) -> None:
    write_hm(tmp_path / "hm", "csv", HM_SALES)
    whole = (tmp_path / "hm" / "transactions_train.csv").read_bytes()
    (tmp_path / "hm" / "transactions_train.csv").unlink()
    (tmp_path / "hm" / name).write_bytes(gzip.compress(whole)[:-20])
    with pytest.raises(SchemaError, match=name):
        run_import(sqlite_engine, tmp_path / "hm", "hm")


@pytest.mark.slow
def test_the_real_hm_week(sqlite_engine: Engine, tmp_path: Path) -> None:
    source = real_data("hm")
    transactions = pl.read_parquet(source / "transactions.parquet")
    summary = run_import(sqlite_engine, source, "hm", rejects=tmp_path / "rejects.jsonl")
    assert rejects_of(summary) == []
    items = load_items(sqlite_engine)
    assert items.height == 17_986
    assert (items["images"].list.len() > 0).sum() == 6_888
    events = logged(sqlite_engine, tmp_path)
    assert (events.height, events["user_id"].n_unique(), events["item_id"].n_unique()) == (240_311, 68_984, 17_986)
    assert events["user_id"].to_list() == transactions["customer_id"].to_list()
    assert events["item_id"].to_list() == transactions["article_id"].to_list()
    # The scale: every price is a whole number of cents.
    scaled = transactions["price"].cast(pl.Float64) * 59_000
    assert (scaled - events["value"]).abs().max() < 0.02
