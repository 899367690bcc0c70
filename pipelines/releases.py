"""``recsys releases``: which releases there are, how good each was found, and which one is live."""

import argparse
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.config import Paths, add_config_argument, load_paths
from recsys.data.database import current_database
from recsys.data.releases import list_releases, live_release
from recsys.errors import ReleaseError
from recsys.evaluation.wording import say_window


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``recsys releases``."""
    add_config_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print one line a release, newest first; always 0."""
    with current_database(load_paths(args.config).database) as engine:
        releases, live = list_releases(engine), live_release(engine)
    if not releases:
        print("no release is recorded yet: recsys retrain makes one")
        return 0
    print(f"{'version':29}  {'data up to, UTC':16}  {'made, UTC':16}  quality, on its test days")
    for release in releases:
        remarks = []
        if live is not None and release.version == live.version:
            remarks.append("live")
        if not Path(release.path).exists():
            remarks.append(f"{release.path} is gone")
        moments = (f"{moment:%Y-%m-%d %H:%M}" for moment in (release.data_cutoff, release.created_at))
        line = "  ".join((f"{release.version:29}", *moments, f"{_quality(release.metrics):42}", ", ".join(remarks)))
        print(line.rstrip())
    return 0


def release_directory(name: str, paths: Paths) -> Path:
    """A release's directory: ``name`` itself where it is one, else the version of that name below [paths] releases.

    Raises:
        ReleaseError: neither is there; the message names the versions that are.
    """
    for folder in (Path(name), Path(paths.releases, name)):
        if (folder / "manifest.json").is_file():
            return folder
    known = sorted(manifest.parent.name for manifest in Path(paths.releases).glob("[!.]*/manifest.json"))
    raise ReleaseError(
        f"{name}: expected a release: a directory, or a version below {paths.releases}, "
        + (f"where these are: {', '.join(known)}" if known else "where there is none yet")
    )


def _quality(metrics: Mapping[str, Any]) -> str:
    """The release's own NDCG, and the days on which it was judged: those of other days are not comparable."""
    figures = metrics.get("release", {})
    said = next((f"{name} {value:.4f}" for name, value in figures.items() if name.startswith("NDCG")), "")
    if "evaluated_from" not in metrics or "evaluated_to" not in metrics:
        return said
    start, end = (datetime.fromisoformat(metrics[name]) for name in ("evaluated_from", "evaluated_to"))
    return f"{said} on {say_window(start, end)}"
