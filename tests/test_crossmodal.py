"""The cross-modal benchmark: its measures by hand, what it says, and the whole command on a small folder."""

import json
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from benchmarks import align, crossmodal
from benchmarks.alignment_page import section
from benchmarks.crossmodal_measures import measure, neighbours_kept, ranks_of
from benchmarks.crossmodal_methods import Material, nearest
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


def test_map_is_of_the_products_with_a_category() -> None:
    likeness = np.array([[0.9, 0.8, 0.7, 0.1], [0.8, 0.9, 0.1, 0.2], [0.1, 0.9, 0.2, 0.8], [0, 0, 0, 1]], np.float32)
    # Of the first, third and last: a's finds itself and then the other a; that one finds the b first, then both a's.
    measured = measure(likeness, np.array(["a", "", "a", "b"]))
    assert measured["map"] == pytest.approx((1 + (1 / 2 + 2 / 3) / 2 + 1) / 3)
    assert measured["recall@1"] == 0.75  # these are of all
    for one_kind in ("", "a"):
        assert measure(likeness, np.array([one_kind] * 4)) == {**measured, "map": None}
    assert measure(likeness, np.array(["", "b", "", "b"]))["map"] is None


def test_map_by_rows_is_map_at_once() -> None:
    rng = np.random.default_rng(0)
    likeness = rng.random((1500, 1500)).round(2).astype(np.float32)
    category = rng.choice(["a", "b", "cc"], 1500)
    order = np.argsort(-likeness, axis=1, kind="stable")
    right = category[order] == category[:, None]
    precision = np.cumsum(right, axis=1) / np.arange(1, 1501)
    assert measure(likeness, category)["map"] == ((precision * right).sum(axis=1) / right.sum(axis=1)).mean()


def test_long_names_of_categories_cost_no_memory() -> None:
    likeness = np.random.default_rng(0).random((2000, 2000)).astype(np.float32)
    category = np.array(["Ladieswear > Upper body > Vest top", "Menswear"] * 1000)
    tracemalloc.start()
    try:
        measure(likeness, category)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * likeness.nbytes  # the names by themselves, once a pair, are 34 times as much


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


def test_nearest_by_rows_is_nearest_at_once() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(-2, 3, (1100, 8)).astype(np.float32)  # whole numbers: products are exact, ties many
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -np.inf)
    expected = np.argsort(-likeness, axis=1, kind="stable")[:, :5]
    assert np.array_equal(nearest(vectors, vectors, itself=True)[:, 1].reshape(-1, 5), expected)


def without_common_space() -> Material:
    vectors = {"image": np.eye(3, 4, dtype=np.float32), "text": np.eye(3, dtype=np.float32)}
    fit, watch, test = np.arange(3)[:, None]
    return Material(vectors, fit, watch, test, pairs=np.zeros((0, 2), np.int32), concepts={})


def test_methods_that_cannot_be_had_are_left_out_or_end_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert crossmodal.able_of(["similarity", "CCA"], without_common_space()) == ["CCA"]
    assert capsys.readouterr().out == "similarity: left out: the encoders have no space in common\n"
    with pytest.raises(SystemExit, match=r"--methods: expected .* came only similarity: the .* common; ConSE: the .*"):
        crossmodal.able_of(["similarity", "ConSE"], without_common_space())


def test_every_number_of_a_printed_row_has_its_name() -> None:
    row = {"method": "CCA", "direction": "text→image", "recall@1": 0.25, "map": None, "queries_per_s": 812}
    assert crossmodal.line_of(row) == "CCA  text→image  recall@1 0.250  map –  queries_per_s 812"


@pytest.mark.parametrize(("n_test", "said"), [(3, "1.000"), (10, "1.000"), (40, "0.250"), (99, "0.101")])
def test_few_test_products_are_warned_of(n_test: int, said: str) -> None:
    assert f"only {n_test} test products: by chance alone recall@10 is {said}" in (crossmodal.warning(n_test) or "")
    assert crossmodal.warning(100) is None


def test_the_page_has_a_dash_where_map_is_not_known() -> None:
    numbers = dict.fromkeys([*KEYS - {"method", "direction", "map"}, "seconds"], 0.5)
    kept = {"neighbours_kept_without_image": 0.5, "neighbours_kept_without_text": 0.5}
    rows = [
        {"method": method, "direction": direction, "map": known, **numbers, **kept}
        for method, known in (("CCA", None), ("InfoNCE", 0.25))
        for direction in ("text→image", "image→text")
    ]
    protocol = {"test_products": 9, "fit_products": 72, "image_model": "a", "text_model": "b"}
    page = section("shop", {"protocol": protocol, "rows": rows, "comparison": []}, "shop.png")
    assert page.count("| CCA | **0.500** | **0.500** | **0.500** | **0.500** | – |") == 2
    assert page.count("| **0.500** | **0.250** |") == 2


@pytest.mark.slow
def test_the_whole_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shop = make_shop(tmp_path, ShopConfig(n_items=60, n_users=20, picture_size=64))
    shown = shop.items.filter(pl.col("images").list.len() > 0, pl.col("title").is_not_null())
    for item_id, images in shown.select("item_id", "images").iter_rows():
        (tmp_path / images[0]).rename(tmp_path / f"{item_id}.jpg")
    columns = [pl.col("item_id").alias("product_id"), "title", "description", "category"]
    table = shown.select(columns)
    first, second, third, *_ = table["product_id"]
    with Image.open(tmp_path / f"{first}.jpg") as picture:
        picture.save(tmp_path / f"{first}.png")
    (tmp_path / f"{first}.jpg").unlink()
    (tmp_path / f"{second}.jpg").write_bytes(b"no picture")
    (tmp_path / "wordless.jpg").write_bytes((tmp_path / f"{third}.jpg").read_bytes())
    unfit = {"product_id": [None, first, "unseen", "wordless"], "title": ["x", "x", "x", None]}
    pl.concat([table, pl.DataFrame(unfit)], how="diagonal").write_parquet(tmp_path / "products.parquet")
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
    used = len(table) - 1
    protocol, printed = result["protocol"], capsys.readouterr().out
    assert (protocol["products_read"], protocol["products_used"]) == (used + 5, used)
    assert protocol["left_out"] == {
        "without an id": 1,
        "with the id of one before": 1,
        "without a picture": 1,
        "with a picture that cannot be read": 1,
        "without words": 1,
    }
    assert f"{used + 5} products read, {used} used; left out: 1 without an id, 1 with the id of one before" in printed
    assert f"only {protocol['test_products']} test products" in printed
    assert "similarity: left out" in printed
    assert result["comparison"] == []  # without the default there is nothing to compare
    assert "| fusion: graph |" in section("demo", result, "demo.png")


def test_the_default_is_compared_with_the_best_single_objective() -> None:
    n = 200
    ranks = {"default": np.ones(n), "CCA": np.where(np.arange(n) < 100, 1, 2), "InfoNCE": np.full(n, 9)}
    ranks["fusion: mean"] = np.ones(n)  # no single objective: it does not count
    (line,) = crossmodal.compare_default({method: {"text→image": rank} for method, rank in ranks.items()})
    assert (line["best"], line["mean_a"], line["mean_b"], line["verdict"]) == ("CCA", 0.5, 1.0, "better")
    assert line["low"] > 0.4


def test_how_long_the_aligner_trains_is_told_of_the_shipped_night() -> None:
    row = align.run(300, threads=1)
    assert (row["items"], row["members"]) == (300, 4)
    assert row["image_width"] > row["text_width"] > 0
    assert row["train_s"] > 0


def test_made_up_views_agree_on_who_resembles_whom() -> None:
    views = align.made_up_views(200, {"image": 64, "text": 48}, seed=0)
    image, text = (view.vectors @ view.vectors.T - 2 * np.eye(200) for view in views.values())
    nearest = image.argmax(axis=1)
    assert text[np.arange(200), nearest].mean() > 0.3  # of two drawn at random it is 0
