"""The page of a night: is the release good, where does its quality come from, what did it cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from recsys.evaluation import plots
from recsys.evaluation.compare import BETTER, NO_DIFFERENCE, WORSE, Comparison
from recsys.evaluation.page import Html, join, page, plot, section, shelf, side_by_side, table, text, tiles
from recsys.evaluation.sheet import Sheet
from recsys.evaluation.wording import (
    TONE,
    say_comparison,
    say_count,
    say_duration,
    say_figure,
    say_interval,
    say_lift,
    say_memory,
    say_moment,
    small_print,
)
from recsys.ranking.shift import FeatureShift

OURS = "release"  # what the release is called among the policies of ReportInput


@dataclass(frozen=True)
class Stage:
    """One step of the night: wall seconds and the process's peak memory when it ended, MiB."""

    name: str
    seconds: float
    peak_mib: float | None = None
    note: str = ""


@dataclass(frozen=True)
class ReportInput:
    """All that the night's page shows; a part that is left empty is left out.

    Attributes:
        version: of the release.
        data_cutoff, created_at: UTC.
        window: the test days in words, as "21 September 2020".
        stages: in the order in which they ran.
        data: what went in: label → count or words.
        comparisons: baseline → metric → Comparison with the baseline as A and the release as B. The metric named first
            is the one the headline speaks of.
        catalogue: policy (OURS or a baseline) → {"coverage": share, "gini": index}.
        alignment: what is measured, with its unit → its value after each epoch.
        feature_importance: feature → total gain of its splits.
        feature_shifts: between what the ranker learned from and what it was shown, the largest first.
        recall_by_candidates: source → (candidates kept, recall among them).
        ndcg_by_history: policy → history segment → (mean, users), as of metrics.mean_by_segment.
        examples: shoppers of the test window, with what they then bought marked.
        config: of every stage, for the reader who wants to know exactly.
        notes: sentences that belong to the figures.
    """

    version: str
    data_cutoff: datetime
    created_at: datetime
    window: str = ""
    stages: Sequence[Stage] = ()
    data: Mapping[str, int | float | str] = field(default_factory=dict)
    comparisons: Mapping[str, Mapping[str, Comparison]] = field(default_factory=dict)
    catalogue: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    alignment: Mapping[str, Sequence[float]] = field(default_factory=dict)
    feature_importance: Mapping[str, float] = field(default_factory=dict)
    feature_shifts: Sequence[FeatureShift] = ()
    recall_by_candidates: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    ndcg_by_history: Mapping[str, Mapping[str, tuple[float, int]]] = field(default_factory=dict)
    examples: Sequence[Sheet] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


def night_report(report: ReportInput) -> str:
    """The night's page as one HTML document."""
    main = next((next(iter(metrics)) for metrics in report.comparisons.values() if metrics), None)
    best = _best_baseline(report.comparisons, main)
    if main and best:
        comparison = report.comparisons[best][main]
        headline = _night_headline(best, main, comparison)
        window = report.window or "the test window"
        lead = f"{say_comparison(main, comparison)}, over {comparison.n:,} shoppers of {window}."
        tone = TONE[comparison.verdict]
    else:
        headline, lead, tone = f"Release {report.version} is made", "No baseline was compared with it.", ""
    blocks = [
        tiles(_night_facts(report, main, best)),
        _baselines(report, best),
        _training(report),
        _shifts(report.feature_shifts),
        _examples(report.examples),
        _costs(report),
        small_print(report.notes, report.config),
    ]
    times = f"data up to {say_moment(report.data_cutoff)} · made {say_moment(report.created_at)}"
    return page(f"Release {report.version}", f"Release {report.version} · {times}", headline, lead, blocks, tone)


def _night_headline(baseline: str, metric: str, comparison: Comparison) -> str:
    if comparison.verdict == NO_DIFFERENCE:
        return f"No difference shown between this release and {baseline}, the best baseline, in {metric}"
    by = f" by {abs(comparison.lift):.1%}" if comparison.lift is not None else ""
    verb = "beats" if comparison.verdict == BETTER else "loses to"
    return f"This release {verb} {baseline}, the best baseline,{by} in {metric}"


def _best_baseline(comparisons: Mapping[str, Mapping[str, Comparison]], metric: str | None) -> str | None:
    named = [name for name, metrics in comparisons.items() if metric in metrics]
    return max(named, key=lambda name: comparisons[name][metric or ""].mean_a, default=None)


def _night_facts(report: ReportInput, main: str | None, best: str | None) -> list[tuple[str, str, str]]:
    facts = []
    if main and best:
        comparison = report.comparisons[best][main]
        facts.append((main, say_figure(comparison.mean_b), f"{best}: {say_figure(comparison.mean_a)}"))
        facts.append((f"against {best}", say_lift(comparison), say_interval(comparison, "95% interval from {} to {}")))
    if report.stages:
        slowest = max(report.stages, key=lambda stage: stage.seconds)
        facts.append(("the night", say_duration(sum(s.seconds for s in report.stages)), f"longest: {slowest.name}"))
        peaks = [stage.peak_mib for stage in report.stages if stage.peak_mib is not None]
        if peaks:
            facts.append(("peak memory", say_memory(max(peaks)), "of the whole process"))
    return facts


def _baselines(report: ReportInput, best: str | None) -> Html:
    if not report.comparisons or best is None:
        return Html()
    rows: list[list[object]] = []
    for metric, comparison in report.comparisons[best].items():
        ours = Html(f"<strong>{say_figure(comparison.mean_b)}</strong>")
        rows.append([metric, ours, *(_baseline_cell(compared.get(metric)) for compared in report.comparisons.values())])
    policies = [OURS, *report.comparisons]
    for name in dict.fromkeys(name for figures in report.catalogue.values() for name in figures):
        figures = [report.catalogue.get(policy, {}).get(name) for policy in policies]
        rows.append([name, *("–" if figure is None else say_figure(figure) for figure in figures)])
    intro = (
        "Every policy answered the same requests from the whole catalogue, knowing only what came before them. Under a "
        "baseline's figure: how much higher or lower this release is, with the 95% interval of the paired bootstrap."
    )
    forests = [
        plot(plots.forest(compared, f"this release against {name}, %"), f"Against {name}")
        for name, compared in report.comparisons.items()
    ]
    return section(
        "Against the baselines", intro, table(["", "this release", *report.comparisons], rows), side_by_side(forests)
    )


def _baseline_cell(comparison: Comparison | None) -> Html:
    if comparison is None:
        return text("–")
    tone = {BETTER: "up", WORSE: "down"}.get(comparison.verdict, "")
    note = join([text(say_lift(comparison)), Html("<br>"), text(say_interval(comparison, "{} … {}"))])
    return Html(f'{say_figure(comparison.mean_a)}<small class="{tone}">{note}</small>')


def _training(report: ReportInput) -> Html:
    figures = []
    if report.recall_by_candidates:
        svg = plots.curves(report.recall_by_candidates, "candidates kept", "recall", from_zero=True)
        figures.append(
            plot(svg, "Recall against the number of candidates", "What retrieval misses, no ranker can find.")
        )
    if report.ndcg_by_history:
        groups = list(dict.fromkeys(label for by in report.ndcg_by_history.values() for label in by))
        sizes = {label: by[label][1] for by in report.ndcg_by_history.values() for label in by}
        ours_first = sorted(report.ndcg_by_history, key=lambda policy: policy != OURS)
        series = {
            "this release" if policy == OURS else policy: [
                report.ndcg_by_history[policy].get(label, (float("nan"), 0))[0] for label in groups
            ]
            for policy in ours_first
        }
        svg = plots.grouped_bars([f"{label}\n{say_count(sizes[label])}" for label in groups], series, "NDCG")
        figures.append(plot(svg, "NDCG by length of the history", "Events known of the shopper; below: shoppers."))
    for measured, values in report.alignment.items():
        points = [(float(epoch), float(value)) for epoch, value in enumerate(values, start=1)]
        svg = plots.curves({measured: points}, "epoch", measured)
        note = "Pictures, words and purchases in one space; the epoch that is best on held-out items is kept."
        figures.append(plot(svg, f"Alignment: {measured}", note))
    if report.feature_importance:
        top = dict(sorted(report.feature_importance.items(), key=lambda pair: -pair[1])[:15])
        total = sum(report.feature_importance.values()) or 1
        svg = plots.bars({name: 100 * gain / total for name, gain in top.items()}, unit="%")
        note = f"Share of the gain of all splits; {len(top)} of {len(report.feature_importance)} features."
        figures.append(plot(svg, "What the ranker looks at", note))
    return section("Where the quality comes from", "", side_by_side(figures)) if figures else Html()


def _shifts(shifts: Sequence[FeatureShift]) -> Html:
    if not shifts:
        return Html()
    intro = (
        "The features that the ranker learned from beside those that it was shown in the test window: a population "
        "stability index (PSI) below .1 is nothing, from .1 to .25 worth a look, above .25 the feature means something "
        "else in serving. Where a feature is the shopper's own, chance alone makes it about ten over the shoppers of a "
        "label window plus ten over those of the test window."
    )
    rows = [
        [each.feature, f"{each.psi:.3f}", f"{each.missing_in_training:.1%}", f"{each.missing_in_serving:.1%}"]
        for each in shifts
    ]
    columns = ["the largest shifts", "PSI", "missing in training", "missing in serving"]
    return section("From training to serving", intro, table(columns, rows))


def _examples(sheets: Sequence[Sheet]) -> Html:
    if not sheets:
        return Html()
    blocks = []
    for place, sheet in enumerate(sheets):
        rule = Html("<hr>") if place else Html()
        heading = Html(f'{rule}<h3>{text(sheet.title)}</h3><div class="note">{text(sheet.subtitle)}</div>')
        history = shelf("History, newest last", list(sheet.history)[-12:], ranked=False, empty="nothing is known yet")
        blocks += [heading, history, shelf("Recommended", sheet.recommended, ranked=True)]
    intro = (
        "Shoppers of the test window: what was known of them, and what this release shows. Green: then really bought."
    )
    return section("Look at it", intro, *blocks)


def _costs(report: ReportInput) -> Html:
    blocks = []
    if report.stages:
        notes = {
            stage.name: " · ".join(filter(None, (say_memory(stage.peak_mib) if stage.peak_mib else "", stage.note)))
            for stage in report.stages
        }
        svg = plots.bars({stage.name: stage.seconds for stage in report.stages}, notes, unit=" s")
        blocks.append(plot(svg, "Stages", "Wall time, and the peak memory of the process when the stage ended."))
    if report.data:
        rows = [(label, say_count(n) if isinstance(n, int | float) else n) for label, n in report.data.items()]
        blocks.append(table(["what went in", ""], rows))
    return section("The night", "", side_by_side(blocks)) if blocks else Html()
