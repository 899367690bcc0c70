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

import numpy as np
import pytest
from night_shop import DAY, SMALL, paths_below
from service_shop import CUTOFF, build_release
from sqlalchemy import Engine

from pipelines.cli import main
from pipelines.night_config import EvaluationConfig, NightConfig, load_config
from pipelines.retrain import publish_unless_worse, read_events, retrain, start_from_last_night
from pipelines.stages import Stages
from recsys.artifacts import load_release, read_manifest
from recsys.data.database import open_database, upgrade_database
from recsys.data.event_log import append_to_log
from recsys.data.importers import import_shop
from recsys.data.releases import live_release, publish_release, record_release
from recsys.data.store import insert_events
from recsys.data.synthetic import TINY, ShopConfig, make_shop
from recsys.data.tables import Run
from recsys.errors import ConfigError, ReleaseError, SchemaError
from recsys.evaluation.compare import compare_all

AT = datetime(2026, 3, 1, tzinfo=UTC)
STAGES = ("read the database", "encode", "align", "tune", "fit up to", "judge", "fit to the end", "index", "save")


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
    assert second.metrics == first.manifest.metrics


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
    assert len(loaded.manifest.metrics["feature_shift"]) == (10 if loaded.ranker else 0)
    assert ("From training to serving" in page) == (loaded.ranker is not None)
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
