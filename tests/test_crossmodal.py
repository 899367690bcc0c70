"""The cross-modal benchmark: its measures by hand, the forms it reads, and the whole command on a small folder."""

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks import align, crossmodal
from benchmarks.alignment_page import section
from benchmarks.crossmodal_measures import measure, neighbours_kept, ranks_of
from benchmarks.crossmodal_methods import nearest
from benchmarks.products import read_pairs, read_products
from recsys.data.synthetic import ShopConfig, make_shop

KEYS = {
    "method", "direction", "recall@1", "recall@5", "recall@10", "mrr", "map", "queries_per_s", "bytes_per_item",
}  # fmt: skip


def test_measures_by_hand() -> None:
    answers = np.eye(3, dtype=np.float32)
    queries = np.array([[1, 0, 0], [0.8, 0.6, 0], [0, 0.6, 0.8]], np.float32)
    assert ranks_of(queries @ answers.T).tolist() == [1, 2, 1]
    measured = measure(queries @ answers.T, np.array(["a", "a", "b"]))
    assert measured["recall@1"] == pytest.approx(2 / 3)
    assert measured["recall@5"] == 1
    assert measured["mrr"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    # Query 0 ties its two others, which keep their order: both of "a" come first, as for query 1; query 2 has its own.
    assert measured["map"] == pytest.approx(1)


def test_ties_count_against_a_method() -> None:
    assert ranks_of(np.ones((4, 4), np.float32)).tolist() == [4, 4, 4, 4]


def test_neighbours_kept_by_hand() -> None:
    angle = np.linspace(0, 1.5, 40)
    whole = np.column_stack([np.cos(angle), np.sin(angle)]).astype(np.float32)
    assert neighbours_kept(whole, whole) == 1
    assert neighbours_kept(whole, whole[::-1].copy()) < 0.5


def test_nearest_is_never_itself() -> None:
    vectors = np.eye(8, dtype=np.float32)
    pairs = nearest(vectors, vectors, itself=True)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert (nearest(vectors, vectors)[::5, 1] == np.arange(8)).all()


def test_any_folder_of_the_form_and_hms_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("item_id,name,category\n7,Red dress,Dresses\n")
    products = read_products(tmp_path / "a.csv", tmp_path)
    assert products.words == ["Red dress."]
    assert products.category.tolist() == ["Dresses"]
    assert products.pictures == [tmp_path / "7.jpg"]
    article = {
        "article_id": ["0108775044"], "prod_name": ["Strap top"], "index_group_name": ["Ladieswear"],
        "index_name": ["Ladies"], "section_name": ["Basics"], "product_group_name": ["Upper body"],
        "product_type_name": ["Vest top"], "graphical_appearance_name": ["Solid"], "colour_group_name": ["Black"],
        "perceived_colour_value_name": ["Unknown"], "perceived_colour_master_name": ["Black"],
        "department_name": ["Jersey"], "garment_group_name": ["Jersey Basic"], "detail_desc": ["With narrow straps."],
    }  # fmt: skip
    pl.DataFrame(article).write_parquet(tmp_path / "articles.parquet")
    words = read_products(tmp_path / "articles.parquet", tmp_path).words[0]
    assert words is not None
    assert words.startswith("Strap top. Ladieswear, Ladies, Basics, Upper body, Vest top.")
    assert "colour group: Black" in words
    assert "Unknown" not in words
    (tmp_path / "b.csv").write_text("sku,words\n1,x\n")
    with pytest.raises(SystemExit, match="expected columns product_id and title"):
        read_products(tmp_path / "b.csv", tmp_path)


def test_pairs_are_of_one_customer(tmp_path: Path) -> None:
    bought = {"customer_id": ["x", "y", "x", "x"], "article_id": ["a", "b", "c", "gone"], "t_dat": [1, 2, 3, 4]}
    pl.DataFrame(bought).write_parquet(tmp_path / "t.parquet")
    assert read_pairs(tmp_path / "t.parquet", ["a", "b", "c"]).tolist() == [[0, 2]]


@pytest.mark.slow
def test_the_whole_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = make_shop(tmp_path, ShopConfig(n_items=60, n_users=20, picture_size=64))
    shown = shop.items.filter(pl.col("images").list.len() > 0)
    for item_id, images in shown.select("item_id", "images").iter_rows():
        (tmp_path / images[0]).rename(tmp_path / f"{item_id}.jpg")
    columns = [pl.col("item_id").alias("product_id"), "title", "description", "category"]
    shown.select(columns).write_parquet(tmp_path / "products.parquet")
    methods = ["CCA", "ConSE", "similarity", "fusion: graph", "InfoNCE, behaviour"]
    arguments = ["--products", tmp_path / "products.parquet", "--images", tmp_path, "--cache", tmp_path / "cache"]
    arguments += ["--json", tmp_path / "rows.json", "--threads", 1, "--methods", *methods]
    monkeypatch.setattr(sys, "argv", ["crossmodal", *map(str, arguments)])
    crossmodal.main()
    result = json.loads((tmp_path / "rows.json").read_text())
    named = [(row["method"], row["direction"]) for row in result["rows"]]
    directions = ("image→text", "text→image")
    assert named == [(m, d) for m in ("CCA", "ConSE", "fusion: graph") for d in directions]
    for row in result["rows"]:
        assert row.keys() >= KEYS
        assert 0 <= row["recall@1"] <= row["recall@5"] <= row["recall@10"] <= 1
        assert row["bytes_per_item"] == 256
    assert result["comparison"] == []  # without the default there is nothing to compare
    assert "| fusion: graph |" in section("demo", result, "demo.png")


def test_the_default_is_compared_with_the_best_single_objective() -> None:
    n = 200
    ranks = {"default": np.ones(n), "CCA": np.where(np.arange(n) < 100, 1, 2), "InfoNCE": np.full(n, 9)}
    ranks["fusion: mean"] = np.ones(n)  # no single objective: it does not count
    (line,) = crossmodal.compare_default({method: {"text→image": rank} for method, rank in ranks.items()})
    assert (line["best"], line["mean_a"], line["mean_b"], line["verdict"]) == ("CCA", 0.5, 1.0, "better")
    assert line["low"] > 0.4


def test_how_long_the_aligner_trains_is_told_of_the_shipped_night():
    row = align.run(300, threads=1)
    assert (row["items"], row["members"]) == (300, 4)
    assert row["image_width"] > row["text_width"] > 0
    assert row["train_s"] > 0


def test_made_up_views_agree_on_who_resembles_whom():
    views = align.made_up_views(200, {"image": 64, "text": 48}, seed=0)
    image, text = (view.vectors @ view.vectors.T - 2 * np.eye(200) for view in views.values())
    nearest = image.argmax(axis=1)
    assert text[np.arange(200), nearest].mean() > 0.3  # of two drawn at random it is 0
