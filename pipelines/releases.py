"""``recsys releases``: which releases there are, how good each was found, and which one is live."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.config import add_config_argument, load_paths
from recsys.data.database import open_database, upgrade_database
from recsys.data.releases import list_releases, live_release


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``recsys releases``."""
    add_config_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print one line a release, newest first; always 0."""
    engine = open_database(load_paths(args.config).database)
    upgrade_database(engine)
    releases, live = list_releases(engine), live_release(engine)
    engine.dispose()
    if not releases:
        print("no release is recorded yet: recsys retrain makes one")
        return 0
    print(f"{'version':29}  {'data up to, UTC':16}  {'made, UTC':16}  quality")
    for release in releases:
        remarks = []
        if live is not None and release.version == live.version:
            remarks.append("live")
        if not Path(release.path).exists():
            remarks.append(f"{release.path} is gone")
        moments = (f"{moment:%Y-%m-%d %H:%M}" for moment in (release.data_cutoff, release.created_at))
        line = "  ".join((f"{release.version:29}", *moments, f"{_quality(release.metrics):14}", ", ".join(remarks)))
        print(line.rstrip())
    return 0


def _quality(metrics: Mapping[str, Any]) -> str:
    """The release's own NDCG on its test window, as "NDCG@12 0.2352"."""
    figures = metrics.get("release", {})
    return next((f"{name} {value:.4f}" for name, value in figures.items() if name.startswith("NDCG")), "")
