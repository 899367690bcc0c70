"""Shoppers of the demonstration shop: a taste over traits, and sixty days of visits that follow from it.

A shopper's utility for an item is the sum of their weights over its traits, plus what everybody sees in it. A visit
draws items by utility (the Gumbel-max trick: an argmax over utility plus Gumbel noise is a draw from the softmax),
looks at them, and may put some into the cart and buy. After a purchase the next thing is often one that goes with it.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt
import polars as pl
from tqdm import tqdm

from recsys.data import synthetic_words as words
from recsys.data.synthetic_catalogue import KIND_NAMES, TRAITS, Design
from recsys.schema import EVENTS

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

N_COMPLEMENTS = 4  # items that go with an item
_WEEKDAYS = np.array([0.9, 0.85, 0.9, 0.95, 1.15, 1.4, 1.3])  # visits, Monday first
_HOURS = np.array([2, 1, 1, 1, 1, 2, 4, 6, 7, 8, 8, 9, 11, 9, 8, 8, 9, 11, 14, 17, 18, 15, 9, 4], dtype=float)
_DAY_SECONDS = 86_400
_LAST_SECOND = _DAY_SECONDS - 1_800  # a visit ends on the day it began
_BROWSING = 0.75  # a look follows taste less strictly than a purchase does
_MOST_VIEWS = 8
_PAGE = 6  # items on a listing page


@dataclass(frozen=True)
class Market:
    """All that decides a visit: the planted truth in matrices. Rows of items are as in the items frame."""

    item_traits: Floats  # [n_items, n_traits], 0 or 1
    weights: Floats  # [n_shoppers, n_traits]
    appeal: Floats  # [n_items], what everybody sees in it
    complements: npt.NDArray[np.int32]  # [n_items, N_COMPLEMENTS], rows; -1 pads
    complement_share: float  # how often the visit after a purchase looks for something that goes with it
    offered_from: Ints  # [n_items], seconds since the start; negative when before
    offered_until: Ints  # [n_items], seconds since the start; beyond the end when it is still there
    season: Floats  # [days, n_items]


def plant_taste(n_shoppers: int, rng: np.random.Generator) -> Floats:
    """Return float32 [n_shoppers, len(TRAITS)]: what each shopper thinks of each trait.

    Shoppers come in segments that share departments, colours and a style; each adds likes of their own.
    """
    columns: dict[str, list[int]] = {}
    for column, trait in enumerate(TRAITS):
        columns.setdefault(trait.split("=")[0], []).append(column)
    departments = sorted({kind.department for kind in words.KINDS.values()})
    n_segments = 24
    segments = np.zeros((n_segments, len(TRAITS)), dtype=np.float32)
    for segment in segments:
        liked = rng.choice(len(departments), size=2, replace=False)
        for kind, column in zip(KIND_NAMES, columns["kind"]):
            segment[column] += 1.6 * (departments.index(words.KINDS[kind].department) in liked)
        segment[rng.choice(columns["colour"], size=2, replace=False)] += 1.6
        segment[rng.choice(columns["style"])] += 1.8
        segment[rng.choice(columns["price"])] += 1.2
    weights = segments[rng.integers(n_segments, size=n_shoppers)]
    # How many traits of each sort a shopper likes, how much, and how many they would never buy.
    every = np.arange(n_shoppers)[:, None]
    for name, n_liked, strength, n_disliked in (
        ("kind", 3, 3.8, 0),
        ("colour", 2, 3.0, 3),
        ("pattern", 2, 3.0, 2),
        ("style", 1, 2.0, 1),
        ("price", 1, 1.2, 0),
        ("review", 2, 2.2, 0),
    ):
        shuffled = np.array(columns[name])[rng.random((n_shoppers, len(columns[name]))).argsort(axis=1)]
        weights[every, shuffled[:, :n_liked]] += np.float32(strength)
        weights[every, shuffled[:, len(columns[name]) - n_disliked :]] -= np.float32(2.2)
    for column in columns["review"]:
        appeal = words.REVIEW_TRAITS[TRAITS[column].split("=")[1]].appeal
        weights[:, column] += np.float32(appeal)
        if appeal < -1:  # nobody loves a squeak
            weights[:, column] = np.minimum(weights[:, column], np.float32(appeal))
    return weights


def choose_complements(designs: list[Design], rng: np.random.Generator) -> npt.NDArray[np.int32]:
    """Return int32 [n_items, N_COMPLEMENTS]: for each item, rows of the items bought after it; -1 pads.

    A whole family shares its complements, and prefers those of its own style.
    """
    rows_of_kind: dict[str, Ints] = {
        kind: np.array([row for row, design in enumerate(designs) if design.look.kind == kind], dtype=np.int64)
        for kind in KIND_NAMES
    }
    styles = np.array([design.style for design in designs])
    chosen: dict[str, npt.NDArray[np.int32]] = {}
    table = np.full((len(designs), N_COMPLEMENTS), -1, dtype=np.int32)
    for row, design in enumerate(designs):
        if design.family not in chosen:
            picks = np.full(N_COMPLEMENTS, -1, dtype=np.int32)
            partners = [rows_of_kind[kind] for kind in words.COMPLEMENTS.get(design.look.kind, ())]
            pool = np.concatenate(partners) if partners else np.array([], dtype=np.int64)
            if len(pool):
                favour = np.where(styles[pool] == design.style, 3.0, 1.0)
                count = min(N_COMPLEMENTS, len(pool))
                picks[:count] = rng.choice(pool, size=count, replace=False, p=favour / favour.sum())
            chosen[design.family] = picks
        table[row] = chosen[design.family]
    return table


def season_of(designs: list[Design], start: datetime, days: int) -> Floats:
    """Return float32 [days, n_items]: the log factor by which the time of year moves each item."""
    day_of_year = start.timetuple().tm_yday + np.arange(days)
    peaks = np.array([words.KINDS[design.look.kind].peak_day for design in designs])
    swings = np.array([words.KINDS[design.look.kind].swing for design in designs])
    return np.asarray(swings * np.cos(2 * np.pi * (day_of_year[:, None] - peaks) / 365.25), dtype=np.float32)


@dataclass(frozen=True)
class Visits:
    """Every visit, by time. Looks are in the order they happened, -1 pads."""

    shopper: Ints  # [n_visits]
    start: Ints  # seconds since the start of the period
    looked: Ints  # [n_visits, width] rows of items
    bought: Bools  # [n_visits, width]
    page: Ints  # [n_visits, _PAGE] rows of the items shown on a listing page; -1 where no page was shown


def plan_visits(
    n_users: int, n_shoppers: int, start: datetime, days: int, visits_per_user: float, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """Return (shopper, second since the start) of each visit, by time.

    The first ``n_users`` shoppers have an account: a fifth of them come once, the rest come again ``visits_per_user``
    times on average had they the whole period, some often and some rarely. The others are anonymous and come once.
    """
    # People join over the whole period; two thirds were there before.
    joined = np.where(rng.random(n_shoppers) < 0.65, 0.0, rng.random(n_shoppers))
    eagerness = rng.gamma(1.2, visits_per_user / 1.2, size=n_users) * (1 - joined[:n_users])
    counts = np.where(rng.random(n_users) < 0.2, 1, 1 + rng.poisson(eagerness))
    shopper = np.concatenate([np.repeat(np.arange(n_users), counts), np.arange(n_users, n_shoppers)])
    busy = _WEEKDAYS[(start.weekday() + np.arange(days)) % 7] * np.linspace(0.92, 1.08, days)
    reached = np.cumsum(busy) / busy.sum()
    share = joined[shopper] + (1 - joined[shopper]) * rng.random(len(shopper))
    day = np.minimum(np.searchsorted(reached, share), days - 1)
    hour = rng.choice(24, size=len(shopper), p=_HOURS / _HOURS.sum())
    second = np.minimum(hour * 3600 + rng.integers(3600, size=len(shopper)), _LAST_SECOND)
    when = day * _DAY_SECONDS + second
    # At most one visit a day: what was bought in the morning would have to be known in the evening.
    _, kept = np.unique(day * n_shoppers + shopper, return_index=True)
    order = kept[np.lexsort((shopper[kept], when[kept]))]
    return shopper[order], when[order]


def simulate_visits(
    market: Market, shopper: Ints, when: Ints, rng: np.random.Generator, progress: bool = False
) -> Visits:
    """Return what was looked at and bought in each visit, day after day.

    Memory is one byte per shopper and item, for what each already owns, and a few numbers per visit of a day and item.
    """
    days, n_items = market.season.shape
    owned = np.zeros((len(market.weights), n_items), dtype=bool)
    last_bought = np.full(len(market.weights), -1)
    parts: list[tuple[Ints, Bools, Ints]] = []
    bounds = np.searchsorted(when, np.arange(days + 1) * _DAY_SECONDS)
    for day in tqdm(range(days), desc="visits", unit="day", disable=not progress):
        today = shopper[bounds[day] : bounds[day + 1]]
        age_days = day - market.offered_from / _DAY_SECONDS
        novelty = 0.8 * np.exp(-np.maximum(age_days, 0) / 7)
        in_general = (market.appeal + market.season[day] + novelty).astype(np.float32)
        utility = market.weights[today] @ market.item_traits.T + in_general
        offered = (market.offered_from <= day * _DAY_SECONDS) & (market.offered_until > day * _DAY_SECONDS)
        utility[:, ~offered] = -np.inf
        utility[owned[today]] = -np.inf
        ranked = _draw(utility, rng)
        looked, bought = _look_and_buy(market, utility, ranked, last_bought[today], rng)
        parts.append((looked, bought, _list_page(ranked, rng)))
        visit, place = np.nonzero(bought)
        owned[today[visit], looked[visit, place]] = True
        last_bought[today[visit]] = looked[visit, place]
    looked, bought, page = (np.concatenate(columns) for columns in zip(*parts))
    return Visits(shopper, when, looked, bought, page)


def _draw(utility: Floats, rng: np.random.Generator) -> Ints:
    """Draw distinct items per visit in proportion to taste: rows [n, _MOST_VIEWS + _PAGE], -1 where none is left."""
    noise = -np.log(rng.standard_exponential(utility.shape, dtype=np.float32) + np.float32(1e-20))
    drawn = _BROWSING * utility + noise
    width = _MOST_VIEWS + _PAGE
    top = np.argpartition(-drawn, width, axis=1)[:, :width]
    scores = np.take_along_axis(drawn, top, axis=1)
    order = np.argsort(-scores, axis=1)
    ranked = np.where(np.isfinite(scores), top, -1)
    return np.take_along_axis(ranked, order, axis=1)


def _look_and_buy(
    market: Market, utility: Floats, ranked: Ints, last_bought: Ints, rng: np.random.Generator
) -> tuple[Ints, Bools]:
    """Return the items looked at, [n, _MOST_VIEWS + 2] with -1 for none, and which of them were bought."""
    n = len(utility)
    every = np.arange(n)
    n_views = np.minimum(1 + rng.poisson(2.3, n), _MOST_VIEWS)
    looked = np.full((n, _MOST_VIEWS + 2), -1)
    looked[:, 1:-1] = np.where(np.arange(_MOST_VIEWS) < n_views[:, None], ranked[:, :_MOST_VIEWS], -1)

    # What was looked at is weighed again, more strictly, and the best may be bought.
    seen = np.where(looked >= 0, utility[every[:, None], looked], -np.inf)
    best = ((1 - _BROWSING) * seen + rng.gumbel(size=seen.shape)).argmax(axis=1)
    bought = np.zeros(looked.shape, dtype=bool)
    bought[every, best] = (rng.random(n) < 0.45) & (looked[every, best] >= 0)

    # First place: something that goes with the last purchase. Last place: something that goes with this one.
    this = np.where(bought[every, best], looked[every, best], -1)
    for place, cause, share in ((0, last_bought, market.complement_share), (-1, this, 0.3)):
        partner = market.complements[cause, rng.integers(N_COMPLEMENTS, size=n)].astype(np.int64)
        wanted = (rng.random(n) < share) & (cause >= 0) & (partner >= 0) & np.isfinite(utility[every, partner])
        wanted &= (looked != partner[:, None]).all(axis=1)
        looked[wanted, place] = partner[wanted]
        bought[:, place] = wanted & (rng.random(n) < 0.75)
    return looked, bought


def _list_page(ranked: Ints, rng: np.random.Generator) -> Ints:
    """A fifth of the visits begin on a listing page: the first look stands somewhere among the next best."""
    n = len(ranked)
    page = ranked[:, _MOST_VIEWS:].copy()
    page[np.arange(n), rng.integers(_PAGE, size=n)] = ranked[:, 0]
    page[rng.random(n) >= 0.2] = -1
    return page


def record_events(
    visits: Visits, designs: list[Design], n_users: int, start: datetime, days: int, rng: np.random.Generator
) -> pl.DataFrame:
    """Return EVENTS in the order of time.

    A look is a detail-page-view; what is bought was in the cart before; some carts are emptied again, some visits begin
    with a search, some buyers rate what they bought.
    """
    shape = visits.looked.shape
    present = visits.looked >= 0
    begin = visits.start[:, None]
    view_at = begin + np.cumsum(rng.integers(15, 110, size=shape) * present, axis=1)
    checkout = np.broadcast_to(view_at.max(axis=1, keepdims=True) + rng.integers(20, 90, size=begin.shape), shape)
    rated_at = checkout + rng.integers(2 * _DAY_SECONDS, 12 * _DAY_SECONDS, size=shape)
    in_cart = visits.bought | (present & (rng.random(shape) < 0.14))
    removed = in_cart & ~visits.bought & (rng.random(shape) < 0.3)
    rated = visits.bought & (rng.random(shape) < 0.12)
    searched = rng.random(begin.shape) < 0.12
    quantity = np.where(rng.random(shape) < 0.07, 2, 1)
    price = np.array([design.price_cents for design in designs], dtype=float)[visits.looked]
    stars = np.clip(np.round(rng.normal(4.2, 0.9, size=shape)), 1, 5)

    nowhere = np.full(begin.shape, -1)
    on_page = np.broadcast_to(np.arange(1, _PAGE + 1), visits.page.shape)
    page_at = np.broadcast_to(begin + 3, visits.page.shape)
    events = pl.concat(
        [
            _happened("search", searched, nowhere, begin),
            _happened("impression", visits.page >= 0, visits.page, page_at, position=on_page),
            _happened("detail-page-view", present, visits.looked, view_at),
            _happened("add-to-cart", in_cart, visits.looked, view_at + 9, quantity=quantity),
            _happened("remove-from-cart", removed, visits.looked, checkout - 5, quantity=quantity),
            _happened("purchase", visits.bought, visits.looked, checkout, value=price, quantity=quantity),
            _happened("rating", rated, visits.looked, rated_at, value=stars),
        ]
    )
    events = events.filter(pl.col("second") < days * _DAY_SECONDS).sort("second", "visit", maintain_order=True)
    visit, row = events["visit"].to_numpy(), events["row"].to_numpy()
    who = visits.shopper[visit]
    item_ids = pl.Series([*(design.item_id for design in designs), None], dtype=pl.String)
    return events.with_columns(
        pl.Series("user_id", [f"u{user:06d}" if user < n_users else None for user in who.tolist()], dtype=pl.String),
        item_ids.gather(np.where(row < 0, len(designs), row)).alias("item_id"),
    ).select(
        event_id=pl.format("e{}", pl.int_range(1, pl.len() + 1).cast(pl.String).str.zfill(8)),
        event_type="event_type",
        user_id="user_id",
        session_id=pl.format("s{}", pl.col("visit").cast(pl.String).str.zfill(7)),
        item_id="item_id",
        value="value",
        quantity="quantity",
        recommendation_id=pl.lit(None, dtype=pl.String),
        position="position",
        timestamp=pl.lit(start).cast(EVENTS["timestamp"]) + pl.duration(seconds=pl.col("second")),
    )


def _happened(
    event_type: str,
    chosen: Bools,
    rows: Ints,
    seconds: Ints,
    *,
    value: npt.NDArray[np.float64] | None = None,
    quantity: Ints | None = None,
    position: Ints | None = None,
) -> pl.DataFrame:
    """One event per true cell of ``chosen``; every matrix is [n_visits, places]. -1 in ``rows`` stands for no item."""
    visit, place = np.nonzero(chosen)
    optional = {"value": (value, pl.Float64), "quantity": (quantity, pl.Int32), "position": (position, pl.Int32)}
    return pl.DataFrame(
        {
            "event_type": [event_type] * len(visit),
            "visit": visit,
            "row": rows[visit, place],
            "second": seconds[visit, place],
            **{
                name: pl.Series(name, [None] * len(visit) if matrix is None else matrix[visit, place], dtype=dtype)
                for name, (matrix, dtype) in optional.items()
            },
        },
        schema_overrides={"event_type": pl.String},
    )
