"""The offline A/B on real releases of a small shop with two tastes, through the one request path."""

import json
import shutil
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from pipelines.answers import answer_requests, on_offer, read_arrivals
from pipelines.catalogue import build_catalogue
from pipelines.cli import main
from pipelines.config import load_paths
from pipelines.evaluate import draw_examples, evaluate, pick_examples
from pipelines.recipe import ItemVectors, RecipeConfig, Shop, fit_release
from pipelines.sheets import item_cards
from recsys.artifacts import save_release
from recsys.data.database import open_database, upgrade_database
from recsys.data.event_log import append_to_log
from recsys.data.store import insert_events, put_items
from recsys.errors import ConfigError, LeakageError, SchemaError
from recsys.evaluation.ab_report import ab_figures, ab_report
from recsys.evaluation.compare import BETTER, NO_DIFFERENCE
from recsys.histories import read_interactions
from recsys.request import Request
from recsys.retrieval.users import AGE_EDGES, MAX_HISTORY, Taste, UserTower
from recsys.schema import EVENT_TYPES, EVENTS, ITEMS, REVIEWS

FIRST = datetime(2026, 3, 1, tzinfo=UTC)
CUTOFF = FIRST + timedelta(days=20)
END = CUTOFF + timedelta(days=2)
N_USERS, N_ITEMS, DIM = 120, 40, 8


def untrained_tower() -> UserTower:
    """A recency-blind mean of the history, one interest."""
    zeros = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    return UserTower(**zeros | {"turn": np.eye(DIM, dtype=np.float32)})


SHAPES = {
    "query": (DIM, 1),
    "affinity": (DIM, DIM),
    "affinity_weight": (1,),
    "by_position": (MAX_HISTORY, 1),
    "by_age": (len(AGE_EDGES) + 1, 1),
    "by_gap": (len(AGE_EDGES) + 1, 1),
    "by_type": (len(EVENT_TYPES), 1),
    "turn": (DIM, DIM),
    "turn_last": (DIM, DIM),
    "inner": (2 * DIM, 4),
    "inner_bias": (4,),
    "outer": (4, DIM),
    "log_scale": (1,),
    "item_turn": (DIM, DIM),
}


@pytest.fixture(scope="module")
def items() -> pl.DataFrame:
    columns = {name: [None] * N_ITEMS for name in ITEMS}
    columns |= {
        "item_id": [f"item-{n:02}" for n in range(N_ITEMS)],
        "title": [f"{'Red' if n % 2 else 'Blue'} hat {n}" for n in range(N_ITEMS)],
        "price_cents": [1000 + n for n in range(N_ITEMS)],
        "in_stock": [n != 0 for n in range(N_ITEMS)],
        "attributes": [[]] * N_ITEMS,
        "images": [["none.jpg"]] * N_ITEMS,
        "created_at": [FIRST - timedelta(days=10 * n) for n in range(N_ITEMS)],
    }
    return pl.DataFrame(columns, schema=ITEMS)


@pytest.fixture(scope="module")
def events(items) -> pl.DataFrame:
    """Each shopper buys things of one colour, a new one every few days, to the end of the test window."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(N_USERS):
        for step, number in enumerate(rng.permutation(N_ITEMS // 2)[:8].tolist()):
            row = 2 * number + user % 2
            moment = FIRST + (END - FIRST) * ((step + rng.random()) / 8)
            for event_type in ("detail-page-view", "purchase"):
                rows.append((f"u{user:03}", event_type, f"item-{row:02}", moment))
    columns = {name: [None] * len(rows) for name in EVENTS}
    columns["event_id"] = [str(n) for n in range(len(rows))]
    columns["session_id"] = [f"{row[0]}-{row[3]:%d}" for row in rows]
    for place, name in enumerate(("user_id", "event_type", "item_id", "timestamp")):
        columns[name] = [row[place] for row in rows]
    return pl.DataFrame(columns, schema=EVENTS).sort("timestamp", maintain_order=True)


def release_of(items, events, as_of, knows_colour=True):
    """A release fitted before ``as_of``; without the colours its embeddings are noise and it has seen no behaviour."""
    rng = np.random.default_rng(1)
    vectors = rng.normal(0, 0.2, (len(items), DIM))
    if knows_colour:
        vectors[:, 0] += np.where(np.arange(len(items)) % 2, 1.0, -1.0)
    else:
        events = events.with_columns(user_id=pl.col("event_id"))  # nobody ever comes twice: nothing goes together
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    catalogue = build_catalogue(items, pl.DataFrame(schema=REVIEWS))
    shop = Shop(catalogue, read_interactions(events, catalogue.item_ids), events)
    half = vectors.astype(np.float16)
    config = RecipeConfig(threads=1)
    content = np.zeros((3 * DIM + catalogue.attribute_space.shape[1], DIM), np.float32)  # of SPACES beside each other
    taste = Taste(replace(untrained_tower(), item_turn=content), vectors, np.zeros_like(vectors))
    release = fit_release(shop, ItemVectors(vectors, half, half, as_of), taste, as_of, config)
    return replace(release, manifest=replace(release.manifest, config={"retrieval": asdict(config.retrieval)}))


@pytest.fixture(scope="module")
def saved(items, events, tmp_path_factory):
    """Two releases on disk below one folder: one that knows no colour, one that does."""
    folder = tmp_path_factory.mktemp("releases")
    return folder, *(save_release(release_of(items, events, CUTOFF, knows), folder) for knows in (False, True))


def test_the_release_that_knows_the_taste_wins(saved, events):
    _, blind, knowing = saved
    evaluation = evaluate(blind, knowing, events, CUTOFF, END, k=6, progress=False)
    report = evaluation.report
    assert report.n_requests == len(evaluation.slates_a) == len(evaluation.slates_b) > 50
    assert report.comparisons["NDCG@6"].verdict == BETTER
    assert report.comparisons["Recall@6"].mean_b > 1.3 * report.comparisons["Recall@6"].mean_a
    assert set(report.segments) == {"NDCG@6 by events in the history", "Recall@6 by age of the item"}
    assert sum(c.n for c in report.segments["NDCG@6 by events in the history"].values()) == report.n_requests
    assert 0 < report.overlap < 1
    assert all(0 < share <= 1 for share in report.catalogue["coverage"])


def test_a_release_against_itself_shows_no_difference(saved, events):
    _, _, release = saved
    evaluation = evaluate(release, release, events, CUTOFF, END, max_users=30, progress=False)
    assert {c.verdict for c in evaluation.report.comparisons.values()} == {NO_DIFFERENCE}
    assert evaluation.report.overlap == 1
    assert evaluation.report.n_requests == 30
    assert pick_examples(evaluation) == {}


def test_a_release_that_has_seen_the_test_is_refused(saved, items, events):
    _, fair, _ = saved
    leaky = release_of(items, events, CUTOFF + timedelta(hours=1))
    with pytest.raises(LeakageError, match=r"^B .*expected a data_cutoff not after 2026-03-21 .*came 2026-03-21 01:00"):
        evaluate(fair, leaky, events, CUTOFF, END, progress=False)
    with pytest.raises(LeakageError, match=r"^A "):
        evaluate(leaky, fair, events, CUTOFF, END, progress=False)


def test_an_empty_window_is_named(saved, events):
    _, a, b = saved
    with pytest.raises(SchemaError, match=r"expected purchase events from .* came none in that window"):
        evaluate(a, b, events, END + timedelta(days=1), END + timedelta(days=2), progress=False)


def test_what_was_in_stock_today_does_not_reach_into_the_past(saved):
    _, _, release = saved
    assert not release.in_stock[0]
    request = Request(CUTOFF, limit=N_ITEMS)
    (slate,) = answer_requests(release, [request])
    assert "item-00" in [item.item_id for item in slate.items]


@pytest.fixture(scope="module")
def growing(items, events):
    """Item 1 arrives within the window and is taken on its last day; "item-40" is there, and never taken before."""
    newcomer = items[:1].with_columns(item_id=pl.lit("item-40"), created_at=FIRST)
    later = pl.when(pl.col("item_id") == "item-01").then(END - timedelta(days=1)).otherwise("created_at")
    catalogue = pl.concat([items, newcomer]).with_columns(created_at=later)
    early = (pl.col("item_id") != "item-01") | (pl.col("timestamp") >= CUTOFF)
    return catalogue, events.filter(early)


def test_what_came_after_the_data_of_a_release_is_not_shown(growing):
    catalogue, events = growing
    release = release_of(catalogue, events, CUTOFF)
    offer = on_offer(release, read_arrivals(catalogue))
    assert [release.item_ids[row] for row in np.flatnonzero(~offer)] == ["item-01"]
    everybody = Request(END, limit=len(catalogue))
    for available, missing in ((None, set()), (offer, {"item-01"})):
        (slate,) = answer_requests(release, [everybody], available)
        assert set(release.item_ids) - {item.item_id for item in slate.items} == missing
    assert on_offer(release, {}).all()  # nothing is known: everything may have been there


def test_what_sold_before_it_arrived_was_there(saved, items):
    _, release, _ = saved
    assert on_offer(release, dict.fromkeys(release.item_ids, END.timestamp() / 86_400)).all()


def test_the_catalogues_are_compared(growing, items, events):
    catalogue, grown_events = growing
    old, new = release_of(items[1:], events, CUTOFF - timedelta(days=2)), release_of(catalogue, grown_events, CUTOFF)
    report = evaluate(
        old, new, grown_events, CUTOFF, END, k=6, arrivals=read_arrivals(catalogue), progress=False
    ).report
    taken = grown_events.filter((pl.col("timestamp") >= CUTOFF) & (pl.col("event_type") == "purchase"))
    of_0, of_1 = (taken.filter(pl.col("item_id") == each)["user_id"].n_unique() for each in ("item-00", "item-01"))
    assert of_0 > 0 < of_1
    notes = " ".join(report.notes)
    # The old one met item-01 before, by events that the new one never saw; the new one alone knows 00 and 40.
    assert f"0 of them neither release could show, {of_1} A alone, {of_0} B alone" in notes
    assert "The data end of A at 2026-03-19 00:00 UTC and of B at 2026-03-21 00:00 UTC." in notes
    assert "1 items only A could show, 2 only B." in notes


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": -1}, ConfigError, "^k: expected at least 1, came -1$"),
        ({"k": 0}, ConfigError, "^k: expected at least 1, came 0$"),
        ({"max_users": 0}, ConfigError, "^max_users: expected at least 1, came 0$"),
        ({"max_users": -1}, ConfigError, "^max_users: expected at least 1, came -1$"),
        ({"seed": -1}, ConfigError, "^seed: expected at least 0, came -1$"),
        ({"start": CUTOFF.replace(tzinfo=None)}, SchemaError, "^start: expected a UTC time with its zone, came "),
        ({"end": END.replace(tzinfo=None)}, SchemaError, "^end: expected a UTC time with its zone, came "),
    ],
)
def test_what_cannot_be_asked_is_named(saved, events, arguments, error, message):
    _, a, b = saved
    with pytest.raises(error, match=message):
        evaluate(a, b, events, **{"start": CUTOFF, "end": END, "progress": False, **arguments})


def test_examples_show_gains_losses_and_some_by_chance(saved, events, items, tmp_path):
    _, a, b = saved
    evaluation = evaluate(a, b, events, CUTOFF, END, k=6, progress=False)
    picked = pick_examples(evaluation, each=1)
    gain = evaluation.per_user_b["NDCG@6"] - evaluation.per_user_a["NDCG@6"]
    assert sorted(picked.values()) == ["A finds more", "B finds more", "Drawn by chance"]
    for user, why in picked.items():
        assert {"B finds more": gain[user] > 0, "A finds more": gain[user] < 0}.get(why, True)
    pairs = draw_examples(evaluation, a, b, picked, item_cards(items), tmp_path)
    best = pairs[0]
    assert any(item.bought for item in best.b)
    assert all(item.caption for item in best.b)  # every recommended item says why
    assert [item.item_id for item in best.b] == [item.item_id for item in evaluation.slates_b[next(iter(picked))].items]


def test_the_figures_are_json_and_the_page_is_a_page(saved, events):
    _, a, b = saved
    report = evaluate(a, b, events, CUTOFF, END, max_users=60, seed=3, progress=False).report
    written = json.loads(json.dumps(ab_figures(report), allow_nan=False))
    assert (written["a"], written["b"], written["decided_on"]) == (a.manifest.version, b.manifest.version, "NDCG@12")
    assert (written["start"], written["end"]) == (CUTOFF.isoformat(), END.isoformat())
    assert [written[name] for name in ("k", "targets", "max_users", "seed")] == [12, ["purchase"], 60, 3]
    assert written["metrics"]["NDCG@12"]["low"] < written["metrics"]["NDCG@12"]["difference"]
    assert "<h1>B is better" in ab_report(report)


@pytest.fixture
def shop_on_disk(tmp_path, items, events, saved):
    """A configuration file whose database, log and releases hold this shop."""
    folder, *_ = saved
    database, log = f"sqlite:///{tmp_path / 'shop.db'}", tmp_path / "events"
    engine = open_database(database)
    upgrade_database(engine)
    insert_events(engine, list(events.iter_rows(named=True)))
    append_to_log(engine, log)
    engine.dispose()
    config = tmp_path / "night.toml"
    config.write_text(f'[paths]\ndatabase = "{database}"\nevents = "{log}"\nreleases = "{folder}"\n')
    return config


def test_the_command_prints_the_verdict_and_leaves_both_files(shop_on_disk, saved, events, tmp_path, capsys):
    a, b = (release.manifest.version for release in saved[1:])
    out = tmp_path / "out"
    status = main(["evaluate", a, b, "--config", str(shop_on_disk), "--k", "6", "--output", str(out), "--quiet"])
    printed = capsys.readouterr().out
    assert status == 0
    assert printed.startswith("B is better: NDCG@6 rises by ")
    page = out / f"{a}-against-{b}-20260321T000000-to-{events['timestamp'].max():%Y%m%dT%H%M%S}-k6.html"
    assert printed.rstrip().endswith(str(page))
    assert "<h1>B is better: NDCG@6 rises by " in page.read_text()
    assert json.loads(page.with_suffix(".json").read_text())["verdict"] == BETTER


def test_another_question_has_a_page_of_its_own(shop_on_disk, saved, tmp_path, capsys):
    a, b = (release.manifest.version for release in saved[1:])
    out = tmp_path / "out"
    common = ["evaluate", a, b, "--config", str(shop_on_disk), "--output", str(out), "--quiet"]
    for asked in ([], ["--start", "2026-03-22"], ["--k", "6"], ["--target", "detail-page-view"]):
        assert main([*common, *asked]) == 0
    capsys.readouterr()
    assert len(list(out.glob("*.html"))) == len(list(out.glob("*.json"))) == 4
    figures = [json.loads(path.read_text()) for path in out.glob("*.json")]
    assert sorted((each["start"][:10], each["k"], *each["targets"]) for each in figures) == [
        ("2026-03-21", 6, "purchase"),
        ("2026-03-21", 12, "detail-page-view"),
        ("2026-03-21", 12, "purchase"),
        ("2026-03-22", 12, "purchase"),
    ]


def test_the_command_asks_the_catalogue_what_had_arrived(shop_on_disk, growing, tmp_path, capsys):
    catalogue, events = growing
    version = save_release(release_of(catalogue, events, CUTOFF), tmp_path / "own").manifest.version
    release = str(tmp_path / "own" / version)
    engine = open_database(load_paths(shop_on_disk).database)
    put_items(engine, [{"item_id": "item-01", "title": "A hat", "created_at": END - timedelta(days=1)}])
    engine.dispose()
    out = tmp_path / "out"
    assert main(["evaluate", release, release, "--config", str(shop_on_disk), "--output", str(out), "--quiet"]) == 0
    capsys.readouterr()
    taken = events.filter(pl.col("item_id") == "item-01")["user_id"].n_unique()  # all of it in the window
    assert taken > 0
    (page,) = out.glob("*.html")
    assert f"{taken} of them neither release could show" in page.read_text()


def test_the_days_since_the_last_night_are_brought_to_the_log_first(shop_on_disk, saved, tmp_path, capsys):
    a, b = (release.manifest.version for release in saved[1:])
    shutil.rmtree(tmp_path / "events")
    assert main(["evaluate", a, b, "--config", str(shop_on_disk), "--output", str(tmp_path / "out"), "--quiet"]) == 0
    assert capsys.readouterr().out.startswith("B is better: NDCG@12 rises by ")


def test_the_command_says_what_is_missing(shop_on_disk, saved, capsys):
    a, b = (release.manifest.version for release in saved[1:])
    assert main(["evaluate", a, "nowhere", "--config", str(shop_on_disk)]) == 2
    said = capsys.readouterr().err
    assert "nowhere: expected a release" in said
    assert a in said
    assert b in said
    after = ["--start", "2026-05-01"]
    assert main(["evaluate", a, a, "--config", str(shop_on_disk), *after]) == 2
    assert "expected events after 2026-05-01" in capsys.readouterr().err
    assert main(["evaluate", a, a, "--config", str(shop_on_disk), "--start", "2026-03-02"]) == 2
    assert "expected a data_cutoff not after 2026-03-02" in capsys.readouterr().err
