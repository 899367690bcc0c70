"""A shop's data through the shipped importer, and the shipped night up to a moment: what "ours" means in every
table."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from benchmarks.protocol import DEPTHS, FIRST_STAGE
from benchmarks.stages import called, leave_out, workshop_for
from pipelines.config import Paths
from pipelines.judge import recommended_rows
from recsys.artifacts import Release
from recsys.data.database import open_database
from recsys.data.event_log import append_to_log, scan_events
from recsys.data.importers import import_shop
from recsys.data.importers.files import has_suffix
from recsys.data.load import load_items, load_reviews
from recsys.data.split import Split, temporal_split
from recsys.histories import Int32, read_interactions
from recsys.request import Request

if TYPE_CHECKING:  # they bring torch, which no peer should pay for
    from pipelines.encode import EncodedShop
    from pipelines.night_config import NightConfig
    from pipelines.recipe import Shop

HOME = Path("var/bench")


@dataclass(frozen=True)
class Workspace:
    """An imported shop: its frames, and where its things stand.

    Attributes:
        items, reviews: as they were imported.
        events: those of items that are in ``items``, in order of time.
        unknown_events: how many were left out because their item is not.
        paths: of the night.
    """

    items: pl.DataFrame
    reviews: pl.DataFrame
    events: pl.DataFrame
    unknown_events: int
    paths: Paths

    @property
    def item_ids(self) -> list[str]:
        """Of each row."""
        ids: list[str] = self.items["item_id"].to_list()
        return ids


def open_workspace(form: str, data: Path) -> Workspace:
    """Import ``data`` below var/bench, unless just this is there already, and read it back."""
    home = HOME / form / f"{data.resolve().name}-{_state_of(data.resolve())}"
    paths = Paths(
        database=f"sqlite:///{home / 'shop.db'}",
        events=str(home / "events"),
        cache="var/cache",
        releases=str(home / "releases"),
        images=str(data),
    )
    engine = open_database(paths.database)
    if not (home / "imported").exists():
        import_shop(engine, data, form, rejects=home / "rejects.jsonl", images_root=data)
        (home / "imported").touch()
    append_to_log(engine, paths.events)
    items, reviews = load_items(engine), load_reviews(engine)
    engine.dispose()
    logged = scan_events(paths.events).collect()
    events = logged.filter(pl.col("item_id").is_in(items["item_id"].to_list()))
    return Workspace(items, reviews, events, len(logged) - len(events), paths)


def _state_of(data: Path) -> str:
    """Twelve digits that change with where ``data`` lies, with its tables, and with which pictures there are.

    Of the pictures only the folders are asked: a picture that comes or goes changes its folder's time.
    """
    tables = [path for path in data.glob("*") if has_suffix(path)]
    folders = [Path(folder) for folder, _, _ in os.walk(data / "images")]
    parts = [str(data)]
    for path in sorted([*tables, *folders]):
        stat = path.stat()
        parts.append(f"{path.relative_to(data)} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:12]


def ours(
    shop: Workspace, as_of: datetime, requests: Sequence[Request], k: int, seed: int, without: str = ""
) -> dict[str, Int32]:
    """The shipped night on the events before ``as_of``, then recommend(): rows int32 [q, k].

    ``without`` is one of STAGES, or "" for all of it, which also gives the row without ranker.
    """
    from pipelines.catalogue import build_catalogue
    from pipelines.encode import encode_shop
    from pipelines.night_config import load_config
    from pipelines.recipe import Shop

    config = replace(load_config(Path("pipelines/nightly.toml")), paths=shop.paths, seed=seed)
    past = shop.events.filter(pl.col("timestamp") < as_of)
    first, last = past["timestamp"].min(), past["timestamp"].max()
    assert isinstance(first, datetime)
    assert isinstance(last, datetime)
    catalogue = build_catalogue(shop.items, shop.reviews)
    known = Shop(catalogue, read_interactions(past, catalogue.item_ids), past)
    split = temporal_split(first, last, config.split, test_windows=0, targets_days=known.targets_days)
    # As of the oldest cut, and so for the release too: none of these shops has reviews.
    encoded = encode_shop(shop.items, shop.reviews, split.cuts[0], config)
    return answers_of(fit_night(known, encoded, split, config, without), requests, k, config.threads, without)


def fit_night(shop: "Shop", encoded: "EncodedShop", split: Split, config: "NightConfig", without: str = "") -> Release:
    """Align, tune, fit and rank as the night does, on all of ``split``: nothing of it is kept for judging."""
    from pipelines.encode import align_shop

    config, encoded = leave_out(without, config, encoded)
    vectors = align_shop(encoded, shop.interactions, split.cuts[0], config).vectors
    workshop = workshop_for(without)(shop, vectors, config.recipe)
    workshop.tune(split.windows, config.pinned)
    return workshop.ranked_release(split.windows, split.end)


def answers_of(
    release: Release,
    requests: Sequence[Request],
    k: int,
    threads: int,
    without: str = "",
    shown: np.ndarray | None = None,
) -> dict[str, Int32]:
    """What ``release`` recommends; of a whole night, also what it would without its ranker, in a longer list.

    ``shown`` bool [n] is what may be recommended; None: everything.
    """
    answers = {called(without): recommended_rows(release, requests, k, threads, shown)}
    if not without:
        longer = [replace(request, limit=DEPTHS[-1]) for request in requests]
        first_stage = replace(release, ranker=None)
        answers[FIRST_STAGE] = recommended_rows(first_stage, longer, DEPTHS[-1], threads, shown)
    return answers
