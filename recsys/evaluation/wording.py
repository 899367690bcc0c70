"""Figures as people read them: the wording that both reports share."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from recsys.evaluation.compare import BETTER, NO_DIFFERENCE, WORSE, Comparison
from recsys.evaluation.page import Html, folded, section, text

TONE = {BETTER: "good", WORSE: "bad", NO_DIFFERENCE: ""}


def say_comparison(metric: str, comparison: Comparison) -> str:
    """The metric under both, its change and how sure that is, as a sentence without a full stop."""
    percent = f"{comparison.confidence:.0%}"
    change = "" if comparison.lift is None else f" ({say_lift(comparison)})"
    sure = say_interval(comparison, f"the {percent} interval of the change goes from {{}} to {{}}")
    return f"{metric} is {say_figure(comparison.mean_b)} against {say_figure(comparison.mean_a)}{change}; {sure}"


def say_figure(value: float) -> str:
    """A metric with the places that matter."""
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"


def say_lift(comparison: Comparison) -> str:
    """The relative change, signed, in percent of A."""
    return "–" if comparison.lift is None else f"{comparison.lift:+.1%}"


def say_interval(comparison: Comparison, words: str, *, relative: bool = True) -> str:
    """``words`` with the ends of the interval: of the lift, in percent, where it has one; else of the difference."""
    if comparison.too_few:
        return "too few for an interval"
    if not relative or comparison.lift_low is None or comparison.lift_high is None:
        return words.format(f"{comparison.low:+.4f}", f"{comparison.high:+.4f}")
    return words.format(f"{comparison.lift_low:+.1%}", f"{comparison.lift_high:+.1%}")


def say_sides(comparison: Comparison) -> str:
    """Shares of the shoppers who are better and worse off."""
    return f"{comparison.share_better:.1%} / {comparison.share_worse:.1%}"


def say_count(value: float) -> str:
    """A number with its thousands parted."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def say_duration(seconds: float) -> str:
    """Seconds as people say them."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"


def say_memory(mib: float) -> str:
    """MiB, or GiB where it is that much."""
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"


def say_window(start: datetime, end: datetime) -> str:
    """The days of [start, end), UTC.

    >>> say_window(datetime(2026, 3, 1), datetime(2026, 3, 8))
    '2026-03-01 to 2026-03-07'
    >>> say_window(datetime(2026, 3, 1), datetime(2026, 3, 1, 9))
    '2026-03-01'
    """
    last = end - timedelta(microseconds=1)
    return f"{start:%Y-%m-%d}" if last.date() == start.date() else f"{start:%Y-%m-%d} to {last:%Y-%m-%d}"


def say_moment(moment: datetime) -> str:
    """A UTC time to the minute."""
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def small_print(notes: Sequence[str], config: Mapping[str, Any]) -> Html:
    """Notes and, folded away, the configuration; nothing where there is neither."""
    blocks = []
    if notes:
        blocks.append(Html("<ul>" + "".join(f"<li>{text(note)}</li>" for note in notes) + "</ul>"))
    if config:
        written = json.dumps(config, indent=2, default=str, ensure_ascii=False)
        blocks.append(folded("Configuration of every stage", Html(f"<pre>{text(written)}</pre>")))
    return section("Small print", "", *blocks) if blocks else Html()
