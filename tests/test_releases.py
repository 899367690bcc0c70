"""``recsys releases`` and ``recsys publish``: what there is, what is live, and what may become it."""

import shutil
from pathlib import Path

import pytest
from service_shop import CUTOFF, build_release
from sqlalchemy import Engine

from pipelines.cli import main
from recsys.data.releases import live_release, publish_release, record_release


@pytest.fixture
def config(sqlite_engine: Engine, tmp_path: Path) -> Path:
    path = tmp_path / "night.toml"
    path.write_text(f'[paths]\ndatabase = "{sqlite_engine.url}"\n')
    return path


@pytest.fixture
def versions(sqlite_engine: Engine, tmp_path: Path) -> list[str]:
    """Two releases, recorded in this order; the second is live."""
    made = [build_release(tmp_path, seed).manifest.version for seed in (0, 1)]
    for version, ndcg in zip(made, (0.2174, 0.2352)):
        metrics = {"popularity": {"NDCG@12": 0.1}, "release": {"MAP@12": 0.3, "NDCG@12": ndcg}}
        metrics |= {"evaluated_from": "2026-02-22T06:00:00+00:00", "evaluated_to": "2026-03-01T00:00:00+00:00"}
        path = str(tmp_path / version)
        record_release(sqlite_engine, version=version, path=path, data_cutoff=CUTOFF, checksum="c", metrics=metrics)
    publish_release(sqlite_engine, made[1])
    return made


def live_version(engine: Engine) -> str:
    live = live_release(engine)
    assert live is not None
    return live.version


def test_releases_are_listed_newest_first(
    config: Path, versions: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(tmp_path / versions[0])
    assert main(["releases", "--config", str(config)]) == 0
    header, second, first = capsys.readouterr().out.splitlines()
    assert header.split()[0] == "version"
    assert second.split()[:3] == [versions[1], "2026-03-01", "00:00"]
    assert second.endswith("NDCG@12 0.2352 on 2026-02-22 to 2026-02-28  live")
    assert first.split()[0] == versions[0]
    assert "NDCG@12 0.2174" in first
    assert first.endswith("is gone")
    assert header.index("quality") == first.index("NDCG@12") == second.index("NDCG@12")


def test_a_shop_without_releases_is_told_how_to_get_one(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["releases", "--config", str(config)]) == 0
    assert "recsys retrain makes one" in capsys.readouterr().out


def test_publishing_is_also_the_way_back(
    config: Path, versions: list[str], sqlite_engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    for version in versions:
        assert main(["publish", version, "--config", str(config)]) == 0
        assert capsys.readouterr().out.startswith(f"{version} is live")
        assert live_version(sqlite_engine) == version


def test_an_unknown_version_is_answered_with_those_there_are(
    config: Path, versions: list[str], sqlite_engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", "v9", "--config", str(config)]) == 2
    said = capsys.readouterr().err
    assert f"one of {versions[1]}, {versions[0]}, came 'v9'" in said
    assert live_version(sqlite_engine) == versions[1]


def test_what_cannot_be_loaded_is_not_published(
    config: Path, versions: list[str], sqlite_engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / versions[0] / "tower.safetensors").unlink()
    assert main(["publish", versions[0], "--config", str(config)]) == 2
    assert "tower.safetensors: expected sha256" in capsys.readouterr().err
    assert live_version(sqlite_engine) == versions[1]
