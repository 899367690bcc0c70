"""What the project set out to reach in alignment and search, and what the benchmarks reached of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KEPT = {"neighbours_kept_without_image": "without picture", "neighbours_kept_without_text": "without words"}
FLOATS, RESCORED = "float, exact scan", ", rescored from vectors on disk"  # of rows of benchmarks.codes
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Measured:
    """What the benchmarks wrote, as far as it was given.

    Attributes:
        crossmodal: data set → what benchmarks.crossmodal said of it.
        reviews, codes: as benchmarks.reviews and benchmarks.codes wrote them.
        align, search: the rows of benchmarks.align and benchmarks.search.
        sizes: as benchmarks.crossmodal wrote them with --fit.
    """

    crossmodal: Mapping[str, Result]
    reviews: Result | None = None
    codes: Sequence[Result] = ()
    align: Sequence[Result] = ()
    search: Sequence[Result] = ()
    sizes: Sequence[Result] = ()


@dataclass(frozen=True)
class Goal:
    """One number to reach, and what was reached.

    Attributes:
        what: where it was measured, and what.
        bound: it should be at least this; at most, where ``at_most``.
        form: of both numbers, as str.format() has it.
        besides: what else must hold, and in which words the page tells of it.
    """

    what: str
    bound: float
    reached: float
    form: str = "{:.3f}"
    at_most: bool = False
    besides: tuple[bool, str] = (True, "")

    @property
    def met(self) -> bool:
        enough = self.reached <= self.bound if self.at_most else self.reached >= self.bound
        return enough and self.besides[0]


def against_goals(measured: Measured) -> Iterator[str]:
    """What was set out to reach, as far as it was measured, as a table in Markdown; nothing where it was not at all."""
    goals = list(_goals(measured))
    if not goals:
        return
    yield "## What we set out to reach\n"
    yield "| what | goal | reached | |"
    yield "|---|---:|---:|---|"
    for goal in goals:
        bound, reached = goal.form.format(goal.bound), goal.form.format(goal.reached) + goal.besides[1]
        sign, verdict = "≤" if goal.at_most else "≥", "met" if goal.met else "**missed**"
        yield f"| {goal.what} | {sign} {bound} | {reached} | {verdict} |"
    yield ""


def _goals(measured: Measured) -> Iterator[Goal]:
    default = {name: default_row(result) for name, result in measured.crossmodal.items()}
    if row := default.get("fashion_small"):
        for measure, least in (("recall@1", 0.38), ("recall@10", 0.87)):
            yield Goal(f"fashion_small, text→image: {measure}", least, row[measure])
    for name, result in measured.crossmodal.items():
        for line in result["comparison"]:
            sure = line["low"] is not None and line["low"] > 0
            what = f"{name}, {line['direction']}: recall@1, times the best single objective ({line['best']})"
            if line["mean_a"]:
                interval = f", difference {interval_of(line)}"
                yield Goal(what, 1.1, line["mean_b"] / line["mean_a"], besides=(sure, interval))
    for name, row in default.items():
        for measure, part in KEPT.items():
            if row and row.get(measure) is not None:
                yield Goal(f"{name}: share of the ten nearest that an item {part} keeps", 0.85, row[measure])
    for result in measured.codes:
        for asked, floats, codes in codes_of_256_bits(result):
            where = f"{result['dataset']}, {asked}: 256-bit codes, rescored"
            yield Goal(f"{where}: share of the floats' recall@100", 0.98, codes["recall@100"] / floats["recall@100"])
            size = codes["bytes_per_item"] / floats["bytes_per_item"]
            yield Goal(f"{where}: share of the floats' bytes", 1 / 8, size, at_most=True)
    for row in measured.align:
        if row["items"] == 44_000 and row.get("threads", 2) <= 2:  # 2 is the default; earlier files do not say
            yield Goal("training of 44,000 products on two cores, seconds", 180, row["train_s"], "{:.0f}", True)
    for row in measured.search:
        what = f"words searched among {row['items']:,} items{filtered(row)}, p50: milliseconds beside the encoder's"
        yield Goal(what, 5, row["added_p50_ms"], "{:.1f}", True)


def default_row(result: Result) -> Result | None:
    """The row of the default, text→image."""
    rows = (row for row in result["rows"] if (row["method"], row["direction"]) == ("default", "text→image"))
    return next(rows, None)


def codes_of_256_bits(result: Result) -> Iterator[tuple[str, Result, Result]]:
    """What is asked, with the rows of the floats and of learned codes of 256 bits that are rescored."""
    for asked in dict.fromkeys(row["queries"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["queries"] == asked]
        floats = [row for row in rows if row["method"] == FLOATS]
        codes = [row for row in rows if (row["method"], row["bits"]) == ("ITQ" + RESCORED, 256)]
        if floats and codes:
            yield asked, floats[0], codes[0]


def filtered(row: Result) -> str:
    return ", filtered" if row["filtered"] else ""


def interval_of(line: Result) -> str:
    """``95% interval +0.020 to +0.072`` of a Comparison as a dictionary."""
    if line["low"] is None:
        return "too few products for an interval"
    return f"{line['confidence']:.0%} interval {line['low']:+.3f} to {line['high']:+.3f}"
