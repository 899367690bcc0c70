"""The page of recommendation quality: ``python -m benchmarks.quality [--results DIR] [--page docs/quality.md]``

DIR holds what the commands of the tables wrote with ``--json DIR/<name>.json``, under any names. The page's own stand
beside its pictures, so that one table can be measured again and the page stays whole. It is made of nothing else: what
was reached of the goals (see goals.py), and for each file a table, the best peer in it marked, with plots. Conclusions,
written by hand, stand at the end where there is a ``conclusions.md`` in DIR.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.goals import against_goals
from benchmarks.protocol import BESIDE, FIRST_STAGE, OURS, STAGES_BY

OURS_COLOUR, PEER_COLOUR = "#1f6f8b", "#b8b8b8"

HEAD = """# How good the recommendations are

The tables of this page, their plots and the words below them were written by these commands, and can be written again:

```bash
{commands}
python -m benchmarks.quality
```

Files that are named without a folder lay in one of the machine's own. Put yours before the name: of data for instance
`../shared/data/amazon_sequences/` and `../shared/data/`, of `--json` the `docs/quality/` that the last command reads.

`ours` is the shipped night (`recsys retrain pipelines/nightly.toml`) with its shipped configuration, asked through
`recommend()`; nothing was set by hand, and what it tunes, it tunes on an inner split of train. `ours: retrieval only`
is the same release without its ranker, and `ours: without …` are nights that lack a part: without the tower there is no
space of tastes at all, without behaviour none in the alignment. Peers are what people use
today, on the same data in the same run; the best of them is marked ◂. The interval is a paired bootstrap over users,
95%, of the difference to that peer. Seconds and memory are of the whole, training, tuning and answering, on two cores.
"""

FOOT = """## What we read in it

No command wrote this part: it was written by hand, and measuring again does not change it.

{conclusions}"""


def main() -> None:
    parser = argparse.ArgumentParser(description="The page of recommendation quality")
    parser.add_argument("--results", type=Path, default=Path("docs/quality"))
    parser.add_argument("--page", type=Path, default=Path("docs/quality.md"))
    args = parser.parse_args()
    files = sorted(args.results.glob("*.json"))
    results = {file.stem: json.loads(file.read_text()) for file in files}
    if not results:
        raise SystemExit(f"{args.results}: expected the JSON files of the tables, came none")
    pictures = args.page.parent / args.page.stem
    pictures.mkdir(parents=True, exist_ok=True)
    asked = [result["command"] for result in results.values() if result.get("command")]
    commands = "\n".join(dict.fromkeys(asked))  # one that wrote two tables stands there once
    parts = [HEAD.format(commands=commands), *against_goals(list(results.values()))]
    for name, result in results.items():
        parts.append("\n".join(section(name, result, pictures)))
    conclusions = args.results / "conclusions.md"
    if conclusions.exists():
        parts.append(FOOT.format(conclusions=conclusions.read_text(encoding="utf-8")))
    args.page.write_text("\n".join(parts).rstrip() + "\n")
    print(f"written to {args.page}")


def section(name: str, result: Mapping[str, Any], pictures: Path) -> Iterator[str]:
    """One table, what it says in words, and its plots."""
    rows: list[dict[str, Any]] = result["rows"]
    yield f"## {result['dataset']}: {result['protocol']}\n"
    for method, reason in result.get("left_out", {}).items():
        yield f"Left out: {method} ({reason}).\n"
    if not rows:
        return
    main_column = next(column for column in rows[0] if column != "method")
    yield from table(rows)
    yield ""
    yield in_words(rows, main_column) + "\n"
    for what, draw in (("stages", draw_stages), ("breakdowns", draw_breakdowns), ("candidates", draw_candidates)):
        figure = draw(rows, main_column)
        if figure is not None:
            path = pictures / f"{name}_{what}.png"
            figure.savefig(path, dpi=110, bbox_inches="tight")
            plt.close(figure)
            yield f"![{result['dataset']}, {result['protocol']}: {what}]({pictures.name}/{path.name})\n"


def table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The rows in Markdown."""
    columns = [column for column in rows[0] if column not in BESIDE]
    yield "| " + " | ".join(columns) + " |"
    yield "| --- |" + " ---: |" * (len(columns) - 1)
    for row in rows:
        method = (
            f"**{row['method']}**" if row["method"] == "ours" else row["method"] + (" ◂" if row["best_peer"] else "")
        )
        yield "| " + " | ".join([method, *(_cell(row[column], column) for column in columns[1:])]) + " |"


def in_words(rows: Sequence[Mapping[str, Any]], column: str) -> str:
    """Ours against the best peer and against its own first stage, and what each part brings."""
    by_method = {row["method"]: row for row in rows}
    ours, first = by_method.get(OURS), by_method.get(FIRST_STAGE)
    peer = next((row for row in rows if row["best_peer"]), None)
    if ours is None:
        return "`ours` gave no answer."
    said = [f"`ours` is at {ours[column]:.4f} {column}"]
    if peer is not None:
        times = f"{ours[column] / peer[column]:.2f} ×" if peer[column] else "beside"
        said[0] += f", {times} the best peer of the run ({peer['method']}, {peer[column]:.4f})"
        said[0] += f"; the interval of the difference is {_cell(ours['ci_vs_best_peer'])}"
    said[0] += "."
    if first is not None:
        changed = _change(first[column], ours[column])
        said.append(f"The ranker changes its own candidates' order by {changed}{_surely(first)}.")
    for row in rows:
        if row["method"].startswith("ours: without"):
            part = row["method"].removeprefix("ours: without ")
            said.append(f"Without {part}: {_change(ours[column], row[column])}{_surely(row)}.")
    return " ".join(said)


def _surely(row: Mapping[str, Any]) -> str:
    """The interval of what is lost without the part, where it was measured."""
    interval = row.get("ci_of_what_it_lacks")
    return f" ({STAGES_BY} that it brings: {_cell(interval)})" if interval else ""


def _change(before: float, after: float) -> str:
    return f"{after / before - 1:+.1%}" if before else f"{after:+.4f} from 0"


def draw_stages(rows: Sequence[Mapping[str, Any]], column: str) -> Any:
    """Every row as a bar."""
    figure, axes = plt.subplots(figsize=(7, 0.3 * len(rows) + 0.8))
    colours = [OURS_COLOUR if row["method"].startswith("ours") else PEER_COLOUR for row in rows]
    axes.barh([row["method"] for row in rows][::-1], [row[column] for row in rows][::-1], color=colours[::-1])
    axes.set_xlabel(column)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_breakdowns(rows: Sequence[Mapping[str, Any]], column: str) -> Any:
    """Ours and the best peer by segments of users: where the gain lies."""
    shown = [row for row in rows if row["method"] == "ours" or row["best_peer"]]
    names = list(shown[0].get("by") or {}) if shown else []
    if not names:
        return None
    figure, all_axes = plt.subplots(1, len(names), figsize=(4.5 * len(names), 3), squeeze=False)
    for axes, name in zip(all_axes[0], names):
        labels = list(shown[0]["by"][name])
        for number, row in enumerate(sorted(shown, key=lambda row: row["method"] == "ours")):
            values = [row["by"][name][label][0] for label in labels]
            places = [place + 0.4 * number - 0.2 for place in range(len(labels))]
            axes.bar(
                places, values, 0.4, label=row["method"], color="#1f6f8b" if row["method"] == "ours" else "#b8b8b8"
            )
        sizes = [shown[0]["by"][name][label][1] for label in labels]
        axes.set_xticks(range(len(labels)), [f"{label}\n{size:,}" for label, size in zip(labels, sizes)], fontsize=7)
        axes.set_xlabel(f"{name} (below: users)")
        axes.set_ylabel(column)
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[0][0].legend(fontsize=8, frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    figure.tight_layout()
    return figure


def draw_candidates(rows: Sequence[Mapping[str, Any]], column: str) -> Any:
    """Recall of the first stage against the number of candidates."""
    first = next((row for row in rows if row["method"] == FIRST_STAGE), None)
    recall = (first or {}).get("recall_by_candidates") or {}
    if len(recall) < 3:
        return None
    figure, axes = plt.subplots(figsize=(4.5, 3))
    axes.plot([int(depth) for depth in recall], list(recall.values()), marker="o", color=OURS_COLOUR)
    axes.set_xlabel("candidates, in the order of retrieval")
    axes.set_ylabel("recall")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _cell(value: Any, column: str = "") -> str:
    if column == "seconds":
        return f"{value:.1f}"
    if isinstance(value, list):
        return "[" + ", ".join(f"{each:+.4f}" for each in value) + "]"
    return f"{value:.4f}" if isinstance(value, float) and abs(value) < 2 else str(value)


if __name__ == "__main__":
    main()
