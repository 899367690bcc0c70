"""The cross-modal benchmark: its measures by hand, what it says, and the whole command on a small folder."""

import json
import os
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmarks import align, crossmodal
from benchmarks.alignment_page import section
from benchmarks.crossmodal_measures import measure, most_alike, neighbours_kept, ranks_of
from benchmarks.crossmodal_methods import METHODS, Answer, Material, load_material, nearest
from benchmarks.products import Products
from benchmarks.protocol import LeftOut
from recsys.alignment.concepts import Concepts
from recsys.alignment.model import Aligner
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


@given(st.integers(1, 12), st.integers(1, 30), st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_the_most_alike_are_those_of_a_full_stable_sort(rows: int, items: int, k: int, values: int, seed: int) -> None:
    likeness = np.random.default_rng(seed).integers(0, values, (rows, items)).astype(np.float32)
    likeness[likeness == values - 1] = -np.inf  # as what must not be found
    expected = np.argsort(-likeness, axis=1, kind="stable")[:, :k]
    assert np.array_equal(most_alike(likeness, k), expected)


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
    names = [name for single in ("CCA", "ConSE") for name in (single, f"{single}, hubs taken back")]
    assert named == [(name, d) for name in (*names, "fusion: graph") for d in directions]
    for row in result["rows"]:
        assert row.keys() >= KEYS
        assert 0 <= row["recall@1"] <= row["recall@5"] <= row["recall@10"] <= 1
        assert row["bytes_per_item"] == 256
        assert row["peak_mib"] > 100  # torch alone is more
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
    assert result["comparison"] == result["comparison_corrected"] == []  # there is no default to compare
    assert protocol["left_out_methods"] == {}
    assert "| fusion: graph |" in section("demo", result, "demo.png")


def test_the_default_is_compared_with_the_best_single_objective() -> None:
    n = 200
    ranks = {"default": np.ones(n), "CCA": np.where(np.arange(n) < 100, 1, 2), "InfoNCE": np.full(n, 9)}
    ranks["fusion: mean"] = np.ones(n)  # no single objective: it does not count
    (line,) = crossmodal.compare_default({method: {"text→image": rank} for method, rank in ranks.items()})
    assert (line["best"], line["mean_a"], line["mean_b"], line["verdict"]) == ("CCA", 0.5, 1.0, "better")
    assert line["low"] > 0.4


def test_the_default_is_compared_once_more_with_the_single_objectives_hubs_taken_back() -> None:
    n = 200
    first = {"default": 150, "CCA": 100, "InfoNCE": 50, "CCA, hubs taken back": 120, "InfoNCE, hubs taken back": 150}
    ranks = {name: {"text→image": np.where(np.arange(n) < right, 1, 2)} for name, right in first.items()}
    (bare,), (corrected,) = crossmodal.compare_default(ranks), crossmodal.compare_default(ranks, crossmodal.HUBS_TAKEN)
    assert (bare["best"], bare["mean_a"]) == ("CCA", 0.5)
    assert (corrected["best"], corrected["mean_a"]) == ("InfoNCE, hubs taken back", 0.75)
    assert corrected["verdict"] == "no difference shown"
    assert crossmodal.compare_default({"CCA": ranks["CCA"]}) == []
    assert crossmodal.compare_default({"default": ranks["default"]}) == []


def test_every_row_has_its_interval_against_the_best_single_objective() -> None:
    n = 200
    first = {"default": 150, "CCA": 100, "InfoNCE": 50, "CCA, hubs taken back": 180, "fusion: mean": 100}
    ranks = {name: {"text→image": np.where(np.arange(n) < right, 1, 2)} for name, right in first.items()}
    rows = [{"method": name, "direction": "text→image"} for name in first]
    crossmodal.add_intervals(rows, ranks)
    interval = {row["method"]: row["ci_vs_best_single"] for row in rows}
    (line,) = crossmodal.compare_default(ranks)
    assert interval["default"] == pytest.approx([line["low"], line["high"]])
    assert interval["CCA"] is None  # the best itself: hubs taken back, it is no single objective as it is
    assert interval["fusion: mean"] == [0, 0]
    assert interval["InfoNCE"][1] < 0 < interval["CCA, hubs taken back"][0]
    few = {name: {"text→image": of_name["text→image"][:5]} for name, of_name in ranks.items()}
    for unknown in ({"default": ranks["default"]}, few):
        row = {"method": "default", "direction": "text→image"}
        crossmodal.add_intervals([row], unknown)
        assert row["ci_vs_best_single"] is None


def test_rows_are_named_by_whether_hubs_are_taken_back() -> None:
    corrected = {"default": True, "default, hubs left": False}
    assert crossmodal.names_of("default") == corrected
    assert list(crossmodal.names_of("default, neighbours free")) == [
        "default, neighbours free", "default, neighbours free, hubs left",
    ]  # fmt: skip
    assert crossmodal.names_of("CCA") == {"CCA": False, "CCA, hubs taken back": True}
    assert crossmodal.names_of("fusion: mean") == {"fusion: mean": False}
    every = [name for method in METHODS for name in crossmodal.names_of(method)]
    assert len(set(every)) == len(every)


def test_hubs_taken_back_are_those_of_the_same_aligner() -> None:
    side = np.eye(3, 64, dtype=np.float32)
    pictures = side[[1, 1, 2]]  # the first looks like the second, whose words are near to every picture
    aligner = Aligner.__new__(Aligner)
    aligner.dim = 64
    hubs = {"image": np.array([0, 1.25, 0], np.float32), "text": np.zeros(3, np.float32)}
    found = Answer(aligner, {"image": pictures, "text": side}, whole=side, parts={"image": side}, hubs=hubs)
    rows, ranks = crossmodal.rows_of("CCA", found, np.array(["", "", ""]), seconds=1.23, peak=99.6)
    assert [(row["method"], row["direction"]) for row in rows] == [
        ("CCA", "image→text"), ("CCA", "text→image"),
        ("CCA, hubs taken back", "image→text"), ("CCA, hubs taken back", "text→image"),
    ]  # fmt: skip
    assert ranks["CCA"]["image→text"].tolist() == [3, 1, 1]
    assert ranks["CCA, hubs taken back"]["image→text"].tolist() == [2, 3, 1]  # the first two: 0, -0.25, 0
    assert [(row["seconds"], row["peak_mib"]) for row in rows] == [(1.2, 100)] * 4


def made_up_material(n: int) -> Material:
    """Products of two views; the concepts are of another encoder's width, so that ConSE fails."""
    views = align.made_up_views(n, {"image": 24, "text": 16}, seed=0)
    concepts = Concepts(np.ones((5, 7), np.float32), np.zeros(5, np.float32), np.ones((5, 16), np.float32))
    fit, watch, test = np.split(np.arange(n), [n * 8 // 10, n * 9 // 10])
    vectors = {name: view.vectors for name, view in views.items()}
    return Material(vectors, fit, watch, test, np.zeros((0, 2), np.int32), {"image": concepts})


def test_workers_read_the_material_where_it_lies(tmp_path: Path) -> None:
    material = made_up_material(30)
    material.save(tmp_path)
    read = load_material(tmp_path)
    for side in ("image", "text"):
        assert np.array_equal(read.vectors[side], material.vectors[side])
        assert isinstance(read.vectors[side].base, np.memmap)  # no copy of its own
    for name in ("fit", "watch", "test", "pairs"):
        assert np.array_equal(getattr(read, name), getattr(material, name))
    assert vars(read.concepts["image"]).keys() == vars(material.concepts["image"]).keys()
    assert np.array_equal(read.concepts["image"].names, material.concepts["image"].names)
    without = tmp_path / "without"
    without.mkdir()
    without_common_space().save(without)
    assert load_material(without).concepts == {}


def die(method: str, folder: Path, category: object) -> None:
    """Stand in for a method whose process is killed."""
    os._exit(1)


@pytest.mark.slow
def test_a_method_whose_process_is_killed_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossmodal, "_rows_of", die)
    left_out = LeftOut("CCA", "its process was killed, perhaps for want of memory")
    assert crossmodal.measure_apart("CCA", tmp_path, None) == left_out


def command_on(material: Material, methods: list[str], file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the next main() find this material."""
    products = Products("shop", ids=[], words=[], pictures=[], category=np.array([]), left_out={})
    monkeypatch.setattr(crossmodal, "read_products", lambda *_: products)
    monkeypatch.setattr(crossmodal, "prepare", lambda *_: (material, np.array([""] * len(material.test)), {}))
    arguments = ["--products", "a.csv", "--images", "a", "--json", file, "--methods", *methods]
    monkeypatch.setattr(sys, "argv", ["crossmodal", *map(str, arguments)])


@pytest.mark.slow
def test_a_method_that_fails_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command_on(made_up_material(300), ["CCA", "ConSE", "regression"], tmp_path / "rows.json", monkeypatch)
    crossmodal.main()
    result = json.loads((tmp_path / "rows.json").read_text())
    left_out = result["protocol"]["left_out_methods"]
    assert list(left_out) == ["ConSE"]
    assert f"ConSE: left out: {left_out['ConSE']}" in capsys.readouterr().out
    measured = dict.fromkeys(row["method"] for row in result["rows"])
    assert list(measured) == ["CCA", "CCA, hubs taken back", "regression", "regression, hubs taken back"]
    for direction in ("image→text", "text→image"):
        intervals = [row["ci_vs_best_single"] for row in result["rows"] if row["direction"] == direction]
        assert intervals.count(None) == 1  # the best single objective's


@pytest.mark.slow
def test_the_default_that_fails_fails_the_command_after_all_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    material = made_up_material(50)
    material.test[:] = 50  # no such product
    command_on(material, ["default"], tmp_path / "rows.json", monkeypatch)
    with pytest.raises(SystemExit, match="default: expected an answer, came IndexError: index 50"):
        crossmodal.main()
    result = json.loads((tmp_path / "rows.json").read_text())
    assert list(result["protocol"]["left_out_methods"]) == ["default"]
    assert result["rows"] == []


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
