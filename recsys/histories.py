"""Requests and events as arrays: what every stage of the request path computes with.

Ragged arrays are a flat array and ``offsets`` int64 [q+1]: request q owns ``flat[offsets[q]:offsets[q + 1]]``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys.errors import SchemaError
from recsys.request import Request
from recsys.schema import EVENT_TYPES, HISTORY_EVENT_TYPES

EVENT_CODE = {name: code for code, name in enumerate(EVENT_TYPES)}
PURCHASE = EVENT_CODE["purchase"]
_SILENT = frozenset(EVENT_TYPES) - frozenset(HISTORY_EVENT_TYPES)
# How a page's own items enter the history: as if just seen, or just put into the cart.
_CONTEXT_CODE = {
    "home": EVENT_CODE["detail-page-view"],
    "product": EVENT_CODE["detail-page-view"],
    "cart": EVENT_CODE["add-to-cart"],
}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = timedelta(days=1)

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


def days_since_epoch(moment: datetime) -> float:
    """UTC moment → days since 1970, the one time unit of the request path."""
    return (moment - _EPOCH) / _DAY


def moment_of(days: float) -> datetime:
    """Days since 1970 → the UTC moment, to the microsecond: the inverse of :func:`days_since_epoch`, for people."""
    return _EPOCH + days * _DAY


@dataclass(frozen=True, slots=True)
class Histories:
    """The known past of a batch of requests, oldest first, the page's own items last.

    Attributes:
        offsets: int64 [q+1].
        rows: int32 [m], the item's row; items that the release does not know are gone.
        event_types: int8 [m], positions in EVENT_TYPES.
        age_days: float32 [m], from the event to the request, ≥ 0.
        requested_at_days: float64 [q], days since 1970 UTC.
        older_offsets, older_rows: int64 [q+1] and int32 [o], the rows of what lies before the newest events, which are
            those above: too old to speak for anything, but the shopper has had it.
    """

    offsets: Int64
    rows: Int32
    event_types: npt.NDArray[np.int8]
    age_days: Float32
    requested_at_days: Float64
    older_offsets: Int64
    older_rows: Int32

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int64:
        """How many known events each request has, int64 [q]."""
        return np.diff(self.offsets)

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Which requests have any event of a known item, bool [q]: the ranker learns from these, and orders these only.

        Why the others are left out is told where recommend() scores.
        """
        return self.lengths > 0

    @property
    def request_of(self) -> Int64:
        """The request that owns each event, int64 [m]."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)

    def spans(self) -> Iterator[tuple[int, int]]:
        """(start, stop) of each request in the flat arrays."""
        return pairwise(self.offsets.tolist())

    def had_by(self, request: int) -> Int32:
        """Rows of everything in one request's past, however old; a row stands as often as the item does."""
        older = self.older_rows[self.older_offsets[request] : self.older_offsets[request + 1]]
        return np.concatenate([older, self.rows[self.offsets[request] : self.offsets[request + 1]]])


def read_histories(requests: Sequence[Request], row_of: Mapping[str, int], limit: int) -> Histories:
    """Turn requests into arrays: each one's newest ``limit`` known events, and the rows of the older ones.

    Events later than ``requested_at`` count as happening at it (clocks of a shop differ); unknown items, impressions,
    searches and removals are passed over.

    Raises:
        SchemaError: an event type or a placement that nobody declared.
    """
    offsets, older_offsets = np.zeros((2, len(requests) + 1), np.int64)
    rows: list[int] = []
    older: list[int] = []
    types: list[int] = []
    ages: list[float] = []
    for position, request in enumerate(requests):
        start = len(rows)
        now = request.requested_at
        for event in request.history:
            row = row_of.get(event.item_id)
            if row is None or event.event_type in _SILENT:
                continue
            rows.append(row)
            types.append(_code(EVENT_CODE, event.event_type, "event_type"))
            ages.append(max((now - event.timestamp) / _DAY, 0.0))
        context_type = _code(_CONTEXT_CODE, request.placement, "placement")
        for item_id in request.item_ids:
            row = row_of.get(item_id)
            if row is not None:
                rows.append(row)
                types.append(context_type)
                ages.append(0.0)
        surplus = len(rows) - start - limit
        if surplus > 0:
            older += rows[start : start + surplus]
            del rows[start : start + surplus], types[start : start + surplus], ages[start : start + surplus]
        offsets[position + 1], older_offsets[position + 1] = len(rows), len(older)
    return Histories(
        offsets=offsets,
        rows=np.array(rows, np.int32),
        event_types=np.array(types, np.int8),
        age_days=np.array(ages, np.float32),
        requested_at_days=np.array([days_since_epoch(request.requested_at) for request in requests], np.float64),
        older_offsets=older_offsets,
        older_rows=np.array(older, np.int32),
    )


def _code(codes: Mapping[str, int], came: str, what: str) -> int:
    if came not in codes:
        raise SchemaError(f"{what}: expected one of {list(codes)}, came {came!r}")
    return codes[came]


@dataclass(frozen=True, slots=True)
class Interactions:
    """A shop's events as arrays, sorted by shopper and, inside one, by time: what the night fits on.

    Attributes:
        shoppers: int32 [m], a code for each user, or session where the user is unknown; of this object only.
        rows: int32 [m], the item's row.
        event_types: int8 [m].
        time_days: float64 [m], days since 1970 UTC.
        quantities: float32 [m], pieces; 1 where the shop did not say.
        target_types: what a recommendation should lead to: purchases, or whatever a shop logs that has none. Decided
            by the whole log, and the same for any part of it.
    """

    shoppers: Int32
    rows: Int32
    event_types: npt.NDArray[np.int8]
    time_days: Float64
    quantities: Float32
    target_types: tuple[str, ...] = ("purchase",)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def taken(self) -> "Interactions":
        """The events of the target types."""
        return self.of_type(*self.target_types)

    def select(self, mask: npt.NDArray[np.bool_]) -> "Interactions":
        """The events where ``mask`` is true, in the same order."""
        return Interactions(
            self.shoppers[mask],
            self.rows[mask],
            self.event_types[mask],
            self.time_days[mask],
            self.quantities[mask],
            self.target_types,
        )

    def of_type(self, *names: str) -> "Interactions":
        """Only the events of these types."""
        return self.select(np.isin(self.event_types, [EVENT_CODE[name] for name in names]))


def newest_of_each(events: Interactions, n_items: int) -> Interactions:
    """Of each shopper and item only the newest event, in the same order."""
    pairs = events.shoppers.astype(np.int64) * n_items + events.rows
    # Sorted by time inside a shopper, so the newest is the first from the end.
    _, from_the_end = np.unique(pairs[::-1], return_index=True)
    newest = np.zeros(len(events), bool)
    newest[len(events) - 1 - from_the_end] = True
    return events.select(newest)


def target_types(sells: bool) -> tuple[str, ...]:
    """What a recommendation should lead to: purchases, or whatever a shop logs that has none."""
    return ("purchase",) if sells else HISTORY_EVENT_TYPES


def read_interactions(events: pl.DataFrame, item_ids: Sequence[str]) -> Interactions:
    """Events (EVENTS columns) → arrays; events without a known item, and those that say nothing of taste, are left out.

    Equal times keep the order of ``events``.
    """
    rows = pl.DataFrame({"item_id": item_ids, "row": np.arange(len(item_ids), dtype=np.int32)})
    known = (
        events.lazy()
        .filter(~pl.col("event_type").is_in(sorted(_SILENT)))
        .with_columns(  # a session may have the id of some user, and is still somebody else
            shopper=pl.coalesce(
                pl.lit("user ") + pl.col("user_id"),
                pl.lit("session ") + pl.col("session_id"),
                pl.lit("event ") + pl.col("event_id"),
            )
        )
        .join(rows.lazy(), on="item_id", maintain_order="left")
        .with_columns(
            shopper_code=pl.col("shopper").rank("dense").cast(pl.Int32) - 1,
            type_code=pl.col("event_type").replace_strict(EVENT_CODE, return_dtype=pl.Int8),
            time_days=pl.col("timestamp").dt.timestamp("us") / 86_400e6,
        )
        .sort("shopper_code", "timestamp", maintain_order=True)
        .select("shopper_code", "row", "type_code", "time_days", pl.col("quantity").fill_null(1).cast(pl.Float32))
        .collect()
    )
    return Interactions(
        shoppers=known["shopper_code"].to_numpy(),
        rows=known["row"].to_numpy(),
        event_types=known["type_code"].to_numpy(),
        time_days=known["time_days"].to_numpy(),
        quantities=known["quantity"].to_numpy(),
        target_types=target_types(sells=bool((known["type_code"] == PURCHASE).any())),
    )
