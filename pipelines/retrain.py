"""The night: ``recsys retrain pipelines/nightly.toml``

database → Parquet log → encode what is new → align → tastes and candidates as of earlier times → ranker → judge →
release → live

The release is judged by a twin: the same recipe fitted up to the last days, which then answers them. What is published
is fitted to the end, and the manifest names both moments. Only what is published has the newest reviews in its items'
vectors: in the twin's, and in those that the ranker learns from, a buyer's words would tell of the purchase. Killed
anywhere, the night leaves the live release as it was, and the next run encodes nothing twice.
"""

import argparse
import fcntl
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import polars as pl
from sqlalchemy import Engine, func, select

from pipelines.catalogue import build_catalogue
from pipelines.encode import AlignedShop, EncodedShop, add_newest_reviews, align_shop, encode_shop
from pipelines.judge import RELEASE, SHIFTS_SHOWN, Judgement, judge
from pipelines.night_config import EvaluationConfig, NightConfig, load_config
from pipelines.night_report import write_night_report
from pipelines.recipe import RecipeConfig, Shop
from pipelines.search import build_search
from pipelines.stages import Stages
from pipelines.tuning import start_from
from pipelines.workshop import Workshop
from recsys.artifacts import Release, read_manifest, save_release
from recsys.data.database import current_database
from recsys.data.event_log import append_to_log, scan_events
from recsys.data.load import load_items, load_reviews
from recsys.data.releases import list_releases, live_release, publish_release, record_release
from recsys.data.runs import finish_run, start_run
from recsys.data.split import Split, temporal_split
from recsys.data.tables import Item
from recsys.errors import ConfigError, RecsysError, ReleaseError, SchemaError
from recsys.evaluation.compare import WORSE, Comparison
from recsys.evaluation.requests import build_requests
from recsys.histories import Float32, days_since_epoch, moment_of, read_interactions

LIBRARIES = ("faiss-cpu", "lightgbm", "numpy", "polars", "timm", "torch", "transformers")


def retrain(
    config: NightConfig, *, until: datetime | None = None, publish: bool = True, progress: bool = True
) -> Release:
    """Run the night; returns the saved release.

    Args:
        config: see NightConfig.
        until: UTC; leave out what happened from then on, for an offline A/B on the days after. None: all there is.
        publish: make it live; otherwise it is recorded only.
        progress: print stages and bars to stderr.

    Raises:
        SchemaError: there are no items or no events to learn from, or nothing is known of the items but their ids, and
            fewer than two of them were taken by two shoppers.
        ConfigError: the events all have the same time, or none is from before ``until``.
        ReleaseError: it was to be published, and is made and recorded only: see publish_unless_worse().
    """
    stages = Stages(progress)
    with current_database(config.paths.database) as engine, _only_one_night(Path(config.paths.releases)):
        run_id = start_run(engine, "retrain", config.for_manifest())
        try:
            saved, judgement = _night(engine, config, stages, until)
        except Exception as error:
            finish_run(
                engine, run_id, [asdict(stage) for stage in stages.done], error=f"{type(error).__name__}: {error}"
            )
            raise
        version = saved.manifest.version
        finish_run(engine, run_id, [asdict(stage) for stage in stages.done], release=version)
        if publish:
            publish_unless_worse(engine, version, judgement.comparisons["popularity"], config.evaluation)
    return saved


def publish_unless_worse(
    engine: Engine, version: str, against_popularity: Mapping[str, Comparison], config: EvaluationConfig
) -> None:
    """Make a recorded release live, but not in place of another where its twin did surely worse than what sells.

    So looks a night that has read broken data. Where nothing is live, even that is better.

    Raises:
        ReleaseError: it did, and ``publish_worse`` does not allow it; the live one stays.
    """
    metric, comparison = next(iter(against_popularity.items()))
    live = live_release(engine)
    if live and live.version != version and comparison.verdict == WORSE and not config.publish_worse:
        raise ReleaseError(
            f"{version}: expected it to do no worse than popularity before it replaces {live.version}, came {metric} "
            f"{comparison.mean_b:.4f} against {comparison.mean_a:.4f}. It is made and recorded: recsys publish "
            f"{version} makes it live all the same, and [evaluation] publish_worse = true lets every night do so"
        )
    publish_release(engine, version)


def _night(engine: Engine, config: NightConfig, stages: Stages, until: datetime | None) -> tuple[Release, Judgement]:
    with stages.stage("read the database and the log") as notes:
        append_to_log(engine, config.paths.events)
        seen = _catalogue_seen(engine)  # before it is read: what comes in between is read twice, and not never
        items, reviews = load_items(engine), load_reviews(engine)
        if until is not None:
            reviews = reviews.filter(pl.col("timestamp") < until)
        events, n_ahead = read_events(config.paths.events, until, datetime.now(UTC))
        if n_ahead:
            notes.append(f"{n_ahead} events dated in the future are left out")
        shop = _read_shop(items, reviews, events)
        first, last = events.select(pl.min("timestamp"), last=pl.max("timestamp")).row(0)
        end = last + timedelta(microseconds=1)
        targets = shop.targets_days
        judged, published = (
            temporal_split(first, moment_of(targets.max()), config.split, test_windows=windows, targets_days=targets)
            for windows in (1, 0)
        )
        written = reviews.filter(pl.col("timestamp") < end)
    with stages.stage("encode pictures and words"):
        encoded = encode_shop(items, written, judged.cuts[0], config, stages.progress)
    with stages.stage("align"):
        aligned = align_shop(encoded, shop.interactions, judged.cuts[0], config, stages.progress)
    recipe = start_from_last_night(engine, config, end)
    workshop = Workshop(shop, aligned.vectors, recipe, stages.bar, shown=stages.progress)
    with stages.stage("tune on the newest label window") as notes:
        workshop.tune(judged.windows, config.pinned)
        notes.append(f"{len(workshop.trials)} numbers changed")
    with stages.stage("fit up to the test window"):
        twin = workshop.ranked_release(judged.windows, judged.test_start)
    with stages.stage("judge on the test window"):
        judgement = _judge(twin, shop, judged, config, workshop.learned_features(judged.windows))
    with stages.stage("fit to the end"):
        aligned = add_newest_reviews(aligned, encoded, items, written, shop.interactions, end, config)
        release = workshop.ranked_release(published.windows, end, aligned.vectors)
    with stages.stage("index the words"):
        words = build_search(
            items,
            reviews,
            aligned.aligner,
            aligned.modalities,
            aligned.vectors.fused,
            Path(config.paths.images),
            config.threads,
        )
        release = replace(release, search=words, manifest=replace(release.manifest, catalogue_seen=seen))
    with stages.stage("save"):
        saved = _save(release, aligned, judgement, config, workshop)
        folder = Path(config.paths.releases) / saved.manifest.version
    data = _data_facts(shop, encoded) | ({"events dated in the future, left out": n_ahead} if n_ahead else {})
    write_night_report(saved, folder / "report.html", judgement, aligned.aligner, items, config, stages.done, data)
    _record(engine, saved, folder)
    return saved, judgement


def start_from_last_night(engine: Engine, config: NightConfig, end: datetime) -> RecipeConfig:
    """This night's recipe with the numbers that the newest published release of earlier data chose for itself.

    Of earlier data only: a night that is repeated starts from where it started before, and so ends where it ended. One
    that was never published was an experiment, perhaps with numbers set by hand.
    """
    recipe = config.recipe
    before = [release for release in list_releases(engine, published=True) if release.data_cutoff < end]
    if not before or not config.tuning.enabled:
        return recipe
    newest = max(before, key=lambda release: (release.data_cutoff, release.created_at))
    try:
        numbers = read_manifest(Path(newest.path)).tuning.get("numbers", {})
    except ReleaseError:  # gone from the disk, or made by other code: the defaults are a start as well
        return recipe
    tables, retrieval, ranker = start_from(numbers, recipe.tables, recipe.retrieval, recipe.ranker, config.pinned)
    return replace(recipe, tables=tables, retrieval=retrieval, ranker=ranker)


def read_events(log_dir: Path | str, until: datetime | None, now: datetime) -> tuple[pl.DataFrame, int]:
    """What a night that runs at ``now`` learns from, and how many events are left out for being dated later than that.

    A clock that is ahead somewhere would otherwise put the data cut-off into the future, where no request can be yet.

    Args:
        log_dir: of append_to_log().
        until: UTC; leave out what happened from then on, silently. None: only what lies in the future.
        now: UTC.

    Raises:
        ConfigError: there are events, but none before ``until``.
    """
    log = scan_events(log_dir)
    end = now if until is None else min(until, now)
    events = log.filter(pl.col("timestamp") < end).collect()
    first, n_ahead = log.select(pl.min("timestamp"), ahead=(pl.col("timestamp") >= now).sum()).collect().row(0)
    if until is not None and events.is_empty() and first is not None:
        raise ConfigError(
            f"--until: expected a time after the first event, which is of {first.isoformat()}, came {until.isoformat()}"
        )
    return events, n_ahead


@contextmanager
def _only_one_night(releases: Path) -> Iterator[None]:
    """Hold the lock of ``releases``, and clear away what a night that was killed left half written.

    Raises:
        ConfigError: another night is at work there. The lock goes with the process, however it ends.
    """
    releases.mkdir(parents=True, exist_ok=True)
    with (releases / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{releases}: expected no other night at work here, came one: wait for it") from error
        for draft in releases.glob(".draft-*"):
            shutil.rmtree(draft, ignore_errors=True)
        yield


def _read_shop(items: pl.DataFrame, reviews: pl.DataFrame, events: pl.DataFrame) -> Shop:
    if len(items) == 0 or len(events) == 0:
        raise SchemaError(f"expected a catalogue and events, came {len(items)} items and {len(events)} events")
    catalogue = build_catalogue(items, reviews)
    interactions = read_interactions(events, catalogue.item_ids)
    if len(interactions) == 0:
        raise SchemaError(f"expected events of known items, came {len(events)} events and none of a known item")
    return Shop(catalogue, interactions, events)


def _judge(twin: Release, shop: Shop, split: Split, config: NightConfig, learned: Sequence[Float32]) -> Judgement:
    questions = build_requests(
        shop.events,
        split.test_start,
        split.end,
        target_types=shop.target_types,
        max_users=config.evaluation.max_users,
        seed=config.seed,
        limit=config.evaluation.k,
    )
    past = shop.interactions.select(shop.interactions.time_days < days_since_epoch(split.test_start))
    arrivals = dict(zip(shop.catalogue.item_ids, shop.catalogue.created_at_days.tolist()))
    return judge(twin, questions, past, arrivals, config.evaluation.k, config.seed, config.threads, learned)


def _catalogue_seen(engine: Engine) -> datetime | None:
    with engine.connect() as connection:
        return connection.scalar(select(func.max(Item.updated_at)))


def _save(
    release: Release, aligned: AlignedShop, judgement: Judgement, config: NightConfig, workshop: Workshop
) -> Release:
    window = judgement.questions
    manifest = replace(
        release.manifest,
        config=config.with_recipe(workshop.config).for_manifest(),
        tuning=workshop.tuning_record(),
        metrics={
            "evaluated_from": window.start.isoformat(),
            "evaluated_to": window.end.isoformat(),
            "feature_shift": [asdict(shift) for shift in judgement.shifts[:SHIFTS_SHOWN]],
            **judgement.means,
        },
        code_commit=_commit(),
        libraries={name: installed_version(name) for name in LIBRARIES},
    )
    return save_release(replace(release, manifest=manifest), Path(config.paths.releases), aligned.save)


def _record(engine: Engine, saved: Release, folder: Path) -> None:
    manifest = saved.manifest
    record_release(
        engine,
        version=manifest.version,
        path=str(folder.resolve()),
        data_cutoff=manifest.data_cutoff,
        checksum=manifest.version.rsplit("-", 1)[1],
        metrics=dict(manifest.metrics),
    )


def _data_facts(shop: Shop, encoded: EncodedShop) -> dict[str, int]:
    interactions = shop.interactions
    return {
        "items": len(shop.catalogue),
        "shoppers": int(interactions.shoppers.max()) + 1,
        "events": len(interactions),
        "purchases": len(interactions.of_type("purchase")),
        **encoded.counts,
    }


def _commit() -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    here = Path(__file__).parent
    done = subprocess.run([git, "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``recsys retrain``."""
    parser.add_argument("config", type=Path, help="a TOML file, such as pipelines/nightly.toml")
    parser.add_argument(
        "--until",
        type=datetime.fromisoformat,
        metavar="TIME",
        help="leave out events from this UTC time on (2026-02-20), to be tested on them; implies --no-publish",
    )
    parser.add_argument("--quiet", action="store_true", help="no stages, no progress bars")
    parser.add_argument("--no-publish", action="store_true", help="make and record the release, leave the live one")


def run(args: argparse.Namespace) -> int:
    """``recsys retrain``: 0 when a release was made, 2 when it could not be, or not be published."""
    try:
        started = datetime.now(UTC)
        until = args.until and args.until.replace(tzinfo=args.until.tzinfo or UTC)
        publish = until is None and not args.no_publish
        release = retrain(load_config(args.config), until=until, publish=publish, progress=not args.quiet)
    except RecsysError as error:
        print(f"the live release stays: {error}", file=sys.stderr)
        return 2
    figures: dict[str, Any] = dict(release.manifest.metrics[RELEASE])
    print(f"{release.manifest.version}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items()))
    print(f"{(datetime.now(UTC) - started).total_seconds():.0f} s")
    return 0
