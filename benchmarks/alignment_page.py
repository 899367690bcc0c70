"""Write docs/alignment.md from what the benchmarks measured, with plots, and picture sheets of the demonstration shop.

    python -m benchmarks.alignment_page --crossmodal FILE [FILE ...] [--reviews FILE] [--threads N]

The files are what ``benchmarks.crossmodal --json`` and ``benchmarks.reviews --json`` wrote; several of the first kind
may be of one data set (each with some methods). Pictures on the page are of the demonstration shop, which is made up.
The prose stands in alignment_page.md beside this file.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from string import Template
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.alignment_sheet import QUERIES, draw_sheet, search_demo_shop

matplotlib.use("Agg")
PAGE = Path("docs/alignment.md")
PROSE = Path(__file__).with_suffix(".md")
MEASURES = ("recall@1", "recall@5", "recall@10", "mrr", "map")
KEPT = ("neighbours_kept_without_image", "neighbours_kept_without_text")
Result = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crossmodal", type=Path, nargs="+", required=True)
    parser.add_argument("--reviews", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    pictures = arguments.page.parent / arguments.page.stem
    pictures.mkdir(parents=True, exist_ok=True)
    parts = []
    for name, result in _by_data_set(arguments.crossmodal).items():
        plot(result["rows"], pictures / f"{name}.png")
        parts.append(section(name, result, f"{pictures.name}/{name}.png"))
    if arguments.reviews:
        parts.append(reviews_section(json.loads(arguments.reviews.read_text())))
    with tempfile.TemporaryDirectory() as folder:
        rows, folder_of_pictures = search_demo_shop(Path(folder), arguments.threads)
        draw_sheet(rows, folder_of_pictures, pictures / "sheet.png")
    page = Template(PROSE.read_text(encoding="utf-8")).substitute(
        results="\n".join(parts), n_queries=len(QUERIES), sheet=f"{pictures.name}/sheet.png"
    )
    arguments.page.write_text(page, encoding="utf-8")


def _by_data_set(files: Sequence[Path]) -> dict[str, Result]:
    """Results of the same data set become one: rows and comparisons after one another, each method once."""
    merged: dict[str, Result] = {}
    for file in files:
        result = json.loads(file.read_text(encoding="utf-8"))
        whole = merged.setdefault(result["dataset"], {**result, "rows": [], "comparison": []})
        seen = {row["method"] for row in whole["rows"]}
        whole["rows"] += [row for row in result["rows"] if row["method"] not in seen]
        whole["comparison"] += result["comparison"]
    return merged


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
    lines += ["**What is left when a modality is missing**: share of a whole product's ten nearest that stay", ""]
    lines += [
        "| method | without picture | without words | bytes an item | seconds to train |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        if row["direction"] == "text→image":
            kept = " | ".join(f"{row[measure]:.3f}" for measure in KEPT)
            lines.append(f"| {row['method']} | {kept} | {row['bytes_per_item']} | {row['seconds']:.0f} |")
    lines.append("")
    for line in result["comparison"]:
        ratio = line["mean_b"] / line["mean_a"] if line["mean_a"] else float("inf")
        said = (
            f"- {line['direction']}: the default finds {line['mean_b']:.3f} first, the best single objective "
            f"({line['best']}) {line['mean_a']:.3f}: {ratio:.2f} times as many; difference {line['difference']:+.3f}, "
            f"{line['confidence']:.0%} interval {line['low']:+.3f} to {line['high']:+.3f}."
        )
        lines.append(_wrapped(said, hanging="  "))
    return "\n".join(lines) + "\n"


def _cell(value: float | None, best: float | None) -> str:
    """A measure, bold where it is the best; a dash where it is not known."""
    if value is None:
        return "–"
    return f"**{value:.3f}**" if value == best else f"{value:.3f}"


def _wrapped(prose: str, hanging: str = "") -> str:
    """Lines of 120 characters at most, as the page's other prose."""
    return fill(prose, 120, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False)


def reviews_section(result: Result) -> str:
    """Traits that only reviews mention: mean average precision by how reviews are pooled."""
    rows = result["rows"]
    lines = [
        "## What only reviewers say",
        "",
        _wrapped(
            f"The demonstration shop ({result['items']:,} products) plants traits that no title, description or "
            "picture shows. A shopper's words for each are searched in the embedding, among the products of the kinds "
            "that can have it; mean average precision, and beside it what an order without knowledge gives."
        ),
        "",
        "| reviews | mean | by chance |",
        "|---|---|---|",
        *(f"| {row['pooling']} | {row['mean']:.3f} | {row['by chance']:.3f} |" for row in rows),
        "",
        _wrapped(
            "By trait, with the default pooling: "
            + ", ".join(f"{k} {v:.2f}" for k, v in rows[0].items() if k not in ("pooling", "mean", "by chance"))
            + "."
        ),
    ]
    return "\n".join(lines) + "\n"


def plot(rows: list[Result], path: Path) -> None:
    """Text→image recall at 1 and 10 of every method, best above; a small PNG."""
    shown = sorted((row for row in rows if row["direction"] == "text→image"), key=lambda row: float(row["recall@1"]))
    figure = Figure(figsize=(6.4, 0.8 + 0.24 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(shown))
    axes.barh(places, [row["recall@10"] for row in shown], color="#c7d2f0", label="recall@10")
    colours = ["#14804a" if row["method"] == "default" else "#3456c4" for row in shown]
    axes.barh(places, [row["recall@1"] for row in shown], color=colours, label="recall@1")
    axes.set_yticks(places, [row["method"] for row in shown], fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_xlabel("text→image: the right picture is first (dark), among the first ten (pale)", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    with Image.open(path) as drawn:
        drawn.convert("P", palette=Image.Palette.ADAPTIVE, colors=32).save(path, optimize=True)


if __name__ == "__main__":
    main()
