"""The page of the alignment: goals computed from what was measured, tables, the plot, and the sheets to look at."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from benchmarks import alignment_page as page
from benchmarks import alignment_sheet
from benchmarks.alignment_goals import Measured, against_goals, codes_of_256_bits
from benchmarks.alignment_sheet import GAP, LABEL, SHOWN, SIDE, Card, Row, cards_of, draw_sheet, some_of_each
from benchmarks.codes import exact, hamming_only, measure, rescored_from_disk
from benchmarks.reviews import default_against_plain
from recsys.alignment.train import AlignmentConfig
from recsys.data.synthetic import ShopConfig

GREEN, RED, BLUE = (20, 160, 40), (200, 30, 30), (20, 40, 200)


def row_of(method: str, first: float, direction: str = "text→image", **others: Any) -> dict[str, Any]:
    numbers = {"recall@1": first, "recall@5": 0.8, "recall@10": 0.9, "mrr": 0.6, "map": None}
    costs = {"queries_per_s": 1234.4, "bytes_per_item": 256, "seconds": 96.2}
    kept = {"neighbours_kept_without_image": 0.86, "neighbours_kept_without_text": 0.84}
    return {"method": method, "direction": direction, **numbers, **costs, **kept, **others}


def comparison_of(single: float, default: float, low: float | None, best: str = "SigLIP") -> dict[str, Any]:
    interval = {"low": low, "high": None if low is None else 0.09, "confidence": 0.95}
    means = {"mean_a": single, "mean_b": default, "difference": default - single}
    return {"direction": "text→image", "measure": "recall@1", "best": best, **means, **interval}


def result_of(name: str, rows: Sequence[Any], comparison: Sequence[Any] = (), **others: Any) -> dict[str, Any]:
    protocol = {"test_products": 9, "fit_products": 72, "image_model": "a", "text_model": "b"}
    return {"dataset": name, "protocol": protocol, "rows": [*rows], "comparison": [*comparison], **others}


def codes_row(method: str, bits: int, recall: float, size: float, **others: Any) -> dict[str, Any]:
    numbers = {"recall@100": recall, "recall@10": 1.0, "bytes_per_item": size, "queries_per_s": 2000.0, "shortlist": 0}
    return {"method": method, "queries": "words", "bits": bits, **numbers, **others}


def codes_of(*rows: dict[str, Any]) -> dict[str, Any]:
    return {"dataset": "hm", "items": 5000, "dim": 64, "k": 100, "rows": [*rows]}


FLOATS = codes_row("float, exact scan", 2048, 1.0, 256)


def verdicts(**measured: Any) -> list[tuple[str, str, str, str]]:
    """The cells of the table of goals, row by row."""
    lines = list(against_goals(Measured(**{"crossmodal": {}, **measured})))
    return [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in lines[3:-1]]  # type: ignore[misc]


def test_without_any_measurement_there_is_no_table_of_goals() -> None:
    assert list(against_goals(Measured({}))) == []
    assert list(against_goals(Measured({"hm": result_of("hm", [row_of("CCA", 0.3)])}))) == []


def test_recalls_of_fashion_small_are_met_or_missed() -> None:
    fashion = result_of("fashion_small", [row_of("CCA", 0.9), row_of("default", 0.379)])
    met = {what: verdict for what, *_, verdict in verdicts(crossmodal={"fashion_small": fashion})}
    assert met == {
        "fashion_small, text→image: recall@1": "**missed**",
        "fashion_small, text→image: recall@10": "met",
        "fashion_small: share of the ten nearest that an item without picture keeps": "met",
        "fashion_small: share of the ten nearest that an item without words keeps": "**missed**",
    }
    other = verdicts(crossmodal={"hm": result_of("hm", [row_of("default", 0.379)])})
    assert [what.split(":")[0] for what, *_ in other] == ["hm", "hm"]  # its recalls have no goal of their own


@pytest.mark.parametrize(
    ("single", "default", "low", "verdict"),
    [
        (0.4, 0.45, 0.001, "met"),
        (0.4, 0.43, 0.001, "**missed**"),
        (0.4, 0.50, -0.001, "**missed**"),  # enough, but perhaps by chance
        (0.4, 0.50, None, "**missed**"),  # too few products to say
    ],
)
def test_the_best_single_objective_is_surpassed_surely_or_not(
    single: float, default: float, low: float | None, verdict: str
) -> None:
    hm = result_of("hm", [], [comparison_of(single, default, low)])
    (cells,) = verdicts(crossmodal={"hm": hm})
    assert cells[0] == "hm, text→image: recall@1, times the best single objective (SigLIP)"
    assert (cells[1], cells[3]) == ("≥ 1.100", verdict)
    assert cells[2].startswith(f"{default / single:.3f}, ")


def test_nothing_is_a_multiple_of_nothing() -> None:
    assert verdicts(crossmodal={"hm": result_of("hm", [], [comparison_of(0.0, 0.5, 0.1)])}) == []


def test_codes_are_held_against_the_floats_of_the_same_queries() -> None:
    learned = codes_row("ITQ, rescored from vectors on disk", 256, 0.985, 32, shortlist=500)
    fewer = codes_row("ITQ, rescored from vectors on disk", 128, 0.5, 16, shortlist=500)
    recall, size = verdicts(codes=[codes_of(FLOATS, fewer, learned)])
    assert recall[1:] == ("≥ 0.980", "0.985", "met")
    assert size[1:] == ("≤ 0.125", "0.125", "met")
    assert verdicts(codes=[codes_of(FLOATS, fewer)]) == []
    assert verdicts(codes=[codes_of(learned)]) == []  # without floats nothing is known
    *_, larger = verdicts(codes=[codes_of(FLOATS, {**learned, "bytes_per_item": 40})])
    assert larger[2:] == ("0.156", "**missed**")


def test_times_are_bounds_from_above() -> None:
    trained = {"items": 44_000, "threads": 2, "train_s": 180.0}
    assert verdicts(align=[trained]) == [
        ("training of 44,000 products on two cores, seconds", "≤ 180", "180", "met")
    ]  # fmt: skip
    assert verdicts(align=[{**trained, "train_s": 181.0}])[0][3] == "**missed**"
    assert verdicts(align=[{**trained, "threads": 8}, {**trained, "items": 300}]) == []
    rows = [{"items": 10**6, "filtered": filtered, "added_p50_ms": added} for filtered, added in ((0, 4.96), (1, 5.3))]
    assert [cells[2:] for cells in verdicts(search=rows)] == [("5.0", "met"), ("5.3", "**missed**")]
    assert "1,000,000 items, filtered, p50" in verdicts(search=rows)[1][0]


def test_files_of_one_data_set_become_one_with_or_without_the_second_comparison(tmp_path: Path) -> None:
    earlier = result_of("hm", [row_of("CCA", 0.3)], [comparison_of(0.3, 0.4, 0.01)])
    later = result_of(
        "hm", [row_of("CCA", 0.9), row_of("default", 0.4)], comparison_corrected=[comparison_of(0.35, 0.4, -0.01)]
    )
    files = []
    for number, result in enumerate((earlier, later)):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(result))
    (merged,) = page._by_data_set(files).values()
    assert [(row["method"], row["recall@1"]) for row in merged["rows"]] == [("CCA", 0.3), ("default", 0.4)]
    assert (len(merged["comparison"]), len(merged["comparison_corrected"])) == (1, 1)


def test_the_second_comparison_is_told_in_words() -> None:
    corrected = [comparison_of(0.4, 0.41, -0.02, best="InfoNCE, hubs taken back")]
    result = result_of("hm", [row_of("default", 0.41)], [comparison_of(0.3, 0.41, None)])
    assert "hubs taken back too" not in page.section("hm", result, "hm.png")
    told = " ".join(page.section("hm", {**result, "comparison_corrected": corrected}, "hm.png").split())
    assert "(SigLIP) 0.300: 1.37 times as many; difference +0.110, too few products for an interval." in told
    assert "(InfoNCE, hubs taken back) 0.400: 1.02 times as many; difference +0.010, 95% interval -0.020 to" in told
    assert told.index("(SigLIP)") < told.index("with its hubs taken back too") < told.index("(InfoNCE, hubs")


def test_costs_stand_once_for_each_aligner() -> None:
    names = ("default", "default, hubs left", "CCA", "CCA, hubs taken back")
    lines = page._costs([row_of(name, 0.4) for name in names])
    assert [line for line in lines if line.startswith("| ")] == [
        "| method | without picture | without words | bytes an item | seconds to train | queries a second |",
        "| default | 0.860 | 0.840 | 256 | 96 | 1,234 |",
        "| CCA | 0.860 | 0.840 | 256 | 96 | 1,234 |",
    ]
    with_memory = page._costs([row_of("CCA", 0.4, peak_mib=2048), row_of("SigLIP", 0.4)])
    assert [line.split(" | ")[-1] for line in with_memory[-2:]] == ["2,048 |", "– |"]  # one file is of before
    alone = page._costs([row_of("CCA, hubs taken back", 0.4)])
    assert alone[-1].startswith("| CCA, hubs taken back |")


def test_smaller_shops_stand_in_columns_by_size() -> None:
    few, many = ([row_of("CCA", a), row_of("CCA", b, "image→text")] for a, b in ((0.2, 0.4), (0.5, 0.7)))
    shops = [result_of("hm", many), result_of("hm", few)]
    shops[0]["protocol"]["fit_products"] = 2_000
    told = [line for line in page.sizes_section(shops).splitlines() if line.startswith("|")]
    assert told == ["| hm | 72 | 2,000 |", "|---|---:|---:|", "| CCA | 0.300 | 0.600 |"]


def reviews_of(gain: float, n_traits: int = 8) -> list[dict[str, Any]]:
    traits = {f"trait {number}": 0.3 + number / 100 for number in range(n_traits)}
    better = {trait: value + gain for trait, value in traits.items()}
    about = {"mean": 0.5, "by chance": 0.25}
    return [{"pooling": "default", **about, **better}, {"pooling": "plain mean", **about, **traits}]


def test_the_default_pooling_is_compared_trait_by_trait() -> None:
    gained = default_against_plain(reviews_of(0.25))
    assert gained is not None
    assert (gained.n, round(gained.difference, 6), gained.verdict) == (8, 0.25, "better")
    assert default_against_plain(reviews_of(0.25, n_traits=5)) is None
    assert default_against_plain(reviews_of(0.25)[:1]) is None
    chance = [{**row, "chance": {f"trait {n}": 0.1 for n in range(8)}} for row in reviews_of(0.25)]
    assert default_against_plain(chance) == gained


def test_chance_stands_beside_each_trait_where_it_is_known() -> None:
    rows = reviews_of(0.25)
    told = page.reviews_section({"items": 1500, "rows": rows})
    assert "| trait 0 | 0.55 | – |" in told
    assert "+0.250 from the plain mean" in told
    rows[0]["chance"] = {f"trait {number}": 0.125 for number in range(8)}
    told = page.reviews_section({"items": 1500, "rows": rows})
    assert "| trait 0 | 0.55 | 0.12 |" in told
    assert "chance |  |" not in told


def test_the_page_knows_the_names_that_the_codes_have() -> None:
    rng = np.random.default_rng(0)
    items = rng.normal(size=(200, 16)).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    methods = [exact(items)]
    for learned in (False, True):
        methods += [hamming_only(items, 16, learned), rescored_from_disk(items, 16, learned)]
    methods[1:] = [
        replace(method, bits=256) for method in methods[1:]
    ]  # 16 are learned faster, and names are asked for
    rows = measure(items, methods, items[:5], {"queries": "new items"})
    result = {"dataset": "made up", "items": 200, "dim": 16, "k": 100, "rows": rows}
    names = [line.split(" | ")[0] for line in page.codes_section(result).splitlines() if line.startswith("| ")]
    assert names == ["| codes", "| float, exact scan", "| plain (random rotations)", "| learned (ITQ)"]
    assert len(list(codes_of_256_bits(result))) == 1


def test_codes_alone_and_rescored_share_a_row() -> None:
    rows = [
        FLOATS,
        codes_row("ITQ, Hamming distance alone", 64, 0.25, 8, queries_per_s=4321.0),
        codes_row("ITQ, rescored from vectors on disk", 64, 0.98, 8, shortlist=500, queries_per_s=987.0),
        codes_row("4-bit scalars", 256, 0.9, 32),
    ]
    told = page.codes_section(codes_of(*rows))
    assert "| float, exact scan | 2,048 | 1.000 | – | 256 | 2,000 | – |" in told
    assert "| learned (ITQ) | 64 | 0.250 | 0.980 | 8 | 4,321 | 987 |" in told
    assert "| 4-bit scalars | 256 | 0.900 | – | 32 | 2,000 | – |" in told


def test_times_are_told_as_far_as_they_were_measured() -> None:
    trained = {"items": 44_000, "members": 4, "train_s": 171.6, "embed_s": 1.24, "peak_mib": 2345}  # of before: threads
    times = {f"{what}_p{q}_ms": 2.0 for what in ("encoder", "service") for q in (50, 99)}
    searched = {"items": 10**6, "filtered": True, "added_p50_ms": 3.46, **times}
    told = page.times_section([trained], [searched])
    assert "| 44,000 | 4 | – | 172 | 1.2 | 2,345 |" in told
    assert "| 1,000,000, filtered | 2.0 | 2.0 | 3.5 | 2.0 | 2.0 |" in told
    assert "Training" not in page.times_section([], [searched])
    assert "query" not in page.times_section([trained], [])


def test_every_place_in_the_prose_is_filled() -> None:
    names = {"goals", "results", "n_queries", "n_items", "pictures"}
    assert set(Template(page.PROSE.read_text(encoding="utf-8")).get_identifiers()) == names


def test_the_plot_has_one_bar_an_aligner(tmp_path: Path) -> None:
    singles = ("CCA", "SigLIP", "InfoNCE", "regression")
    bare = [row_of("default", 0.5), *(row_of(name, 0.3) for name in singles)]
    both = [*bare, row_of("default, hubs left", 0.45), *(row_of(f"{name}, hubs taken back", 0.4) for name in singles)]
    heights, orange = [], []
    for rows in (bare, both):
        page.plot([*rows, row_of("CCA", 0.9, "image→text")], tmp_path / "plot.png")
        with Image.open(tmp_path / "plot.png") as drawn:
            heights.append(drawn.height)
            orange.append(share_of(drawn.convert("RGBA").convert("RGB"), (224, 123, 0)))
    assert heights[0] == heights[1]
    assert orange[0] == 0 < orange[1]


def share_of(picture: Image.Image, colour: tuple[int, int, int]) -> float:
    return float((np.abs(np.asarray(picture, np.int16) - colour).max(axis=2) <= 12).mean())


def card(folder: Path, colour: tuple[int, int, int]) -> Card:
    file = folder / f"{'-'.join(map(str, colour))}.png"
    Image.new("RGB", (40, 40), colour).save(file)
    return Card("A thing", file)


def test_what_is_asked_with_stands_before_what_was_found(tmp_path: Path) -> None:
    green, red, blue = (card(tmp_path, colour) for colour in (GREEN, RED, BLUE))
    draw_sheet([Row("like", [red, blue], asked=green), Row("like", [blue])], tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as drawn:
        pixels = np.asarray(drawn.convert("RGB"), np.int16)
    middle = GAP + LABEL + SIDE // 2
    first = 3 * GAP + SIDE + SIDE // 2
    for left, colour in ((GAP + SIDE // 2, GREEN), (first, RED), (first + SIDE + GAP, BLUE)):
        assert np.abs(pixels[middle, left] - colour).max() <= 12
    draw_sheet([Row("words", [red] * (SHOWN + 3))], tmp_path / "words.png")
    with Image.open(tmp_path / "words.png") as drawn:
        assert drawn.width == GAP + SHOWN * (SIDE + GAP)  # no place is kept for a picture that is asked with


def test_a_product_without_a_picture_is_drawn_by_its_title(tmp_path: Path) -> None:
    for name, cards in (("none", []), ("bare", [Card("A very long title of a woollen coat", None)])):
        draw_sheet([Row("words", cards)], tmp_path / f"{name}.png")
    with Image.open(tmp_path / "none.png") as none, Image.open(tmp_path / "bare.png") as bare:
        assert none.size == bare.size
        changed = np.asarray(none.convert("RGB")) != np.asarray(bare.convert("RGB"))
    assert changed.any(axis=2)[GAP + LABEL : GAP + LABEL + SIDE, GAP : GAP + SIDE].mean() > 0.9


def test_rows_are_of_the_first_of_every_third_category(tmp_path: Path) -> None:
    kinds = ["d", "a", "b", "c", "a", "d", "e", "f", "g", None]
    items = pl.DataFrame(
        {
            "item_id": [f"i{number}" for number in range(10)],
            "category": kinds,
            "title": [None, *["A thing"] * 9],
            "images": [["0.jpg"], [], ["2.jpg"], *[["n.jpg", "m.jpg"]] * 7],
        }
    )
    cards = cards_of(items, tmp_path)
    assert cards["i0"] == ("d", Card("i0", tmp_path / "0.jpg"))
    assert cards["i1"][1].picture is None
    # Of a, b, c, d, e, f, g these are the first, fourth and seventh; the first of a has no picture.
    assert [item_id for item_id, _ in some_of_each(cards)] == ["i4", "i0", "i8"]


@pytest.mark.slow
def test_the_sheets_are_what_the_search_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ShopConfig(n_items=120, n_users=100, picture_size=64, sold_out_share=0, missing_picture=0, missing_both=0)
    monkeypatch.setattr(alignment_sheet, "SHOP", small)
    quick = AlignmentConfig(members=1, linear=64, hidden=128, epochs=12)
    monkeypatch.setattr(alignment_sheet, "NIGHT", replace(alignment_sheet.NIGHT, alignment=quick))
    monkeypatch.setattr(alignment_sheet, "ELSEWHERE", small)  # so that the right answer to a photo is known
    sheets = alignment_sheet.search_demo_shop(tmp_path, threads=1)
    assert list(sheets) == ["words", "photo", "similar"]
    assert [row.label for row in sheets["words"]] == list(alignment_sheet.QUERIES)
    assert len(sheets["photo"]) == len(sheets["similar"]) > 3
    assert all(len(row.found) == SHOWN for rows in sheets.values() for row in rows)
    for row in sheets["photo"]:
        assert row.asked is not None
        assert row.asked.title in [card.title for card in row.found[:3]]
    for row in sheets["similar"]:
        assert row.asked not in row.found
    dresses = [card.title.lower() for card in sheets["words"][0].found]
    assert sum("dress" in title for title in dresses) >= 3
