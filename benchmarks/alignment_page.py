"""Write docs/alignment.md from what the benchmarks measured, with plots, and picture sheets of the demonstration shop.

    python -m benchmarks.alignment_page --crossmodal FILE [FILE ...] [--sizes FILE [FILE ...]] [--reviews FILE]
        [--codes FILE [FILE ...]] [--align FILE] [--search FILE] [--threads N]

The files are what the benchmarks of these names wrote with ``--json``; several of ``benchmarks.crossmodal`` may be of
one data set (each with some methods). Pictures on the page are of the demonstration shop, which is made up. The prose
stands in alignment_page.md beside this file.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template
from textwrap import fill
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.alignment_goals import (
    KEPT,
    RESCORED,
    Measured,
    Result,
    against_goals,
    filtered,
    interval_of,
)
from benchmarks.alignment_sheet import QUERIES, SHOP, draw_sheet, search_demo_shop
from benchmarks.crossmodal import HUBS_LEFT, HUBS_TAKEN
from benchmarks.reviews import ABOUT, default_against_plain

matplotlib.use("Agg")
PAGE = Path("docs/alignment.md")
PROSE = Path(__file__).with_suffix(".md")
MEASURES = ("recall@1", "recall@5", "recall@10", "mrr", "map")
ALONE = ", Hamming distance alone"  # of a row of benchmarks.codes
CODES = {"random rotations": "plain (random rotations)", "ITQ": "learned (ITQ)"}
CORRECTED = (
    "The default has its hubs taken back, these single objectives have not. Beside the best of them with its hubs "
    "taken back too, what is left is what the ensemble brings by itself:"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crossmodal", type=Path, nargs="+", required=True)
    parser.add_argument("--sizes", type=Path, nargs="+", default=[], help="of benchmarks.crossmodal with --fit")
    parser.add_argument("--reviews", type=Path)
    parser.add_argument("--codes", type=Path, nargs="+", default=[])
    parser.add_argument("--align", type=Path)
    parser.add_argument("--search", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    pictures = arguments.page.parent / arguments.page.stem
    pictures.mkdir(parents=True, exist_ok=True)
    measured = Measured(
        crossmodal=_by_data_set(arguments.crossmodal),
        reviews=_read(arguments.reviews) if arguments.reviews else None,
        codes=[_read(file) for file in arguments.codes],
        align=_read(arguments.align)["rows"] if arguments.align else [],
        search=_read(arguments.search)["rows"] if arguments.search else [],
        sizes=[_read(file) for file in arguments.sizes],
    )
    for name, result in measured.crossmodal.items():
        plot(result["rows"], pictures / f"{name}.png")
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in search_demo_shop(Path(folder), arguments.threads).items():
            draw_sheet(rows, pictures / f"sheet_{name}.png")
    page = Template(PROSE.read_text(encoding="utf-8")).substitute(
        goals="\n".join(against_goals(measured)),
        results="\n".join(sections(measured, pictures.name)),
        n_queries=len(QUERIES),
        n_items=f"{SHOP.n_items:,}",
        pictures=pictures.name,
    )
    arguments.page.write_text(page, encoding="utf-8")


def _read(file: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return result


def _by_data_set(files: Sequence[Path]) -> dict[str, Result]:
    """Results of the same data set become one: rows and comparisons after one another, each method once."""
    merged: dict[str, dict[str, Any]] = {}
    for result in map(_read, files):
        lists = {"rows": [], "comparison": [], "comparison_corrected": []}
        whole = merged.setdefault(result["dataset"], {**result, **lists})
        seen = {row["method"] for row in whole["rows"]}
        whole["rows"] += [row for row in result["rows"] if row["method"] not in seen]
        whole["comparison"] += result["comparison"]
        whole["comparison_corrected"] += result.get("comparison_corrected", [])  # earlier files have none
    return dict(merged)


def sections(measured: Measured, pictures: str) -> Iterator[str]:
    """All that was measured; ``pictures`` is the folder of the plots, as the page names it."""
    for name, result in measured.crossmodal.items():
        yield section(name, result, f"{pictures}/{name}.png")
    if measured.sizes:
        yield sizes_section(measured.sizes)
    if measured.reviews:
        yield reviews_section(measured.reviews)
    for result in measured.codes:
        yield codes_section(result)
    if measured.align or measured.search:
        yield times_section(measured.align, measured.search)


def section(name: str, result: Result, picture: str) -> str:
    """A data set's tables: one a direction, what a missing modality costs, and the comparison."""
    protocol = result["protocol"]
    lines = [
        f"## {name}",
        "",
        _wrapped(
            f"{protocol['test_products']:,} test products, {protocol['fit_products']:,} to learn from, split by "
            f"product; pictures by `{protocol['image_model']}`, words by `{protocol['text_model']}`."
        ),
        "",
        f"![recall@1 and recall@10 of every method on {name}]({picture})",
        "",
    ]
    for direction in ("text→image", "image→text"):
        of_direction = [row for row in result["rows"] if row["direction"] == direction]
        best = {m: max((row[m] for row in of_direction if row[m] is not None), default=None) for m in MEASURES}
        lines += [f"**{direction}**", "", "| method | " + " | ".join(MEASURES) + " |", "|---|" + "---|" * len(MEASURES)]
        for row in of_direction:
            cells = [_cell(row[m], best[m]) for m in MEASURES]
            lines.append(f"| {row['method']} | " + " | ".join(cells) + " |")
        lines.append("")
    lines += [*_costs(result["rows"]), ""]
    lines += _compared(result["comparison"])
    corrected = result.get("comparison_corrected", [])
    if corrected:
        lines += ["", _wrapped(CORRECTED), ""]
        lines += _compared(corrected)
    return "\n".join(lines) + "\n"


def _costs(rows: Sequence[Result]) -> list[str]:
    """What a missing modality costs, and what a method does: once for each, however its hubs are."""
    shown = [row for row in rows if row["direction"] == "text→image"]
    names = {row["method"] for row in shown}
    shown = [row for row in shown if _base(row["method"]) not in names - {row["method"]}]
    costs = {"bytes_per_item": "bytes an item", "seconds": "seconds to train", "queries_per_s": "queries a second"}
    if any("peak_mib" in row for row in shown):
        costs["peak_mib"] = "peak MiB"
    lines = [
        _wrapped(
            "**What is left when a modality is missing**: share of a whole product's ten nearest that stay; and what a "
            "method costs. Hubs left or taken back, these are the same."
        ),
        "",
        f"| method | {' | '.join(KEPT.values())} | {' | '.join(costs.values())} |",
        "|---|" + "---:|" * (len(KEPT) + len(costs)),
    ]
    for row in shown:
        kept = [f"{row[measure]:.3f}" for measure in KEPT]
        cells = [f"{row[cost]:,.0f}" if cost in row else "–" for cost in costs]
        lines.append(f"| {row['method']} | {' | '.join(kept + cells)} |")
    return lines


def _base(method: str) -> str:
    """The method whose aligner the row is of."""
    return method.removesuffix(HUBS_LEFT).removesuffix(HUBS_TAKEN)


def _compared(comparison: Sequence[Result]) -> list[str]:
    """What the default finds first beside the best single objective: a line for each direction."""
    lines = []
    for line in comparison:
        ratio = f"{line['mean_b'] / line['mean_a']:.2f} times as many; " if line["mean_a"] else ""
        said = (
            f"- {line['direction']}: the default finds {line['mean_b']:.3f} first, the best single objective "
            f"({line['best']}) {line['mean_a']:.3f}: {ratio}difference {line['difference']:+.3f}, {interval_of(line)}."
        )
        lines.append(_wrapped(said, hanging="  "))
    return lines


def _cell(value: float | None, best: float | None) -> str:
    """A measure, bold where it is the best; a dash where it is not known."""
    if value is None:
        return "–"
    return f"**{value:.3f}**" if value == best else f"{value:.3f}"


def _wrapped(prose: str, hanging: str = "") -> str:
    """Lines of 120 characters at most, as the page's other prose."""
    return fill(prose, 120, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False)


def sizes_section(results: Sequence[Result]) -> str:
    """How much of recall@1 is there with fewer products to learn from: the mean of both directions."""
    lines = [
        "## How many products it takes",
        "",
        _wrapped(
            "The same questions of smaller shops: the right product is first, the mean of both directions, by how many "
            "products there are to learn from."
        ),
        "",
    ]
    for name in dict.fromkeys(result["dataset"] for result in results):
        mine = sorted((r for r in results if r["dataset"] == name), key=lambda r: int(r["protocol"]["fit_products"]))
        lines.append(f"| {name} | " + " | ".join(f"{r['protocol']['fit_products']:,}" for r in mine) + " |")
        lines.append("|---|" + "---:|" * len(mine))
        for method in dict.fromkeys(row["method"] for result in mine for row in result["rows"]):
            found = [[row["recall@1"] for row in r["rows"] if row["method"] == method] for r in mine]
            cells = [f"{sum(each) / len(each):.3f}" if each else "–" for each in found]
            lines.append(f"| {method} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def reviews_section(result: Result) -> str:
    """Traits that only reviews mention: mean average precision by how reviews are pooled."""
    rows = result["rows"]
    chance = rows[0].get("chance", {})  # earlier files have the mean of it alone
    traits = {trait: value for trait, value in rows[0].items() if trait not in ABOUT}
    lines = [
        "## What only reviewers say",
        "",
        _wrapped(
            f"The demonstration shop ({result['items']:,} products) plants traits that no title, description or "
            "picture shows. A shopper's words for each are searched in the embedding, among the products of the kinds "
            "that can have it; mean average precision, and beside it what an order without knowledge gives: the share "
            "of them that have it."
        ),
        "",
        "| reviews | mean | by chance |",
        "|---|---:|---:|",
        *(f"| {row['pooling']} | {row['mean']:.3f} | {row['by chance']:.3f} |" for row in rows),
        "",
        "By trait, with the default pooling:",
        "",
        "| trait | average precision | by chance |",
        "|---|---:|---:|",
        *(f"| {trait} | {value:.2f} | {_number(chance.get(trait), '.2f')} |" for trait, value in traits.items()),
    ]
    gained = default_against_plain(rows)
    if gained is not None:
        said = (
            f"Over these {gained.n} traits the default pooling differs by {gained.difference:+.3f} from the plain mean "
            f"of an item's reviews, {interval_of(gained.as_dict())} (paired bootstrap over the traits): "
            f"{gained.verdict}."
        )
        lines += ["", _wrapped(said)]
    return "\n".join(lines) + "\n"


def codes_section(result: Result) -> str:
    """Compact codes beside floats: a table for each kind of query."""
    lines = [
        f"## Compact codes: {result['dataset']}",
        "",
        _wrapped(
            f"{result['items']:,} items of {result['dim']} dimensions: share of the exact {result['k']} nearest that "
            "is found, by the codes alone and with a shortlist of them rescored; bytes in memory; one query at a time "
            "on one thread."
        ),
        "",
    ]
    recall = f"recall@{result['k']}"
    for asked in dict.fromkeys(row["queries"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["queries"] == asked]
        lines += [
            f"**Asked with {asked}**",
            "",
            f"| codes | bits | {recall} | rescored | bytes an item | queries a second | rescored |",
            "|---|---:|---:|---:|---:|---:|---:|",
        ]
        for name, bits, alone, rescored in _pairs(rows):
            about = alone or rescored or {}
            found = [_number(row and row[recall], ".3f") for row in (alone, rescored)]
            fast = [_number(row and row["queries_per_s"], ",.0f") for row in (alone, rescored)]
            cells = [name, f"{bits:,}", *found, f"{about['bytes_per_item']:,.0f}", *fast]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _pairs(rows: Sequence[Result]) -> Iterator[tuple[str, int, Result | None, Result | None]]:
    """Name of the codes, their bits, the row of the codes alone and that of them rescored; None where it is missing."""
    pairs: dict[tuple[str, int], list[Result | None]] = {}
    for row in rows:
        name, rescored = row["method"].removesuffix(ALONE).removesuffix(RESCORED), bool(row["shortlist"])
        pairs.setdefault((CODES.get(name, name), row["bits"]), [None, None])[rescored] = row
    for (name, bits), (alone, rescored) in pairs.items():
        yield name, bits, alone, rescored


def times_section(trained: Sequence[Result], searched: Sequence[Result]) -> str:
    """How long the aligner trains, and how long a query in words takes inside the service."""
    lines = ["## How long it takes", ""]
    if trained:
        lines += [
            "Training the shipped alignment, encodings cached, on made-up views as wide as the encoders':",
            "",
            "| products | members | threads | seconds to train | seconds to embed | peak MiB |",
            "|---:|---:|---:|---:|---:|---:|",
        ]
        for row in trained:
            cells = [f"{row['items']:,}", str(row["members"]), str(row.get("threads", "–"))]
            cells += [f"{row['train_s']:,.0f}", f"{row['embed_s']:.1f}", f"{row['peak_mib']:,}"]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    if searched:
        lines += [
            _wrapped(
                "A query in words, from the request to the answer inside the service, beside its encoder alone; "
                "milliseconds, on one thread:"
            ),
            "",
            "| items | encoder p50 | service p50 | added p50 | encoder p99 | service p99 |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        times = ("encoder_p50_ms", "service_p50_ms", "added_p50_ms", "encoder_p99_ms", "service_p99_ms")
        for row in searched:
            lines.append(f"| {row['items']:,}{filtered(row)} | {' | '.join(f'{row[time]:.1f}' for time in times)} |")
        lines.append("")
    return "\n".join(lines)


def _number(value: float | None, form: str) -> str:
    """A dash where it is not known."""
    return "–" if value is None else format(value, form)


def plot(rows: Sequence[Result], path: Path) -> None:
    """Text→image recall at 1 and 10 of every method, best above; a small PNG.

    The rows of one aligner share a bar: that of its own name, with a line where it finds first with hubs the other way.
    """
    of_direction = {row["method"]: row for row in rows if row["direction"] == "text→image"}
    others = {name: _base(name) for name in of_direction if name != _base(name) in of_direction}
    shown = [row for name, row in of_direction.items() if name not in others]
    shown.sort(key=lambda row: float(row["recall@1"]))
    figure = Figure(figsize=(6.4, 1.0 + 0.24 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    places = {row["method"]: place for place, row in enumerate(shown)}
    axes.barh(list(places.values()), [row["recall@10"] for row in shown], color="#c7d2f0")
    colours = ["#14804a" if row["method"] == "default" else "#3456c4" for row in shown]
    axes.barh(list(places.values()), [row["recall@1"] for row in shown], color=colours)
    for name, base in others.items():
        at, place = of_direction[name]["recall@1"], places[base]
        axes.vlines(at, place - 0.4, place + 0.4, "#e07b00", linewidth=2)
    axes.set_yticks(list(places.values()), list(places), fontsize=8)
    axes.set_xlim(0, 1)
    said = "text→image: the right picture is first (dark), among the first ten (pale)"
    if others:
        said += "\norange: first, with hubs the other way (the default's left, the others' taken back)"
    axes.set_xlabel(said, fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    with Image.open(path) as drawn:
        drawn.convert("P", palette=Image.Palette.ADAPTIVE, colors=32).save(path, optimize=True)


if __name__ == "__main__":
    main()
