"""``recsys sheet`` and the sheets of the reports: what stands above a slate, and what a failure says."""

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from PIL import Image
from service_shop import CUTOFF, items, publish
from sqlalchemy import Engine

from pipelines.cli import main
from pipelines.sheets import item_cards, make_sheet
from recsys.data.store import put_items
from recsys.request import Request, Slate


@pytest.fixture
def config(sqlite_engine: Engine, tmp_path: Path) -> Path:
    put_items(sqlite_engine, items())
    path = tmp_path / "night.toml"
    path.write_text(f'[paths]\ndatabase = "{sqlite_engine.url}"\n')
    return path


@pytest.mark.parametrize(("release", "said"), [("", "answered as “full”"), ("v1", "answered as “full” by v1")])
def test_a_release_without_a_version_is_not_named(release: str, said: str, tmp_path: Path) -> None:
    sheet = make_sheet("Ann", Request(CUTOFF), Slate((), "full", release), {}, tmp_path)
    assert sheet.subtitle == f"0 past events · {said}"


def test_the_command_draws_a_page(config: Path, sqlite_engine: Engine, tmp_path: Path) -> None:
    publish(sqlite_engine, tmp_path / "releases")
    out = tmp_path / "sheet.png"
    assert main(["sheet", "u01", "nobody", "--config", str(config), "--as-of", "2026-03-01", "--out", str(out)]) == 0
    with Image.open(out) as picture:
        assert picture.format == "PNG"


def test_a_moment_before_the_cut_off_is_answered_with_both_moments(
    config: Path, sqlite_engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(sqlite_engine, tmp_path / "releases")
    day_before = f"{CUTOFF - timedelta(days=1):%Y-%m-%d}"
    assert main(["sheet", "u01", "--config", str(config), "--as-of", day_before, "--out", str(tmp_path / "s.png")]) == 2
    said = capsys.readouterr().err
    assert "at or after 2026-03-01T00:00:00+00:00" in said
    assert "came one at 2026-02-28T00:00:00+00:00" in said


def test_without_a_release_it_says_how_to_get_one(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sheet", "u01", "--config", str(config)]) == 2
    assert "run recsys retrain first" in capsys.readouterr().err


def test_a_card_shows_the_picture_that_is_compared() -> None:
    images = [["https://shop.example/a.jpg", "images/a.jpg"], ["https://shop.example/b.jpg"], []]
    items = pl.DataFrame(
        {"item_id": ["a", "b", "c"], "title": "A", "price_cents": 1, "category": "B", "images": images},
        schema_overrides={"images": pl.List(pl.String)},
    )
    assert [card["picture"] for card in item_cards(items).values()] == [Path("images/a.jpg"), None, None]
