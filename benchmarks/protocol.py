"""What every benchmark of recommendations shares: measured rows, one table, one JSON form."""

import json
import multiprocessing
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.stages import peak_mib
from recsys.evaluation import metrics
from recsys.evaluation.compare import compare
from recsys.histories import Int32, Int64

OURS = "ours"
DEPTHS = (10, 20, 50, 100, 200)  # places at which the recall of long lists is told


@dataclass(frozen=True)
class Answers:
    """What one method recommends to each test user, and what that cost.

    Attributes:
        method: its name; ours begin with OURS.
        rows: int32 [q, k], best first, -1 in an empty place.
        seconds: wall time of training and answering.
        peak_mib: of the process that did it, which did nothing else.
    """

    method: str
    rows: Int32
    seconds: float
    peak_mib: float


@dataclass(frozen=True)
class Truth:
    """What the test users then took.

    Attributes:
        offsets, rows: ragged, int64 [q + 1] and int32.
        segments: masks of users, for columns of their own.
        breakdowns: what a plot is drawn over, such as "events in the history"; segments of users.
    """

    offsets: Int64
    rows: Int32
    segments: Mapping[str, np.ndarray] = field(default_factory=dict)
    breakdowns: Sequence[metrics.Segments] = ()


def popularity_segments(buyers: Int64) -> metrics.Segments:
    """Users by how many had bought the item that they took next."""
    labels = ("none", "1–4", "5–9", "10–19", "20–49", "50 and more")
    codes = np.digitize(buyers, [1, 5, 10, 20, 50]).astype(np.int8)
    return metrics.Segments("earlier buyers of the item", labels, codes)


def measure(method: str, answer: Callable[..., Int32], *arguments: Any) -> Answers:
    """Run ``answer(*arguments)`` in a fresh process, so that its time and memory are its own."""
    (answers,) = measure_all(_as_one, method, answer, arguments)
    return answers


def measure_all(answer: Callable[..., dict[str, Int32]], *arguments: Any) -> list[Answers]:
    """The same for methods that share their training: method → rows; the whole cost stands beside each."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        rows, seconds, peak = pool.submit(_timed, answer, *arguments).result()
    print(f"  {', '.join(rows)}: {seconds:.1f} s", flush=True)
    return [Answers(method, each, seconds, peak) for method, each in rows.items()]


def _as_one(method: str, answer: Callable[..., Int32], arguments: tuple[Any, ...]) -> dict[str, Int32]:
    return {method: answer(*arguments)}


def _timed(answer: Callable[..., dict[str, Int32]], *arguments: Any) -> tuple[dict[str, Int32], float, float]:
    started = time.perf_counter()
    rows = answer(*arguments)
    return rows, time.perf_counter() - started, peak_mib()


def score(
    answers: Sequence[Answers], truth: Truth, measures: Mapping[str, tuple[str, int]], main: str
) -> list[dict[str, Any]]:
    """One row for each method, with the interval of its difference to the best peer of this very run.

    Args:
        answers: ours and the peers'.
        truth: of the test users.
        measures: column → (metric of recsys.evaluation.metrics, k), such as "map@12" → ("average_precision_at_k", 12).
        main: the column by which the best peer is chosen and intervals are given.
    """
    per_user = {
        each.method: {
            column: getattr(metrics, name)(each.rows, truth.offsets, truth.rows, k)
            for column, (name, k) in measures.items()
        }
        for each in answers
    }
    peers = [each.method for each in answers if not each.method.startswith(OURS)]
    best = max(peers, key=lambda method: per_user[method][main].mean())
    rows = []
    for each in answers:
        mine = per_user[each.method]
        row: dict[str, Any] = {"method": each.method}
        row |= {column: round(float(values.mean()), 5) for column, values in mine.items()}
        for segment, mask in truth.segments.items():
            row[f"{main} {segment}"] = round(float(mine[main][mask].mean()), 5)
        difference = compare(per_user[best][main], mine[main])
        row |= {"seconds": round(each.seconds, 1), "peak_mib": round(each.peak_mib)}
        row["ci_vs_best_peer"] = [round(difference.low, 5), round(difference.high, 5)]
        row["best_peer"] = each.method == best
        row["by"] = {
            segments.name: metrics.mean_by_segment(mine[main].astype(np.float32), segments)
            for segments in truth.breakdowns
        }
        row["recall_by_candidates"] = {
            depth: round(float(metrics.recall_at_k(each.rows, truth.offsets, truth.rows, depth).mean()), 5)
            for depth in DEPTHS
            if depth <= each.rows.shape[1]
        }
        rows.append(row)
    return rows


def show(dataset: str, protocol: str, rows: Sequence[Mapping[str, Any]], path: Path | None) -> None:
    """Print the table, and write it as JSON where a path is given."""
    columns = [column for column in rows[0] if column not in ("best_peer", "by", "recall_by_candidates")]
    cells = [columns, *([_cell(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    print(f"\n{dataset}, {protocol}")
    for line in cells:
        print(
            "  ".join(
                text.ljust(width) if i == 0 else text.rjust(width) for i, (text, width) in enumerate(zip(line, widths))
            )
        )
    if path is not None:
        whole = {"dataset": dataset, "protocol": protocol, "command": _command(), "rows": list(rows)}
        write_json(path, whole)
        print(f"written to {path}")


def _command() -> str:
    """What was typed, files without their folders: those are of this machine only."""
    program, *rest = sys.argv
    words = [Path(word).name if "/" in word else word for word in rest]
    return f"python -m {Path(program).parent.name}.{Path(program).stem} {shlex.join(words)}"


def write_json(path: Path, value: Any) -> None:
    """Write it where the command line said, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(f"{v:+.4f}" for v in value) + "]"
    return f"{value:.4f}" if isinstance(value, float) and abs(value) < 2 else str(value)
