"""Plots as inline SVG: drawn by matplotlib without a screen, coloured by the page's own light and dark palette.

Every function returns an ``<svg>`` element. Colours are placeholders while matplotlib draws, and CSS variables in the
result; text stays text, in the page's font.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from io import StringIO
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from recsys.evaluation.compare import BETTER, WORSE, Comparison

# Placeholder → CSS variable of page.css. No real colour is so close to black.
_PALETTE = {
    "#010101": "--ink",
    "#010102": "--muted",
    "#010103": "--line",
    "#010104": "--a",
    "#010105": "--b",
    "#010106": "--good",
    "#010107": "--bad",
    "#010108": "--third",
    "#010109": "--fourth",
    "#01010a": "--fifth",
}
INK, MUTED, LINE, A, B, GOOD, BAD, THIRD, FOURTH, FIFTH = _PALETTE
SERIES = (B, A, THIRD, FOURTH, FIFTH)  # colours in the order in which series are named
ROUNDS = (("-", "o"), ("--", "s"), (":", "^"))  # line and marker: what tells series of one colour apart

_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a shop's "$5" is not a formula
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
}
_WIDTH = 5.6  # inches: 403 units of the view box, so that text is near its true size on a phone


def forest(comparisons: Mapping[str, Comparison], label: str = "change of B against A, % of A") -> str:
    """One line a metric (or segment): the relative difference and its interval, where it has one, against zero.

    Those whose A is zero have no relative difference and are left out.
    """
    shown = {name: comparison for name, comparison in comparisons.items() if comparison.lift is not None}
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(0.7 + 0.34 * max(1, len(shown)))
        axes.axvline(0, color=INK, linewidth=1)
        for place, comparison in enumerate(shown.values()):
            colour = {BETTER: GOOD, WORSE: BAD}.get(comparison.verdict, A)
            ends = [100 * end for end in (comparison.lift_low, comparison.lift_high) if end is not None]
            if ends and not comparison.too_few:
                axes.plot(ends, [place, place], color=colour, linewidth=3)
            axes.plot(100 * (comparison.lift or 0), place, "o", color=colour, markersize=7)
        axes.set_yticks(range(len(shown)), list(shown), color=INK)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.locator_params(axis="x", nbins=5)  # "+2500%" is wide: more of them would run into each other
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}%" if value else "0"))
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(label)
        return _svg(figure, "Differences with their intervals: " + ", ".join(shown))


def bars(values: Mapping[str, float], notes: Mapping[str, str] | None = None, unit: str = "") -> str:
    """Horizontal bars in the given order, each with its figure (and note) behind it."""
    notes = notes or {}
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(0.25 + 0.29 * max(1, len(values)))
        places = range(len(values))
        axes.barh(places, list(values.values()), height=0.62, color=B)
        widest = max(values.values(), default=0) or 1
        for place, (name, value) in enumerate(values.items()):
            words = " · ".join(filter(None, (f"{_short(value)}{unit}", notes.get(name, ""))))
            axes.text(value + widest * 0.015, place, words, va="center", color=MUTED, fontsize=8.5)
        axes.set_yticks(places, list(values), color=INK)
        axes.set_ylim(len(values) - 0.4, -0.6)
        axes.set_xlim(0, widest * (1.5 if notes else 1.18))
        axes.grid(visible=False)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        return _svg(figure, "Bars: " + ", ".join(f"{name} {_short(value)}{unit}" for name, value in values.items()))


def grouped_bars(
    groups: Sequence[str], series: Mapping[str, Sequence[float]], label: str, colours: Sequence[str] = SERIES
) -> str:
    """Upright bars, one of each series in every group; NaN leaves a gap."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(2.7)
        width = 0.8 / max(1, len(series))
        for number, (name, values) in enumerate(series.items()):
            places = [group + (number - (len(series) - 1) / 2) * width for group in range(len(groups))]
            axes.bar(places, values, width=width * 0.92, color=colours[number % len(colours)], label=name)
        axes.set_xticks(range(len(groups)), list(groups))
        axes.set_ylabel(label)
        axes.grid(axis="x", visible=False)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        _legend(axes, len(series))
        return _svg(figure, f"{label} by group: {', '.join(series)}")


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]], across: str, up: str, *, from_zero: bool = False
) -> str:
    """Lines through (x, y) points, named at the top."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(2.8)
        for number, (name, points) in enumerate(series.items()):
            line, marker = ROUNDS[number // len(SERIES) % len(ROUNDS)]
            axes.plot(
                *zip(*points),
                linestyle=line,
                marker=marker if len(points) <= 20 else "",
                color=SERIES[number % len(SERIES)],
                label=name,
                markersize=3.5,
            )
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if from_zero:
            axes.set_ylim(bottom=0)
        _legend(axes, len(series))
        return _svg(figure, f"{up} against {across}: {', '.join(series)}")


def _figure(height: float) -> tuple[Figure, Axes]:
    """A figure of its own, outside pyplot: nothing to close, nothing shared between threads."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def _legend(axes: Axes, n_series: int) -> None:
    if n_series > 1:
        length = 1.2 if n_series <= len(SERIES) else 2.6  # a dash or two must fit
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0, handlelength=length, columnspacing=1.2
        )


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _svg(figure: Figure, description: str) -> str:
    # The ids inside one SVG must not meet those of another on the same page, and must be the same on every run.
    buffer = StringIO()
    with matplotlib.rc_context({"svg.hashsalt": description}), warnings.catch_warnings():
        # Letters that matplotlib's font lacks stay text, and the browser has them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    for placeholder, variable in _PALETTE.items():
        svg = svg.replace(placeholder, f"var({variable})")
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", svg)
    view = re.search(r'viewBox="[^"]*"', svg)
    opening = f'<svg role="img" aria-label="{escape(description)}" {view.group() if view else ""}>'
    return re.sub(r"<svg[^>]*>", lambda _: opening, svg, count=1)
