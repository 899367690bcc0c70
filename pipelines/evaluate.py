"""Offline A/B of two releases on the same later days: ``recsys evaluate A B``.

Both answer the same requests through :func:`recsys.recommend.recommend`, which is what serves: what is measured is what
would be served. Neither may know anything of the days it is judged on.
"""

import json
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.answers import Arrivals, Bool, answer_requests, on_offer, read_arrivals
from pipelines.config import add_config_argument, load_paths
from pipelines.releases import release_directory
from pipelines.sheets import ItemCards, item_cards, make_sheet
from recsys.artifacts import Release, load_release
from recsys.data.database import current_database
from recsys.data.event_log import append_to_log, scan_events
from recsys.data.load import load_items
from recsys.errors import LeakageError, SchemaError, require_at_least
from recsys.evaluation.ab_report import ABInput, SlatePair, ab_figures, ab_headline, ab_lead, ab_report
from recsys.evaluation.requests import EvaluationSet, build_requests
from recsys.evaluation.wording import say_interval, say_moment, say_window
from recsys.evaluation.yardstick import Yardstick, build_yardstick, compare_policies
from recsys.histories import target_types
from recsys.request import FALLBACKS, Slate

K = 12  # length of the slates where nobody asks for another


@dataclass(frozen=True)
class Evaluation:
    """What both releases answered, and how it compares.

    Attributes:
        requests: what was asked, and what was right.
        offer_a, offer_b: what each may show, bool [its items], from on_offer().
        slates_a, slates_b: the answers, in the order of the requests.
        report: everything that the page shows, without examples.
        per_user_a, per_user_b: metric → float32 [q].
    """

    requests: EvaluationSet
    offer_a: Bool
    offer_b: Bool
    slates_a: list[Slate]
    slates_b: list[Slate]
    report: ABInput
    per_user_a: dict[str, NDArray[np.float32]]
    per_user_b: dict[str, NDArray[np.float32]]


def evaluate(
    release_a: Release,
    release_b: Release,
    events: pl.DataFrame | pl.LazyFrame,
    start: datetime,
    end: datetime,
    *,
    arrivals: Arrivals | None = None,
    k: int = K,
    target_types: Sequence[str] = ("purchase",),
    max_users: int | None = None,
    seed: int = 0,
    resamples: int = 2000,
    threads: int = 1,
    progress: bool = True,
) -> Evaluation:
    """Let A (the release in place) and B answer the requests of [start, end) and compare them shopper by shopper.

    Args:
        release_a, release_b: both fitted on events before ``start`` only.
        events: the columns of EVENTS, with the days before ``start`` (histories, popularity) and those of the window.
        start, end: the test window, UTC, the end exclusive.
        arrivals: of the catalogue: what came after a release's data end, it does not show. None: unknown.
        k: length of the slates.
        target_types: events that make an item relevant.
        max_users: draw so many shoppers; all where None.
        seed: of that draw and of the bootstrap.
        resamples: of the bootstrap.
        threads: that answer.
        progress: show a bar.

    Raises:
        LeakageError: a release has seen events of the window.
        SchemaError: nobody took anything in the window, the events lack a column, or a time has no zone.
        ConfigError: ``k`` or ``max_users`` is below 1, or ``seed`` below 0.
    """
    _check(start, end, k, max_users, seed)
    for name, release in (("A", release_a), ("B", release_b)):
        refuse_leakage(release, start, name)
    requests = build_requests(events, start, end, target_types=target_types, max_users=max_users, seed=seed, limit=k)
    if not requests.requests:
        raise SchemaError(
            f"events: expected {' or '.join(target_types)} events from {start} to {end}, came none in that window"
        )
    yardstick = _build_yardstick(release_a, release_b, requests, events, k, target_types)
    offer_a, offer_b = (on_offer(release, arrivals or {}) for release in (release_a, release_b))
    began = time.perf_counter()
    label_a, label_b = ("A", "B") if progress else (None, None)
    slates_a = answer_requests(release_a, requests.requests, offer_a, label=label_a, threads=threads)
    halfway = time.perf_counter()
    slates_b = answer_requests(release_b, requests.requests, offer_b, label=label_b, threads=threads)
    seconds = {"A": halfway - began, "B": time.perf_counter() - halfway}
    shown_a, shown_b = yardstick.slate_rows(slates_a), yardstick.slate_rows(slates_b)
    per_user_a, per_user_b = yardstick.per_user(shown_a), yardstick.per_user(shown_b)
    segments_a, segments_b = yardstick.by_segment(shown_a), yardstick.by_segment(shown_b)
    catalogue_b = yardstick.catalogue(shown_b)
    report = ABInput(
        name_a=release_a.manifest.version,
        name_b=release_b.manifest.version,
        created_at=datetime.now(UTC),
        window=say_window(start, end),
        n_requests=len(requests),
        comparisons=compare_policies(per_user_a, per_user_b, seed=seed, resamples=resamples),
        asked={"start": start.isoformat(), "end": end.isoformat()}
        | {"k": k, "targets": list(target_types), "max_users": max_users, "seed": seed},
        catalogue={name: (value, catalogue_b[name]) for name, value in yardstick.catalogue(shown_a).items()},
        segments={
            title: compare_policies(values, segments_b[title], seed=seed, resamples=resamples)
            for title, values in segments_a.items()
        },
        fallbacks=_count_fallbacks(slates_a, slates_b),
        overlap=_overlap(slates_a, slates_b),
        seconds=seconds,
        notes=_notes(requests, seconds) + _compare_catalogues(requests, (release_a, offer_a), (release_b, offer_b)),
    )
    return Evaluation(requests, offer_a, offer_b, slates_a, slates_b, report, per_user_a, per_user_b)


def _check(start: datetime, end: datetime, k: int, max_users: int | None, seed: int) -> None:
    for name, moment in (("start", start), ("end", end)):
        if moment.tzinfo is None:
            raise SchemaError(f"{name}: expected a UTC time with its zone, came {moment!r}")
    drawn = 1 if max_users is None else max_users
    require_at_least("", {"k": k, "max_users": drawn, "seed": seed}, k=1, max_users=1, seed=0)


def refuse_leakage(release: Release, start: datetime, name: str = "the release") -> None:
    """Raise LeakageError where ``release`` has seen events of the window that starts at ``start``."""
    manifest = release.manifest
    for what, cutoff in (("data_cutoff", manifest.data_cutoff), ("embedding_cutoff", manifest.embedding_cutoff)):
        if cutoff > start:
            raise LeakageError(
                f"{name} ({manifest.version}): expected a {what} not after {start}, the start of the test window, "
                f"came {cutoff}"
            )


def pick_examples(evaluation: Evaluation, each: int = 2, seed: int = 0) -> dict[int, str]:
    """Shoppers to look at, and why: ``each`` where B gains most, where A does, and drawn from the rest that differ.

    Returns:
        Position of the request → why it is shown.
    """
    main = next(iter(evaluation.report.comparisons))
    gain = evaluation.per_user_b[main] - evaluation.per_user_a[main]
    known = evaluation.requests.history_lengths > 0
    differ = np.array([_ids(a) != _ids(b) for a, b in zip(evaluation.slates_a, evaluation.slates_b)])
    # Those with a history say more; a shop of newcomers alone still gets its examples.
    candidates = np.flatnonzero(differ & known) if (differ & known).any() else np.flatnonzero(differ)
    ordered = candidates[np.argsort(-gain[candidates], kind="stable")].tolist()
    picked = {user: "B finds more" for user in ordered[:each] if gain[user] > 0}
    picked |= {user: "A finds more" for user in ordered[::-1][:each] if gain[user] < 0}
    rest = np.setdiff1d(candidates, list(picked))
    drawn = np.random.default_rng(seed).choice(rest, min(each, len(rest)), replace=False).tolist()
    return picked | dict.fromkeys(drawn, "Drawn by chance")


def draw_examples(
    evaluation: Evaluation,
    release_a: Release,
    release_b: Release,
    picked: Mapping[int, str],
    cards: ItemCards,
    images: Path,
) -> list[SlatePair]:
    """Both slates of each picked request, with pictures, reasons, and what was then bought."""
    requests = [replace(evaluation.requests.requests[user], explain=True) for user in picked]
    pairs = []
    for user, request, slate_a, slate_b in zip(
        picked,
        requests,
        answer_requests(release_a, requests, evaluation.offer_a),
        answer_requests(release_b, requests, evaluation.offer_b),
    ):
        bought = evaluation.requests.relevant[user]
        title = request.user_id or request.session_id or "somebody new"
        a, b = (make_sheet(title, request, slate, cards, images, bought) for slate in (slate_a, slate_b))
        took = f"then took {len(bought)} item{'s' if len(bought) > 1 else ''}"
        words = f"{picked[user]} · {request.requested_at:%Y-%m-%d %H:%M} UTC · {took}"
        pairs.append(SlatePair(title, a.history, a.recommended, b.recommended, words))
    return pairs


def _build_yardstick(
    release_a: Release,
    release_b: Release,
    requests: EvaluationSet,
    events: pl.DataFrame | pl.LazyFrame,
    k: int,
    target_types: Sequence[str],
) -> Yardstick:
    """Both are held against the union of their catalogues.

    One space must measure the diversity of both: A's, the one in place. An item's age is as B knows it.
    """
    item_ids = list(dict.fromkeys([*release_a.item_ids, *release_b.item_ids]))
    counts = (
        events.lazy()
        .filter((pl.col("timestamp") < requests.start) & pl.col("event_type").is_in(list(target_types)))
        .group_by("item_id")
        .len()
        .collect()
    )
    count_of = dict(counts.iter_rows())
    return build_yardstick(
        requests,
        item_ids,
        popularity=np.array([count_of.get(item_id, 0) for item_id in item_ids], np.int64),
        embeddings=_spread(release_a, item_ids, np.asarray(release_a.retrieval.embeddings, np.float32), 0.0),
        created_at_days=_spread(release_b, item_ids, np.asarray(release_b.tables.created_at_days, np.float64), np.nan),
        k=k,
    )


def _spread(release: Release, item_ids: Sequence[str], values: NDArray[Any], absent: float) -> NDArray[Any]:
    """A release's values by row → by position in ``item_ids``; ``absent`` for items that it does not know."""
    own = np.array([release.rows.get(item_id, -1) for item_id in item_ids])
    spread = np.full((len(item_ids), *values.shape[1:]), absent, values.dtype)
    spread[own >= 0] = values[own[own >= 0]]
    return spread


def _count_fallbacks(slates_a: Sequence[Slate], slates_b: Sequence[Slate]) -> dict[str, tuple[int, int]]:
    a, b = (Counter(slate.fallback for slate in slates) for slates in (slates_a, slates_b))
    return {rung: (a[rung], b[rung]) for rung in FALLBACKS if a[rung] or b[rung]}


def _overlap(slates_a: Sequence[Slate], slates_b: Sequence[Slate]) -> float:
    shares = []
    for a, b in zip(slates_a, slates_b):
        ids_a, ids_b = set(_ids(a)), set(_ids(b))
        shares.append(len(ids_a & ids_b) / max(len(ids_a), len(ids_b), 1))
    return float(np.mean(shares))


def _ids(slate: Slate) -> list[str]:
    return [item.item_id for item in slate.items]


def _notes(requests: EvaluationSet, seconds: dict[str, float]) -> list[str]:
    newcomers = int((requests.history_lengths == 0).sum())
    pace = ", ".join(f"{name} {1000 * spent / len(requests):.1f} ms" for name, spent in seconds.items())
    return [
        f"One request for each shopper, at the first event in the window: {len(requests):,}, {newcomers:,} of them "
        "without any history.",
        "Novelty counts purchases before the window. Diversity is measured in the embedding space of A for both.",
        f"Time for an answer, in batches: {pace}.",
    ]


def _compare_catalogues(requests: EvaluationSet, a: tuple[Release, Bool], b: tuple[Release, Bool]) -> list[str]:
    """What each release could show at all: one that is older, or knows less, misses what the other may find."""
    offered_a, offered_b = (set(compress(release.item_ids, offer)) for release, offer in (a, b))
    taken = [item_id for items in requests.relevant for item_id in items]
    in_a, in_b = (np.array([item_id in offered for item_id in taken]) for offered in (offered_a, offered_b))
    ends = [f"of {name} at {say_moment(release.manifest.data_cutoff)}" for name, (release, _) in zip("AB", (a, b))]
    return [
        f"Relevant is what the shopper then took: {len(taken):,} items. {(~in_a & ~in_b).sum():,} of them neither "
        f"release could show, {(in_a & ~in_b).sum():,} A alone, {(in_b & ~in_a).sum():,} B alone; where one could not, "
        "they count as missed.",
        f"The data end {' and '.join(ends)}. Of the catalogue, {len(offered_a - offered_b):,} items only A could show, "
        f"{len(offered_b - offered_a):,} only B.",
    ]


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of ``recsys evaluate``."""
    parser.description = "Compare two releases on the same later days. Exit status: 0 with a verdict, 2 without."
    parser.add_argument("a", metavar="A", help="the release in place: a version or a directory")
    parser.add_argument("b", metavar="B", help="the other one")
    add_config_argument(parser)
    parser.add_argument("--start", type=_day, help="first test day, UTC (default: where the data of the younger ends)")
    parser.add_argument("--end", type=_day, help="first day after the test, UTC (default: after the last event)")
    parser.add_argument("--k", type=int, default=K, help="length of the slates (default: %(default)s)")
    parser.add_argument(
        "--target",
        action="append",
        metavar="TYPE",
        help="event that makes an item relevant (default: purchase; all in a log without any)",
    )
    parser.add_argument("--max-users", type=int, help="draw so many shoppers (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw and the bootstrap (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("var/evaluations"), help="folder (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="that answer (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def run(args: Namespace) -> int:
    """Evaluate as the arguments say; print the verdict and where the report stands.

    Raises:
        RecsysError: no release, no events, or a release that knows the test window; the command line names it.
    """
    paths = load_paths(args.config)
    release_a, release_b = (load_release(release_directory(name, paths)) for name in (args.a, args.b))
    with current_database(paths.database) as engine:
        append_to_log(engine, paths.events)
        items = load_items(engine)
    events = scan_events(paths.events)
    start = args.start or max(release_a.manifest.data_cutoff, release_b.manifest.data_cutoff)
    end = args.end or _after_last_event(events, paths.events)
    if start >= end:
        raise SchemaError(
            f"{paths.events}: expected events after {start}, where the releases' own data ends, came none: wait for "
            "new ones, or name releases that were fitted up to an earlier day"
        )
    sells = len(events.filter(pl.col("event_type") == "purchase").head(1).collect()) > 0
    evaluation = evaluate(
        release_a,
        release_b,
        events,
        start,
        end,
        arrivals=read_arrivals(items),
        k=args.k,
        target_types=tuple(args.target or target_types(sells)),
        max_users=args.max_users,
        seed=args.seed,
        threads=args.threads,
        progress=not args.quiet,
    )
    picked = pick_examples(evaluation, seed=args.seed)
    examples = draw_examples(evaluation, release_a, release_b, picked, item_cards(items), Path(paths.images))
    report = replace(evaluation.report, examples=examples)
    page = args.output / f"{_name(report, start, end, args)}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(ab_report(report), encoding="utf-8")
    page.with_suffix(".json").write_text(json.dumps(ab_figures(report), indent=2), encoding="utf-8")
    print(f"{ab_headline(*next(iter(report.comparisons.items())))}.\n{ab_lead(report)}\n\n{_table(report)}\n\n{page}")
    return 0


def _name(report: ABInput, start: datetime, end: datetime, args: Namespace) -> str:
    """Of the files: what another window or another question would answer otherwise has a name of its own."""
    window = f"{start:%Y%m%dT%H%M%S}-to-{end:%Y%m%dT%H%M%S}"
    others = [f"k{args.k}"] if args.k != K else []
    return "-".join([f"{report.name_a}-against-{report.name_b}-{window}", *others, *(args.target or [])])


def _table(report: ABInput) -> str:
    lines = [f"{'':14} {'A':>9} {'B':>9} {'difference':>11}  95% interval          B is"]
    for name, c in report.comparisons.items():
        interval = say_interval(c, "{} to {}", relative=False)
        lines.append(f"{name:14} {c.mean_a:9.4f} {c.mean_b:9.4f} {c.difference:+11.4f}  {interval:20}  {c.verdict}")
    lines += [f"{name:14} {a:9.4f} {b:9.4f} {b - a:+11.4f}" for name, (a, b) in report.catalogue.items()]
    return "\n".join(lines)


def _after_last_event(events: pl.LazyFrame, folder: str) -> datetime:
    last = events.select(pl.col("timestamp").max()).collect().item()
    if last is None:
        raise SchemaError(f"{folder}: expected an event log with events, came none")
    after: datetime = last.replace(tzinfo=UTC) + timedelta(microseconds=1)
    return after


def _day(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
