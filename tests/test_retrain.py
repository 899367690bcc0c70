"""The night on a small shop with everything: what it makes, that it finds the planted taste, that it can be killed."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.config import Paths, load_config
from pipelines.night_config import NightConfig
from pipelines.retrain import retrain
from recsys.artifacts import load_release
from recsys.data.database import open_database
from recsys.data.importers import import_shop
from recsys.data.releases import live_release
from recsys.data.synthetic import TINY, ShopConfig, make_shop
from recsys.data.tables import Run
from recsys.errors import ConfigError, SchemaError

SMALL = Path("pipelines/small.toml")
STAGES_TO_KILL = ("encode", "judge", "save")


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
    second = retrain(replace(tiny, paths=elsewhere), publish=False, progress=False)
    assert second.manifest.files == first.manifest.files
    assert second.manifest.version == first.manifest.version


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


@pytest.mark.slow
def test_killed_anywhere_it_leaves_the_live_release_and_continues_from_the_cache(tmp_path: Path) -> None:
    config = open_shop(tmp_path, TINY)
    before = retrain(config, progress=False).manifest.version
    written = tmp_path / "night.toml"
    lines = [f"{name} = {json.dumps(value)}" for name, value in vars(config.paths).items()]
    # Another seed: a night that finished would make another release.
    written.write_text(
        SMALL.read_text().split("[paths]")[0].replace("seed = 0", "seed = 1") + "\n[paths]\n" + "\n".join(lines)
    )
    engine = open_database(config.paths.database)
    for stage in STAGES_TO_KILL:
        kill_at(stage, written)
        live = live_release(engine)
        assert live is not None
        assert live.version == before
        load_release(live.path)  # whole, by its checksums
    after = retrain(load_config(written), progress=False)
    live = live_release(engine)
    assert live is not None
    assert live.version == after.manifest.version != before
    assert not list(Path(config.paths.releases).glob(".draft-*"))
    with engine.connect() as connection:
        statuses = [run.status for run in connection.execute(Run.__table__.select().order_by(Run.started_at))]
    assert statuses == ["succeeded"] + ["failed"] * len(STAGES_TO_KILL) + ["succeeded"]


def test_a_shop_without_events_is_refused(tmp_path: Path) -> None:
    config = replace(load_config(SMALL), paths=paths_below(tmp_path))
    with pytest.raises(SchemaError, match="0 items and 0 events"):
        retrain(config, progress=False)


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "night.toml"
    path.write_text("[ranker]\nlearning_rat = 0.1\n")
    with pytest.raises(ConfigError, match=r"learning_rat.*did you mean 'learning_rate'"):
        load_config(path)
