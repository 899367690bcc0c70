"""The night on a small shop with everything: what it makes, that it finds the planted taste, that it can be killed."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from service_shop import CUTOFF, build_release
from sqlalchemy import Engine

from pipelines.cli import main
from pipelines.config import Paths
from pipelines.judge import Judgement, judge
from pipelines.night_config import EvaluationConfig, NightConfig, load_config
from pipelines.retrain import publish_unless_worse, read_events, retrain, start_from_last_night
from pipelines.stages import Stages
from recsys.alignment.behaviour import behaviour_modality
from recsys.artifacts import Release, load_release, read_manifest
from recsys.data.database import open_database, upgrade_database
from recsys.data.event_log import append_to_log
from recsys.data.importers import import_shop
from recsys.data.releases import live_release, publish_release, record_release
from recsys.data.store import insert_events, insert_reviews, put_items
from recsys.data.synthetic import TINY, ShopConfig, make_shop
from recsys.data.tables import Run
from recsys.errors import ConfigError, ReleaseError, SchemaError
from recsys.evaluation.compare import compare_all
from recsys.late import make_late_items
from recsys.recommend import recommend
from recsys.request import Request
from service.catalogue import load_catalogue_items
from tests.builders import purchases

SMALL = Path("pipelines/small.toml")
DAY = timedelta(days=1)
AT = datetime(2026, 3, 1, tzinfo=UTC)
STAGES = ("read the database", "encode", "align", "tune", "fit up to", "judge", "fit to the end", "index", "save")


def paths_below(home: Path, cache: Path | None = None) -> Paths:
    return Paths(
        database=f"sqlite:///{home / 'shop.db'}",
        events=str(home / "events"),
        cache=str(cache or home / "cache"),
        releases=str(home / "releases"),
        images=str(home / "shop"),
    )


def open_shop(home: Path, shop: ShopConfig, cache: Path | None = None) -> NightConfig:
    """A made and imported shop below ``home``, and the night that would run on it."""
    make_shop(home / "shop", shop)
    config = replace(load_config(SMALL), paths=paths_below(home, cache))
    engine = open_database(config.paths.database)
    summary = import_shop(
        engine, home / "shop", "generic", rejects=home / "rejects", images_root=home / "shop", progress=False
    )
    engine.dispose()
    assert summary.exit_status == 0
    return config


def written_config(home: Path, config: NightConfig, seed: int = 0) -> Path:
    """small.toml with the paths of ``config``, as a file."""
    written = home / "night.toml"
    general, _, rest = SMALL.read_text().replace("seed = 0", f"seed = {seed}").partition("[paths]")
    paths = [f"{name} = {json.dumps(value)}" for name, value in vars(config.paths).items()]
    written.write_text("\n".join([general, "[paths]", *paths, rest[rest.index("[") :]]))
    return written


@pytest.fixture(scope="module")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module")
def tiny(tiny_home: Path) -> NightConfig:
    return open_shop(tiny_home, TINY)


@pytest.mark.slow
def test_planted_taste_is_recovered(tmp_path: Path) -> None:
    """The ranking of a shop whose shoppers choose by trait is at least five times that of what sells."""
    config = open_shop(tmp_path, ShopConfig(n_items=700, n_users=1_500, picture_size=96))
    metrics = retrain(replace(config, evaluation=replace(config.evaluation, k=10)), progress=False).manifest.metrics
    assert metrics["release"]["NDCG@10"] >= 5 * metrics["popularity"]["NDCG@10"]
    assert metrics["release"]["NDCG@10"] > metrics["item to item"]["NDCG@10"]


@pytest.mark.slow
def test_two_nights_on_the_same_input_make_the_same_release(tiny: NightConfig, tmp_path: Path) -> None:
    first = retrain(tiny, progress=False)
    elsewhere = replace(tiny.paths, releases=str(tmp_path / "releases"), cache=str(tmp_path / "cache"))
    written = written_config(tmp_path, replace(tiny, paths=elsewhere))
    # Another process, with another order of sets, and as if on a machine with one core.
    environment = os.environ | {"PYTHONHASHSEED": "7", "POLARS_MAX_THREADS": "1"}
    command = [sys.executable, "-m", "pipelines.cli", "retrain", str(written), "--no-publish", "--quiet"]
    subprocess.run(command, env=environment, check=True)
    (folder,) = (tmp_path / "releases").glob("[!.]*")
    second = read_manifest(folder)
    assert second.files == first.manifest.files
    assert second.version == first.manifest.version


@pytest.mark.slow
def test_the_night_publishes_a_whole_release_and_says_how_it_went(tiny: NightConfig) -> None:
    saved = retrain(tiny, progress=False)
    engine = open_database(tiny.paths.database)
    live = live_release(engine)
    assert live is not None
    assert live.version == saved.manifest.version
    loaded = load_release(live.path)
    assert loaded.item_ids == saved.item_ids
    np.testing.assert_array_equal(loaded.tables.items, saved.tables.items)
    assert loaded.manifest.metrics["release"].keys() == loaded.manifest.metrics["popularity"].keys()
    page = (Path(live.path) / "report.html").read_text()
    assert saved.manifest.version in page
    with engine.connect() as connection:
        run = connection.execute(Run.__table__.select().order_by(Run.started_at.desc())).first()
    assert run is not None
    assert (run.status, run.release) == ("succeeded", saved.manifest.version)
    assert run.stages[0]["name"] == "read the database and the log"


def kill_at(stage: str, config: Path) -> None:
    """Start the night as its own process and kill it the moment it says that it enters ``stage``."""
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", "retrain", str(config)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=environment,
        text=True,
    ) as night:
        assert night.stderr is not None
        said = []
        for line in night.stderr:
            said.append(line)
            if line.startswith("▸ ") and stage in line:
                night.send_signal(signal.SIGKILL)
        assert night.wait() == -signal.SIGKILL, "".join(said)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_stage_is_killed_below() -> None:
    entered = re.findall(r'stages\.stage\("([^"]+)"\)', Path("pipelines/retrain.py").read_text())
    assert [name for name in entered if not name.startswith(STAGES)] == []
    assert len(entered) == len(STAGES)


@pytest.mark.slow
def test_killed_anywhere_it_leaves_the_live_release_and_continues_from_the_cache(tmp_path: Path) -> None:
    config = open_shop(tmp_path, TINY)
    before = retrain(config, progress=False).manifest.version
    cache = tmp_path / "another cache"
    config = replace(config, paths=replace(config.paths, cache=str(cache)))
    written = written_config(tmp_path, config, seed=1)  # a night that finished would make another release
    engine = open_database(config.paths.database)
    encoded = {}
    for stage in STAGES:
        kill_at(stage, written)
        live = live_release(engine)
        assert live is not None
        assert live.version == before
        load_release(live.path)  # whole, by its checksums
        encoded[stage] = contents(cache)
    after = retrain(load_config(written), progress=False)
    live = live_release(engine)
    assert live is not None
    assert live.version == after.manifest.version != before
    assert not list(Path(config.paths.releases).glob(".draft-*"))
    assert len(encoded["align"]) > 2  # all was encoded by the night that was killed there, and nothing after it
    assert encoded["align"] == encoded["save"] == contents(cache)
    with engine.connect() as connection:
        statuses = [run.status for run in connection.execute(Run.__table__.select().order_by(Run.started_at))]
    assert statuses == ["succeeded"] + ["failed"] * len(STAGES) + ["succeeded"]


@pytest.fixture
def three_moments(tmp_path: Path) -> tuple[Path, datetime]:
    """A log with events at a moment, a day after it, and a year after that; returns it and the moment."""
    first = datetime(2026, 3, 1, tzinfo=UTC)
    engine = open_database(f"sqlite:///{tmp_path / 'shop.db'}")
    upgrade_database(engine)
    insert_events(
        engine,
        [
            {"event_id": str(days), "event_type": "search", "user_id": "u", "timestamp": first + timedelta(days=days)}
            for days in (0, 1, 366)
        ],
    )
    append_to_log(engine, tmp_path / "events")
    engine.dispose()
    return tmp_path / "events", first


def test_what_a_clock_dates_after_now_is_left_out_and_counted(three_moments: tuple[Path, datetime]) -> None:
    log, first = three_moments
    day = timedelta(days=1)
    for until, now, kept, ahead in (
        (None, first + 2 * day, ["0", "1"], 1),
        (None, first + day, ["0"], 2),  # what bears this very moment would put the cut-off after it
        (None, first + 400 * day, ["0", "1", "366"], 0),
        (first + day, first + 2 * day, ["0"], 1),
        (first + 500 * day, first + 2 * day, ["0", "1"], 1),
    ):
        events, n_ahead = read_events(log, until, now)
        assert (events["event_id"].to_list(), n_ahead) == (kept, ahead)


def test_until_before_the_first_event_names_both(three_moments: tuple[Path, datetime]) -> None:
    log, first = three_moments
    with pytest.raises(ConfigError, match=r"^--until: .* of 2026-03-01T00:.*, came 2026-03-01T00:"):
        read_events(log, first, first + timedelta(days=9))


def test_stages_are_told_apart_with_their_remarks_unless_asked_to_be_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    loud, quiet = Stages(), Stages(progress=False)
    for stages in (loud, quiet):
        with stages.stage("read") as notes:
            notes.append("two left out")
        assert list(stages.bar(range(3), "counting", 3)) == [0, 1, 2]
        assert [(stage.name, stage.note) for stage in stages.done] == [("read", "two left out")]
        said = capsys.readouterr().err
        assert ("▸ read" in said and "MiB; two left out" in said) if stages is loud else said == ""


@pytest.mark.slow
def test_an_event_of_the_future_moves_no_cut_off_and_quiet_says_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = open_shop(tmp_path, TINY)
    engine = open_database(config.paths.database)
    event = {"event_id": "ahead", "event_type": "search", "user_id": "u", "timestamp": datetime(2100, 1, 1, tzinfo=UTC)}
    insert_events(engine, [event])
    assert main(["retrain", str(written_config(tmp_path, config)), "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    live = live_release(engine)
    assert live is not None
    assert live.data_cutoff < datetime.now(UTC)
    page = (Path(live.path) / "report.html").read_text()
    assert "events dated in the future, left out" in page


@pytest.mark.slow
def test_the_smallest_shop_gets_a_release_that_answers(tmp_path: Path) -> None:
    """Two items without pictures, three events."""
    config = replace(load_config(SMALL), paths=paths_below(tmp_path))
    engine = open_database(config.paths.database)
    upgrade_database(engine)
    put_items(engine, [{"item_id": "hat", "title": "Red hat"}, {"item_id": "cap", "title": "Blue cap"}])
    first = datetime(2026, 3, 1, tzinfo=UTC)
    seen = [("u", "hat", "purchase"), ("u", "cap", "purchase"), ("v", "hat", "detail-page-view")]
    events = [
        {"event_id": str(day), "user_id": user, "item_id": item, "event_type": kind, "timestamp": first + day * DAY}
        for day, (user, item, kind) in enumerate(seen)
    ]
    insert_events(engine, events)
    retrain(config, progress=False)
    live = live_release(engine)
    assert live is not None
    release = load_release(live.path)
    questions = [
        Request(requested_at=first + 9 * DAY, item_ids=item_ids, limit=50) for item_ids in (["hat"], ["unknown"], [])
    ]
    about_hat, about_nothing, home = recommend(release, questions)
    assert [item.item_id for item in about_hat.items] == ["cap"]
    assert {item.item_id for item in about_nothing.items} == {item.item_id for item in home.items} == {"hat", "cap"}
    assert not [name for name in release.manifest.files if "carried" in name]  # all that it knows can be encoded again


@pytest.mark.slow
def test_where_only_ids_are_known_an_item_that_gets_words_keeps_its_place(tmp_path: Path) -> None:
    """Two groups of shoppers, each with three items of its own; item "new" nobody took."""
    config = replace(load_config(SMALL), paths=paths_below(tmp_path))
    engine = open_database(config.paths.database)
    upgrade_database(engine)
    put_items(engine, [{"item_id": item_id} for item_id in ("a0", "a1", "a2", "b0", "b1", "b2", "new")])
    first = datetime(2026, 3, 1, tzinfo=UTC)
    events = [
        {
            "event_id": f"{shopper}-{day}",
            "user_id": f"u{shopper}",
            "item_id": f"{'ab'[shopper % 2]}{(shopper + day) % 3}",
            "event_type": "purchase",
            "timestamp": first + day * DAY + timedelta(minutes=shopper),
        }
        for shopper in range(12)
        for day in range(0, 18, 4)
    ]
    insert_events(engine, events)
    release = load_release(Path(config.paths.releases) / retrain(config, progress=False).manifest.version)
    assert release.search is not None
    put_items(engine, [{"item_id": item_id, "title": "A red hat"} for item_id in ("a1", "new")])
    changed = [item for _, item in load_catalogue_items(engine, ["a1", "new"], first + 20 * DAY)]
    late = {item.item_id: item for item in make_late_items(release, changed, tmp_path, first + 20 * DAY)}
    row, vector = release.rows["a1"], release.tables.spaces["fused"][release.rows["a1"]]
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-3)
    assert late["a1"].spaces["fused"] @ vector > 0.999
    np.testing.assert_allclose(late["a1"].parts["behaviour"], release.search.parts["behaviour"][row], atol=1e-2)
    assert not late["new"].spaces["fused"].any()


@pytest.mark.slow
def test_a_review_is_in_no_vector_that_is_judged_on_what_came_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nights on one shop; the second one's hat is reviewed in the newest label window and in the test window."""
    judged = []

    def judge_and_tell(twin: Release, *rest: Any) -> Judgement:
        judged.append(twin)
        return judge(twin, *rest)

    monkeypatch.setattr("pipelines.retrain.judge", judge_and_tell)
    first, names = datetime(2026, 3, 1, tzinfo=UTC), ["hat", "cap", "cup", "mug", "pen", "ink", "jar", "pot"]
    events = [
        {"event_id": f"{user} {day}", "user_id": f"u{user}", "item_id": names[(user + day) % 8],
         "event_type": "purchase", "timestamp": first + day * DAY}
        for user in range(6) for day in range(24)
    ]  # fmt: skip
    said = [(name, "Well made", 0) for name in names] + [("hat", "It squeaks on the stairs", day) for day in (19.5, 22)]
    published, config = [], replace(load_config(SMALL), paths=paths_below(tmp_path))
    config = replace(config, alignment=replace(config.alignment, epochs=2))
    engine = open_database(config.paths.database)
    upgrade_database(engine)
    put_items(engine, [{"item_id": name, "title": f"One {name}"} for name in names])
    insert_events(engine, events)
    for known in (said[:8], said):
        insert_reviews(
            engine,
            [
                {"review_id": f"r{number}", "item_id": name, "user_id": None, "rating": 4.0, "title": None,
                 "text": text, "helpful_votes": 0, "timestamp": first + day * DAY}
                for number, (name, text, day) in enumerate(known)
            ],
        )  # fmt: skip
        published.append(retrain(config, publish=False, progress=False))
    window = datetime.fromisoformat(published[0].manifest.metrics["evaluated_from"])
    assert window - 2 * DAY <= first + 19.5 * DAY < window < first + 22 * DAY
    for space in ("fused", "text"):
        np.testing.assert_array_equal(*(twin.tables.spaces[space] for twin in judged))
    np.testing.assert_array_equal(*(twin.retrieval.taste for twin in judged))
    before, after = (release.tables.spaces["fused"] for release in published)
    assert (before != after).any(axis=1).nonzero()[0].tolist() == [published[0].rows["hat"]]
    shares = [sum(part[release.rows["hat"]] for part in release.search.parts.values()) for release in published]
    np.testing.assert_allclose(shares, [vectors[published[0].rows["hat"]] for vectors in (before, after)], atol=2e-3)


def test_items_of_which_only_ids_are_known_have_the_space_of_their_shoppers() -> None:
    """Two groups of shoppers with items of their own; item 4 was taken once, item 5 never."""
    shoppers = np.repeat(np.arange(6, dtype=np.int32), 2)
    rows = np.array([0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 4], np.int32)
    past = purchases(shoppers, rows, np.zeros(12))
    known = behaviour_modality(past, n_items=6, dim=4)
    assert known.present.tolist() == [True, True, True, True, False, False]
    unit = known.vectors[:4] / np.linalg.norm(known.vectors[:4], axis=1, keepdims=True)
    likeness = unit @ unit.T
    assert likeness[0, 1] > 0.99 > 0.5 > abs(likeness[0, 2])
    assert likeness[2, 3] > 0.7 > abs(likeness[0, 3])
    with pytest.raises(SchemaError, match=r"at least 2 items with a picture .* two shoppers took, came 0 of 6 items"):
        behaviour_modality(past.select(np.arange(12) < 2), n_items=6, dim=4)


def test_what_does_surely_worse_than_popularity_replaces_nothing_unless_it_may(sqlite_engine: Engine) -> None:
    """By the verdict alone: no difference shown is no reason to keep yesterday's release."""
    hits, misses = np.ones(30), np.zeros(30)
    worse, better, unsure = (
        compare_all({"NDCG@12": a}, {"NDCG@12": b}) for a, b in ((hits, misses), (misses, hits), (hits, hits))
    )
    cases = (
        ("first", worse, False, "first"),  # nothing is live yet: better than nothing
        ("second", unsure, False, "second"),
        ("third", worse, False, "second"),
        ("third", worse, True, "third"),
        ("third", worse, False, "third"),  # the same night once more
        ("fourth", better, False, "fourth"),
    )
    for version, against_popularity, publish_worse, live in cases:
        record_release(sqlite_engine, version=version, path="", data_cutoff=AT, checksum=version, metrics={})
        config = EvaluationConfig(publish_worse=publish_worse)
        refused = pytest.raises(ReleaseError, match=r"^third: .* replaces second, came NDCG@12 0\.0000 against 1\.0000")
        with nullcontext() if live == version else refused:
            publish_unless_worse(sqlite_engine, version, against_popularity, config)
        came = live_release(sqlite_engine)
        assert came is not None
        assert came.version == live


def test_the_night_starts_from_what_was_published_not_from_an_experiment(sqlite_engine: Engine, tmp_path: Path) -> None:
    config = load_config(SMALL)
    for days, (shrinkage, published) in enumerate([(3.0, True), (7.0, True), (500.0, False)]):
        version = build_release(tmp_path, seed=days).manifest.version
        manifest = json.loads((tmp_path / version / "manifest.json").read_text())
        manifest["tuning"] = {"numbers": {"tables.shrinkage": shrinkage}}
        (tmp_path / version / "manifest.json").write_text(json.dumps(manifest))
        cutoff, path = CUTOFF + days * DAY, str(tmp_path / version)
        record_release(sqlite_engine, version=version, path=path, data_cutoff=cutoff, checksum="", metrics={})
        if published:
            publish_release(sqlite_engine, version)
    recipes = [start_from_last_night(sqlite_engine, config, CUTOFF + (days + 0.5) * DAY) for days in range(3)]
    assert [recipe.tables.shrinkage for recipe in recipes] == [3.0, 7.0, 7.0]
    assert start_from_last_night(sqlite_engine, config, CUTOFF) == config.recipe


def test_a_shop_without_events_is_refused(tmp_path: Path) -> None:
    config = replace(load_config(SMALL), paths=paths_below(tmp_path))
    with pytest.raises(SchemaError, match="0 items and 0 events"):
        retrain(config, progress=False)


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "night.toml"
    path.write_text("[ranker]\nlearning_rat = 0.1\n")
    with pytest.raises(ConfigError, match=r"learning_rat.*did you mean 'learning_rate'"):
        load_config(path)
