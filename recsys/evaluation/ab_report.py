"""The page of an offline A/B: is B better than A, in what, for whom, and where do their slates differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from recsys.evaluation import plots
from recsys.evaluation.compare import BETTER, NO_DIFFERENCE, WORSE, Comparison
from recsys.evaluation.page import Html, page, plot, section, shelf, side_by_side, table, tag, text, tiles
from recsys.evaluation.sheet import SheetItem
from recsys.evaluation.wording import (
    TONE,
    say_comparison,
    say_count,
    say_figure,
    say_interval,
    say_lift,
    say_moment,
    say_sides,
    small_print,
)


@dataclass(frozen=True)
class SlatePair:
    """One shopper's history and what A and B showed."""

    title: str
    history: Sequence[SheetItem]
    a: Sequence[SheetItem]
    b: Sequence[SheetItem]
    subtitle: str = ""


@dataclass(frozen=True)
class ABInput:
    """All that the A/B page shows; a part that is left empty is left out.

    Attributes:
        name_a, name_b: versions of the two releases.
        created_at: UTC.
        window: the test days in words.
        asked: how exactly, for machines: "start" and "end" of the window, "k", "targets" and so on.
        n_requests: how many requests both answered.
        comparisons: metric → Comparison; the first is the one the verdict speaks of.
        catalogue: figure of the whole ("coverage", "gini") → (A's, B's).
        segments: title ("NDCG@12 by events in the history") → segment → Comparison among its users.
        fallbacks: rung of the ladder → (answers by A, by B).
        overlap: mean share of places whose items A and B have in common, [0, 1].
        examples: shoppers whose slates differ.
        seconds: policy → time that it took to answer all requests.
        notes: sentences that belong to the figures.
    """

    name_a: str
    name_b: str
    created_at: datetime
    window: str
    n_requests: int
    comparisons: Mapping[str, Comparison]
    asked: Mapping[str, Any] = field(default_factory=dict)
    catalogue: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    segments: Mapping[str, Mapping[str, Comparison]] = field(default_factory=dict)
    fallbacks: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    overlap: float | None = None
    examples: Sequence[SlatePair] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()


def ab_report(report: ABInput) -> str:
    """The A/B page as one HTML document."""
    main, comparison = next(iter(report.comparisons.items()))
    blocks = [
        tiles(_ab_facts(report, main, comparison)),
        _ab_metrics(report),
        _ab_segments(report),
        _ab_slates(report),
        small_print(report.notes, {}),
    ]
    eyebrow = f"Offline A/B · {report.window} · made {say_moment(report.created_at)}"
    title = f"{report.name_a} against {report.name_b}"
    return page(title, eyebrow, ab_headline(main, comparison), ab_lead(report), blocks, TONE[comparison.verdict])


def ab_headline(metric: str, comparison: Comparison) -> str:
    """The verdict as a sentence; the command prints the same one.

    >>> from recsys.evaluation.compare import Comparison
    >>> ab_headline("NDCG@12", Comparison(0.04, 0.05, 0.01, 0.25, 0.008, 0.012, 0.2, 0.3, 0.95, 9000, 0.2, 0.1))
    'B is better: NDCG@12 rises by 25.0%, from 0.0400 to 0.0500'
    """
    figures = f"from {say_figure(comparison.mean_a)} to {say_figure(comparison.mean_b)}"
    if comparison.verdict == NO_DIFFERENCE:
        return f"No difference shown between A and B: {metric} goes {figures}"
    verb = "rises" if comparison.difference > 0 else "falls"
    by = f" by {abs(comparison.lift):.1%}" if comparison.lift is not None else ""
    return f"B is {comparison.verdict}: {metric} {verb}{by}, {figures}"


def ab_lead(report: ABInput) -> str:
    """Which release is which, how sure the verdict is, and what the other metrics say."""
    main, comparison = next(iter(report.comparisons.items()))
    others = {
        verdict: [name for name, other in report.comparisons.items() if name != main and other.verdict == verdict]
        for verdict in (BETTER, WORSE, NO_DIFFERENCE)
    }
    said = "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in others.items() if names)
    rest = f" Of the other metrics, under B {said}." if said else ""
    which = f"A is {report.name_a}, B is {report.name_b}."
    return f"{which} {say_comparison(main, comparison)}, over {comparison.n:,} shoppers.{rest}"


def ab_figures(report: ABInput) -> dict[str, Any]:
    """The figures of a report for machines; no examples."""
    main = next(iter(report.comparisons))
    return {
        "a": report.name_a,
        "b": report.name_b,
        "window": report.window,
        **report.asked,
        "created_at": report.created_at.isoformat(),
        "n_requests": report.n_requests,
        "verdict": report.comparisons[main].verdict,
        "decided_on": main,
        "metrics": {name: comparison.as_dict() for name, comparison in report.comparisons.items()},
        "catalogue": {name: {"a": a, "b": b} for name, (a, b) in report.catalogue.items()},
        "segments": {
            title: {label: comparison.as_dict() for label, comparison in segments.items()}
            for title, segments in report.segments.items()
        },
        "fallbacks": {rung: {"a": a, "b": b} for rung, (a, b) in report.fallbacks.items()},
        "overlap": report.overlap,
        "seconds": dict(report.seconds),
    }


def _ab_facts(report: ABInput, main: str, comparison: Comparison) -> list[tuple[str, str, str]]:
    sides = f"B better for {comparison.share_better:.1%}, worse for {comparison.share_worse:.1%}"
    facts = [
        (f"{main} of B", say_figure(comparison.mean_b), f"of A: {say_figure(comparison.mean_a)}"),
        ("change", say_lift(comparison), say_interval(comparison, "95% interval from {} to {}")),
        ("shoppers", f"{comparison.n:,}", sides),
    ]
    if report.overlap is not None:
        facts.append(("in both slates", f"{report.overlap:.0%}", "of the items, on average"))
    return facts


def _ab_metrics(report: ABInput) -> Html:
    rows: list[list[object]] = []
    for name, comparison in report.comparisons.items():
        change = Html(f"{text(say_lift(comparison))}<small>{text(say_interval(comparison, '{} … {}'))}</small>")
        interval = say_interval(comparison, "{} … {}", relative=False)
        absolute = Html(f"{comparison.difference:+.4f}<small>{text(interval)}</small>")
        verdict = tag(comparison.verdict, TONE[comparison.verdict])
        sides = say_sides(comparison)
        rows.append(
            [name, verdict, say_figure(comparison.mean_a), say_figure(comparison.mean_b), absolute, change, sides]
        )
    for name, (a, b) in report.catalogue.items():
        rows.append([name, "", say_figure(a), say_figure(b), f"{b - a:+.4f}", "", ""])
    intro = (
        "Both answered the same requests through the same code. Small print: the 95% interval of the difference "
        "(paired bootstrap over shoppers). A verdict needs an interval without zero in it. With many metrics, one in "
        "twenty would show a difference by chance: decide on the first. More novelty or diversity counts as better."
    )
    columns = ["metric", "B is", "A", "B", "difference", "of A", "shoppers better / worse"]
    figure = plot(plots.forest(report.comparisons), "Every metric against zero", "Green: B is better. Orange: worse.")
    return section("Metrics", intro, table(columns, rows, numbers_from=2), figure)


def _ab_segments(report: ABInput) -> Html:
    figures = []
    for title, segments in report.segments.items():
        labels = [f"{label}\n{say_count(comparison.n)}" for label, comparison in segments.items()]
        series = {
            "A": [comparison.mean_a for comparison in segments.values()],
            "B": [comparison.mean_b for comparison in segments.values()],
        }
        bars = plots.grouped_bars(labels, series, title.partition(" by ")[0], colours=(plots.A, plots.B))
        figures.append(plot(bars, title, "Below each group: shoppers."))
        figures.append(plot(plots.forest(segments), f"Change of {title}", "Small groups have wide intervals."))
    return section("For whom", "Where the difference comes from.", side_by_side(figures)) if figures else Html()


def _ab_slates(report: ABInput) -> Html:
    blocks = []
    if report.fallbacks:
        rows = [(rung.replace("_", " "), f"{a:,}", f"{b:,}") for rung, (a, b) in report.fallbacks.items()]
        blocks.append(table(["answered by", "A", "B"], rows))
    for pair in report.examples:
        blocks += [
            Html(f'<hr><h3>{text(pair.title)}</h3><div class="note">{text(pair.subtitle)}</div>'),
            shelf("History, newest last", list(pair.history)[-12:], ranked=False, empty="nothing is known yet"),
            shelf("A", pair.a, ranked=True),
            shelf("B", pair.b, ranked=True),
        ]
    intro = "The same shopper, the same moment, both slates. Green: then really bought."
    return section("Where the slates differ", intro, *blocks) if blocks else Html()
