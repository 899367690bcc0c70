"""Where the nights of the tests stand."""

from datetime import timedelta
from pathlib import Path

from pipelines.config import Paths

SMALL = Path("pipelines/small.toml")
DAY = timedelta(days=1)


def paths_below(home: Path, cache: Path | None = None) -> Paths:
    return Paths(
        database=f"sqlite:///{home / 'shop.db'}",
        events=str(home / "events"),
        cache=str(cache or home / "cache"),
        releases=str(home / "releases"),
        images=str(home / "shop"),
    )
