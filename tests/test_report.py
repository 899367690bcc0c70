"""The reports in a real browser: what they say, that they stand alone, and that nothing a shop writes breaks them."""

import doctest
import re
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape

import numpy as np
import pytest
from PIL import Image

from recsys.evaluation import ab_report as ab_module
from recsys.evaluation import plots, wording
from recsys.evaluation.ab_report import ABInput, SlatePair, ab_lead, ab_report
from recsys.evaluation.compare import compare, compare_all
from recsys.evaluation.report import ReportInput, Stage, night_report
from recsys.evaluation.sheet import Sheet, SheetItem
from recsys.evaluation.wording import say_comparison

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NASTY = """<script>document.title = "broken in"</script> & "quotes' $x $"""
MOMENT = datetime(2026, 3, 10, 2, 15, tzinfo=UTC)


def metrics_of(rate: float, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    ndcg = np.where(rng.random(2000) < rate, rng.random(2000), 0)
    return {"NDCG@12": ndcg, "Recall@12": np.minimum(1, ndcg * 1.3)}


@pytest.fixture
def night(tmp_path) -> ReportInput:
    picture = tmp_path / "item.png"
    Image.new("RGB", (60, 80), (200, 30, 30)).save(picture)
    ours = metrics_of(0.4, 0)
    return ReportInput(
        version="20260310T000000-abc",
        data_cutoff=MOMENT,
        created_at=MOMENT,
        window="9 March 2026",
        stages=[Stage("encode", 61.5, 1310, "6,888 new"), Stage("ranker", 22.0)],
        data={"items": 17_986, "first event": "2026-01-01"},
        comparisons={
            "popularity": compare_all(metrics_of(0.1, 1), ours),
            "item→item": compare_all(metrics_of(0.3, 2), ours),
        },
        catalogue={"release": {"coverage": 0.41, "gini": 0.7}, "popularity": {"coverage": 0.001}},
        alignment={"training loss, nats": [4.0, 3.0, 2.5], "held-out mean reciprocal rank": [0.1, 0.3, 0.32]},
        feature_importance={NASTY: 3.0, "price": 1.0},
        recall_by_candidates={"all sources": [(10, 0.1), (100, 0.4)], "トレンド": [(10, 0.05), (100, 0.1)]},
        ndcg_by_history={"release": {"none": (0.1, 900), "1–2": (0.2, 1100)}, "popularity": {"none": (0.1, 900)}},
        examples=[
            Sheet(NASTY, [SheetItem("h", NASTY)], [SheetItem("r", "Red hat", "€5", picture, NASTY, bought=True)])
        ],
        config={"ranker": {"leaves": 31}},
        notes=[NASTY],
    )


@pytest.fixture
def ab() -> ABInput:
    a, b = metrics_of(0.3, 3), metrics_of(0.4, 4)
    return ABInput(
        name_a="first",
        name_b=NASTY,
        created_at=MOMENT,
        window="9 March 2026",
        n_requests=2000,
        comparisons=compare_all(a, b),
        catalogue={"coverage": (0.3, 0.4)},
        segments={"NDCG@12 by events in the history": {"none": compare(a["NDCG@12"][:900], b["NDCG@12"][:900])}},
        fallbacks={"full": (1500, 1600), "trending": (500, 400)},
        overlap=0.43,
        examples=[SlatePair("Ann", [], [SheetItem("x", "Hat")], [SheetItem("y", "Coat", bought=True)])],
    )


@pytest.fixture
def browse(tmp_path):
    """Open a page in Chromium as wide as a phone: the resulting document and what the console said."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")

    def open_page(html: str) -> tuple[str, str]:
        # The page itself has no script; this one measures whether anything sticks out of a narrow window.
        probe = "<script>document.body.dataset.overflow = document.documentElement.scrollWidth > innerWidth</script>"
        path = tmp_path / "page.html"
        path.write_text(html.replace("</body>", probe + "</body>"), encoding="utf-8")
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--window-size=500,900"]
        done = subprocess.run(
            [*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=300, check=True
        )
        return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)

    return open_page


@pytest.mark.parametrize("module", [ab_module, wording])
def test_the_docstrings_examples_run(module):
    result = doctest.testmod(module)
    assert result.attempted > 1
    assert result.failed == 0


def test_the_console_and_the_width_are_heard(browse):
    dom, console = browse("<body><p style='width: 2000px'>wide</p><script>nothing.here</script></body>")
    assert "nothing is not defined" in console
    assert 'data-overflow="true"' in dom


def headline_of(dom: str) -> str:
    return unescape(re.search(r"<h1>(.*?)</h1>", dom, re.DOTALL).group(1))


def test_the_night_in_a_browser(night, browse):
    dom, console = browse(night_report(night))
    assert console == ""
    assert re.fullmatch(r"This release beats item→item, the best baseline, by \d+\.\d% in NDCG@12", headline_of(dom))
    assert "<title>Release 20260310T000000-abc</title>" in dom  # no script of a title or a note has run
    assert 'data-overflow="false"' in dom
    for words in (
        "1 min 24 s",
        "1.3 GiB",
        "17,986",
        "トレンド",
        "then bought",
        "€5",
        "Configuration of every stage",
        "0.4100",
        "Alignment: held-out mean reciprocal rank",
    ):
        assert words in dom, words
    assert dom.count("<svg") == 8  # two forests, recall, history, two of alignment, importance, stages


def test_the_ab_page_in_a_browser(ab, browse):
    dom, console = browse(ab_report(ab))
    assert console == ""
    assert re.fullmatch(r"B is better: NDCG@12 rises by \d+\.\d%, from 0\.\d{4} to 0\.\d{4}", headline_of(dom))
    assert "<title>first against &lt;script&gt;" in dom
    assert 'data-overflow="false"' in dom
    assert dom.count("<svg") == 3
    assert "43%" in dom
    assert re.search(r"B better for \d+\.\d%, worse for \d+\.\d%", dom)


def test_nothing_a_shop_writes_becomes_markup(night, ab):
    for html in (night_report(night), ab_report(ab)):
        assert "<script" not in html
        assert "&lt;script&gt;" in html


def test_the_pages_stand_alone(night, ab):
    for html in (night_report(night), ab_report(ab)):
        assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', html) == []
        assert re.findall(r"url\((?!#)[^)]*\)", html) == []
        assert "@import" not in html


def test_the_same_input_gives_the_same_page(night):
    assert night_report(night) == night_report(night)


def test_a_night_without_anything_to_compare_is_still_a_page(browse):
    dom, console = browse(night_report(ReportInput("v1", MOMENT, MOMENT)))
    assert console == ""
    assert headline_of(dom) == "Release v1 is made"
    assert "<section" not in dom


def test_the_verdict_in_words(ab, night):
    a, b = metrics_of(0.3, 3), metrics_of(0.4, 4)
    assert "<h1>B is worse: NDCG@12 falls by" in ab_report(replace(ab, comparisons=compare_all(b, a)))
    assert "<h1>No difference shown between A and B" in ab_report(replace(ab, comparisons=compare_all(a, a)))
    assert "loses to item→item" in night_report(replace(night, comparisons={"item→item": compare_all(b, a)}))


def test_percentages_stand_with_the_interval_of_the_percentage(ab, night):
    a = metrics_of(0.3, 3)
    doubled = compare_all(a, {name: 2 * values for name, values in a.items()})
    assert "(+100.0%); the 95% interval of the change goes from +100.0% to +100.0%, over" in ab_lead(
        replace(ab, comparisons=doubled)
    )
    for html in (ab_report(replace(ab, comparisons=doubled)), night_report(replace(night, comparisons={"b": doubled}))):
        assert "95% interval from +100.0% to +100.0%" in html
        assert "+100.0% … +100.0%" in html


def test_an_interval_without_percentages_is_that_of_the_difference():
    comparison = compare([0.0] * 20, [0.5] * 20)
    assert say_comparison("x", comparison).endswith("the 95% interval of the change goes from +0.5000 to +0.5000")


def test_a_single_shopper_has_no_interval(ab, night):
    one = compare_all({"NDCG@12": np.array([0.25])}, {"NDCG@12": np.array([0.75])})
    alone = replace(ab, comparisons=one, segments={})
    assert "(+200.0%); too few for an interval, over 1 shoppers" in ab_lead(alone)
    for html in (ab_report(alone), night_report(replace(night, comparisons={"popularity": one}))):
        assert "too few for an interval" in html
        assert "+0.5000 … +0.5000" not in html
        assert "from +200.0%" not in html


def lines_drawn(svg: str) -> int:
    """Intervals of a forest."""
    return len(re.findall(r"stroke-width: 3(?![\d.])", svg))


def test_a_forest_draws_no_interval_where_there_is_none():
    enough, few = compare([0.1, 0.2] * 5, [0.2, 0.1] * 5), compare([0.1, 0.2], [0.2, 0.1])
    scarce = compare([1.0] + [0.0] * 20, [1.0] * 21)
    assert lines_drawn(plots.forest({"enough": enough})) == 1
    assert lines_drawn(plots.forest({"enough": enough, "few": few, "scarce": scarce})) == 1


def test_plots_take_their_colours_from_the_page():
    svg = plots.bars({"one": 1.0, "two": 250.0}, {"two": "slow"}, unit=" s")
    assert "var(--b)" in svg
    assert "#0101" not in svg
    assert ">250 s · slow<" in svg
    assert " id=" not in svg.replace("<clipPath id=", "")


def test_many_curves_can_be_told_apart():
    svg = plots.curves({f"source {n}": [(1, n), (2, n)] for n in range(11)}, "candidates", "recall")
    looks = re.findall(r'<path d="M [^"]*L [^"]*" clip-path="[^"]*" style="([^"]*)"', svg)
    lines = [look for look in looks if "var(--line)" not in look]
    assert len(lines) == len(set(lines)) == 11


def test_large_changes_leave_room_between_the_labels_of_a_forest():
    svg = plots.forest({"some": compare([0.01, 0.02] * 5, [0.2, 0.6] * 5)})
    labels = re.findall(r"[+−-][\d.]+%", svg)
    assert 2 <= len(labels) <= 5, labels


def test_a_metric_that_was_zero_under_a_has_no_place_in_a_forest():
    svg = plots.forest({"some": compare([1.0, 2.0], [2.0, 2.0]), "none": compare([0.0, 0.0], [1.0, 1.0])})
    assert ">some<" in svg
    assert ">none<" not in svg
