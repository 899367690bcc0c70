"""What every benchmark of recommendations shares: measured rows, one table, one JSON form."""

import json
import multiprocessing
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.stages import peak_mib
from recsys.evaluation import metrics
from recsys.evaluation.compare import compare
from recsys.histories import Int32, Int64

OURS = "ours"
FIRST_STAGE = f"{OURS}: retrieval only"  # the same release without its ranker
STAGES_BY = "ndcg@10"  # the column in which stages are compared, in every table
BESIDE = ("best_peer", "by", "recall_by_candidates", "ci_of_what_it_lacks")  # of a row, and no column of a table
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
class LeftOut:
    """A method that failed: its row is missing, those of the others stand."""

    method: str
    reason: str


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


def measure(method: str, answer: Callable[..., Int32], *arguments: Any) -> Answers | LeftOut:
    """Run ``answer(*arguments)`` in a fresh process, so that its time and memory are its own."""
    (answers,) = measure_all(method, _as_one, method, answer, arguments)
    return answers


def measure_all(
    method: str, answer: Callable[..., dict[str, Int32]], *arguments: Any
) -> Sequence[Answers] | Sequence[LeftOut]:
    """The same for methods that share their training: method → rows; the whole cost stands beside each.

    ``method`` is what is left out where they fail.
    """
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            rows, seconds, peak = pool.submit(_timed, answer, *arguments).result()
    except Exception as error:  # whatever it was, the other methods' hours are not lost with it
        failed = why_left_out(method, error)
        print(f"  {method}: left out: {failed.reason}", flush=True)
        return [failed]
    print(f"  {', '.join(rows)}: {seconds:.1f} s", flush=True)
    return [Answers(name, each, seconds, peak) for name, each in rows.items()]


def why_left_out(method: str, error: Exception) -> LeftOut:
    """What a process that worked for ``method`` failed with; the traceback goes to standard error."""
    traceback.print_exception(error)
    killed = isinstance(error, BrokenProcessPool)
    reason = "its process was killed, perhaps for want of memory" if killed else f"{type(error).__name__}: {error}"
    return LeftOut(method, reason)


def _as_one(method: str, answer: Callable[..., Int32], arguments: tuple[Any, ...]) -> dict[str, Int32]:
    return {method: answer(*arguments)}


def _timed(answer: Callable[..., dict[str, Int32]], *arguments: Any) -> tuple[dict[str, Int32], float, float]:
    started = time.perf_counter()
    rows = answer(*arguments)
    return rows, time.perf_counter() - started, peak_mib()


def score(
    answers: Sequence[Answers | LeftOut], truth: Truth, measures: Mapping[str, tuple[str, int]], main: str
) -> list[dict[str, Any]]:
    """One row for each method, with the interval of its difference to the best peer of this very run, if it has any.

    A row of a night that lacks a part has the interval of what is lost without it: ours less that row.

    Args:
        answers: ours and the peers'; what was left out gets no row.
        truth: of the test users.
        measures: column → (metric of recsys.evaluation.metrics, k), such as "map@12" → ("average_precision_at_k", 12);
            STAGES_BY among them.
        main: the column by which the best peer is chosen and intervals are given.
    """
    answered = [each for each in answers if isinstance(each, Answers)]
    per_user = {
        each.method: {
            column: getattr(metrics, name)(each.rows, truth.offsets, truth.rows, k)
            for column, (name, k) in measures.items()
        }
        for each in answered
    }
    peers = [each.method for each in answered if not each.method.startswith(OURS)]
    best = max(peers, key=lambda method: per_user[method][main].mean(), default=None)
    rows = []
    for each in answered:
        mine = per_user[each.method]
        row: dict[str, Any] = {"method": each.method}
        row |= {column: round(float(values.mean()), 5) for column, values in mine.items()}
        for segment, mask in truth.segments.items():
            if mask.any():  # a mean over nobody is no number
                row[f"{main} {segment}"] = round(float(mine[main][mask].mean()), 5)
        row |= {"seconds": round(each.seconds, 1), "peak_mib": round(each.peak_mib)}
        if best is not None:
            difference = compare(per_user[best][main], mine[main])
            row["ci_vs_best_peer"] = [round(difference.low, 5), round(difference.high, 5)]
        if each.method.startswith(f"{OURS}:") and OURS in per_user:
            lost = compare(mine[STAGES_BY], per_user[OURS][STAGES_BY])
            row["ci_of_what_it_lacks"] = [round(lost.low, 5), round(lost.high, 5)]
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


def left_out(answers: Sequence[Answers | LeftOut]) -> dict[str, str]:
    """Method → why it failed."""
    return {each.method: each.reason for each in answers if isinstance(each, LeftOut)}


def show(
    dataset: str, protocol: str, rows: Sequence[Mapping[str, Any]], path: Path | None, missing: Mapping[str, str]
) -> None:
    """Print the table, and write it as JSON where a path is given.

    Args:
        dataset, protocol: its name.
        rows: of score().
        path: of the JSON.
        missing: of left_out().

    Raises:
        SystemExit: ours is among what was left out; the table has been printed and written by then.
    """
    print(f"\n{dataset}, {protocol}")
    if rows:
        _print_table(rows)
    for method, reason in missing.items():
        print(f"left out: {method}: {reason}")
    if path is not None:
        whole = {"dataset": dataset, "protocol": protocol, "command": _command(), "rows": list(rows)}
        write_json(path, whole | ({"left_out": dict(missing)} if missing else {}))
        print(f"written to {path}")
    if OURS in missing:
        raise SystemExit(f"{OURS}: expected an answer, came {missing[OURS]}")


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    columns = [column for column in rows[0] if column not in BESIDE]
    cells = [columns, *([_cell(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print(
            "  ".join(
                text.ljust(width) if i == 0 else text.rjust(width) for i, (text, width) in enumerate(zip(line, widths))
            )
        )


def _command() -> str:
    """What was typed; absolute paths without their folders, which are of this machine only."""
    program, *rest = sys.argv
    return f"python -m {Path(program).parent.name}.{Path(program).stem} {shlex.join(map(_portable, rest))}"


def _portable(word: str) -> str:
    flag, equals, path = word.rpartition("=")
    return f"{flag}{equals}{Path(path).name}" if path.startswith("/") else word


def write_json(path: Path, value: Any) -> None:
    """Write it where the command line said, folders included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(f"{v:+.4f}" for v in value) + "]"
    return f"{value:.4f}" if isinstance(value, float) and abs(value) < 2 else str(value)
