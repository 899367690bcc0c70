"""Events → the requests that a shop would have made, and what its shoppers then took."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.errors import SchemaError
from recsys.request import LONGEST_HISTORY, Interaction, Request
from recsys.schema import EVENT_TYPES, EVENTS, HISTORY_EVENT_TYPES

MOST_SHARING = 20  # shoppers of a window with one session id; one that more have is no visit ("web", say)


@dataclass(frozen=True)
class EvaluationSet:
    """Questions with known answers, all from the days ``start`` (inclusive) to ``end`` (exclusive).

    ``relevant[u]`` are the distinct items that the shopper of ``requests[u]`` took in those days, first taken first; at
    least one.
    """

    requests: list[Request]
    relevant: list[list[str]]
    start: datetime
    end: datetime

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def history_lengths(self) -> NDArray[np.int64]:
        """Events in the history of each request, int64 [q]."""
        return np.array([len(request.history) for request in self.requests], np.int64)

    def relevance(self, item_ids: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """``relevant`` as the metrics take it: offsets int64 [q + 1] and rows int32 [m] into ``item_ids``.

        An item that is not among ``item_ids`` gets a row of its own from ``len(item_ids)`` on: nobody can recommend
        it, and it counts as missed.
        """
        row_of = {item_id: row for row, item_id in enumerate(item_ids)}
        rows = [row_of.setdefault(item_id, len(row_of)) for items in self.relevant for item_id in items]
        offsets = np.cumsum([0, *(len(items) for items in self.relevant)], dtype=np.int64)
        return offsets, np.array(rows, np.int32)


def build_requests(
    events: pl.DataFrame | pl.LazyFrame,
    start: datetime,
    end: datetime,
    *,
    target_types: Sequence[str] = ("purchase",),
    history_limit: int = LONGEST_HISTORY,
    max_users: int | None = None,
    known_only: bool = False,
    seed: int = 0,
    limit: int = 12,
) -> EvaluationSet:
    """One request for every shopper who took something in [start, end), made when they first came in those days.

    A shopper is a user, or a session where the user is unknown. The request stands at the time of the shopper's first
    event of any type in the window, and bears that event's ids. Its history is as the service reads it: all that the
    shopper did earlier, and all that happened earlier in the request's session, whoever was logged in; what counts as
    history (HISTORY_EVENT_TYPES), the newest ``history_limit`` events, oldest first. Equal times keep the order of
    ``events``.

    Args:
        events: the columns of :data:`recsys.schema.EVENTS`.
        start: first moment of the window, UTC.
        end: first moment after it, UTC.
        target_types: which events make an item relevant.
        history_limit: events kept of each history.
        max_users: draw this many shoppers, each as likely as the others; all of them where None.
        known_only: leave out the shoppers without a history.
        seed: of that draw.
        limit: length of the slates to ask for.

    Raises:
        SchemaError: a column is missing, the window is empty, a time has no zone, a target type is unknown.

    Requests come in the order of their time, then of the shopper's id, whatever the order of ``events``.
    """
    _check(events, start, end, target_types)
    known = (
        events.lazy()
        .with_row_index("place")  # what keeps equal times in order: a join need not
        .filter(pl.col("timestamp") < end)
        .with_columns(
            shopper=pl.coalesce(pl.lit("user ") + pl.col("user_id"), pl.lit("session ") + pl.col("session_id"))
        )
        .filter(pl.col("shopper").is_not_null())
        .select("shopper", "user_id", "session_id", "event_type", "item_id", "timestamp", "place")
    )
    window = known.filter(pl.col("timestamp") >= start).collect()
    targets = (
        window.filter(pl.col("event_type").is_in(list(target_types)) & pl.col("item_id").is_not_null())
        .sort("shopper", "timestamp", "place")
        .group_by("shopper", maintain_order=True)
        .agg(relevant=pl.col("item_id").unique(maintain_order=True))
    )
    arrivals = window.sort("timestamp", "place").group_by("shopper", maintain_order=True).first()
    arrivals = arrivals.select("shopper", "user_id", "session_id", asked_at="timestamp")
    asked = targets.join(arrivals, on="shopper").sort("shopper")
    if known_only:
        asked = asked.join(_past(known, asked, start).select("shopper").collect(), on="shopper", how="semi")
        asked = asked.sort("shopper")
    if max_users is not None and max_users < len(asked):
        drawn = np.random.default_rng(seed).choice(len(asked), max_users, replace=False)
        asked = asked[np.sort(drawn)]
    asked = asked.sort("asked_at", "shopper")
    histories = _collect_histories(_past(known, asked, start), history_limit)
    requests = [
        Request(
            requested_at=requested_at,
            user_id=user_id,
            session_id=session_id,
            history=histories.get(shopper, ()),
            limit=limit,
        )
        for shopper, requested_at, user_id, session_id in asked.select(
            "shopper", "asked_at", "user_id", "session_id"
        ).iter_rows()
    ]
    return EvaluationSet(requests, asked["relevant"].to_list(), start, end)


def _past(known: pl.LazyFrame, asked: pl.DataFrame, start: datetime) -> pl.LazyFrame:
    """What the histories of the requests ``asked`` are made of, each event once under the shopper who asks; unsorted.

    Nobody's first event in the window has an earlier one in it, so a shopper's own past is what was before the window.
    Their session may have more: what it did in the window before they logged in.
    """
    counts = known.filter(pl.col("item_id").is_not_null() & pl.col("event_type").is_in(list(HISTORY_EVENT_TYPES)))
    columns = ("event_type", "item_id", "timestamp", "place")
    own = counts.filter(pl.col("timestamp") < start).join(asked.lazy(), on="shopper", how="semi")
    visits = asked.filter(pl.col("session_id").is_not_null() & (pl.len().over("session_id") <= MOST_SHARING))
    if visits.is_empty():
        return own
    visits = visits.select("session_id", "asked_at", asker="shopper")
    of_session = counts.join(visits.lazy(), on="session_id").filter(
        (pl.col("timestamp") < pl.col("asked_at")) & (pl.col("shopper") != pl.col("asker"))
    )
    return pl.concat([own.select("shopper", *columns), of_session.select(pl.col("asker").alias("shopper"), *columns)])


def _collect_histories(past: pl.LazyFrame, history_limit: int) -> dict[str, tuple[Interaction, ...]]:
    """The newest events of each shopper who has any, oldest first."""
    newest = past.sort("shopper", "timestamp", "place").group_by("shopper", maintain_order=True).tail(history_limit)
    events = newest.collect()
    # One Python string for each item and type, however often it occurs: histories of 70 k users stay small.
    item_ids = events["item_id"].unique(maintain_order=True)
    item_id_of = item_ids.to_list()
    positions = events["item_id"].replace_strict(item_ids, np.arange(len(item_ids)), return_dtype=pl.Int64).to_list()
    type_of = {name: name for name in HISTORY_EVENT_TYPES}
    interactions = [
        Interaction(item_id_of[position], type_of[event_type], timestamp)
        for position, event_type, timestamp in zip(
            positions, events["event_type"].to_list(), events["timestamp"].to_list()
        )
    ]
    sizes = events.group_by("shopper", maintain_order=True).len()
    ends = np.cumsum(sizes["len"].to_numpy()).tolist()
    return {
        shopper: tuple(interactions[begin:stop])
        for shopper, begin, stop in zip(sizes["shopper"].to_list(), [0, *ends[:-1]], ends)
    }


def _check(events: pl.DataFrame | pl.LazyFrame, start: datetime, end: datetime, target_types: Sequence[str]) -> None:
    present = events.collect_schema()
    missing = [column for column in EVENTS if column not in present]
    if missing:
        raise SchemaError(f"events: expected columns {list(EVENTS)}, missing {missing}; it has {list(present)}")
    for name, moment in (("start", start), ("end", end)):
        if moment.tzinfo is None:
            raise SchemaError(f"{name}: expected a UTC time with its zone, came {moment!r}")
    if start >= end:
        raise SchemaError(f"window: expected its start before its end, came {start} and {end}")
    unknown = [name for name in target_types if name not in EVENT_TYPES]
    if unknown or not target_types:
        raise SchemaError(f"target_types: expected some of {list(EVENT_TYPES)}, came {list(target_types)}")
