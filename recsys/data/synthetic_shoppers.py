"""Shoppers of the demonstration shop: a taste over traits, and sixty days of visits that follow from it.

A shopper's utility for an item is the sum of their weights over its traits, plus what everybody sees in it. A visit
draws items by utility (the Gumbel-max trick: an argmax over utility plus Gumbel noise is a draw from the softmax),
looks at them, and may put some into the cart and buy. After a purchase the next thing is often one that goes with it.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from tqdm import tqdm

from recsys.data import synthetic_words as words
from recsys.data.synthetic_catalogue import KIND_NAMES, TRAITS, Design
from recsys.schema import EVENTS

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

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
    n_segments = 12
    segments = np.zeros((n_segments, len(TRAITS)), dtype=np.float32)
    for segment in segments:
        liked = rng.choice(len(departments), size=2, replace=False)
        for kind, column in zip(KIND_NAMES, columns["kind"]):
            segment[column] += 1.2 * (departments.index(words.KINDS[kind].department) in liked)
        segment[rng.choice(columns["colour"], size=2, replace=False)] += 1.2
        segment[rng.choice(columns["style"])] += 1.2
        segment[rng.choice(columns["price"])] += 0.8
    weights = segments[rng.integers(n_segments, size=n_shoppers)]
    for name, liked_count, strength in (
        ("kind", 3, 2.6), ("colour", 2, 2.0), ("pattern", 2, 2.0), ("style", 1, 1.3), ("price", 1, 0.8), ("review", 2, 1.5),
    ):  # fmt: skip
        own = np.array(columns[name])[rng.random((n_shoppers, len(columns[name]))).argsort(axis=1)]
        weights[np.arange(n_shoppers)[:, None], own[:, :liked_count]] += np.float32(strength)
        if name in ("colour", "pattern"):  # and something they would never buy
            weights[np.arange(n_shoppers)[:, None], own[:, -2:]] -= np.float32(1.5)
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
    return (0.5 * swings * np.cos(2 * np.pi * (day_of_year[:, None] - peaks) / 365.25)).astype(np.float32)


@dataclass(frozen=True)
class Visits:
    """Every visit, by time. Looks are in the order they happened, -1 pads."""

    shopper: Ints  # [n_visits]
    start: Ints  # seconds since the start of the period
    looked: Ints  # [n_visits, width] rows of items
    bought: npt.NDArray[np.bool_]  # [n_visits, width]
    page: Ints  # [n_visits, _PAGE] rows of the items shown on a listing page; -1 where no page was shown


def plan_visits(
    n_users: int, n_shoppers: int, start: datetime, days: int, visits_per_user: float, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """Return (shopper, second since the start) of each visit, by time.

    The first ``n_users`` shoppers have an account: a fifth of them come once, the rest come again, some daily and some
    rarely. The others are anonymous and come once.
    """
    eagerness = rng.gamma(1.2, (visits_per_user - 0.2) / 0.8 / 1.2, size=n_users)
    counts = np.where(rng.random(n_users) < 0.2, 1, 1 + rng.poisson(np.maximum(eagerness - 1, 0.3)))
    shopper = np.concatenate([np.repeat(np.arange(n_users), counts), np.arange(n_users, n_shoppers)])
    # People join over the whole period; two thirds were there before.
    joined = np.where(rng.random(n_shoppers) < 0.65, 0.0, rng.random(n_shoppers))
    busy = _WEEKDAYS[(start.weekday() + np.arange(days)) % 7] * np.linspace(0.92, 1.08, days)
    reached = np.cumsum(busy) / busy.sum()
    share = joined[shopper] + (1 - joined[shopper]) * rng.random(len(shopper))
    day = np.minimum(np.searchsorted(reached, share), days - 1)
    hour = rng.choice(24, size=len(shopper), p=_HOURS / _HOURS.sum())
    second = np.minimum(hour * 3600 + rng.integers(3600, size=len(shopper)), _LAST_SECOND)
    when = day * _DAY_SECONDS + second
    order = np.lexsort((shopper, when))
    return shopper[order], when[order]


def simulate_visits(
    market: Market, shopper: Ints, when: Ints, rng: np.random.Generator, progress: bool = False
) -> Visits:
    """Return what was looked at and bought in each visit, day after day.

    Memory is O(shoppers × items) bits for what each already owns, and O(visits of a day × items).
    """
    days, n_items = market.season.shape
    owned = np.zeros((len(market.weights), n_items), dtype=bool)
    last_bought = np.full(len(market.weights), -1)
    parts: list[tuple[Ints, npt.NDArray[np.bool_], Ints]] = []
    bounds = np.searchsorted(when, np.arange(days + 1) * _DAY_SECONDS)
    for day in tqdm(range(days), desc="visits", unit="day", disable=not progress):
        today = shopper[bounds[day] : bounds[day + 1]]
        utility = market.weights[today] @ market.item_traits.T + market.appeal + market.season[day]
        age_days = day - market.offered_from / _DAY_SECONDS
        utility += np.float32(0.8) * np.exp(-np.maximum(age_days, 0) / 7).astype(np.float32)
        here = (market.offered_from <= day * _DAY_SECONDS) & (market.offered_until > day * _DAY_SECONDS)
        utility[:, ~here] = -np.inf
        utility[owned[today]] = -np.inf
        looked, bought, page = _visit(market, utility, last_bought[today], rng)
        parts.append((looked, bought, page))
        visit, place = np.nonzero(bought)
        owned[today[visit], looked[visit, place]] = True
        last_bought[today[visit]] = looked[visit, place]
    looked, bought, page = (np.concatenate(columns) for columns in zip(*parts))
    return Visits(shopper, when, looked, bought, page)


def _visit(
    market: Market, utility: Floats, last_bought: Ints, rng: np.random.Generator
) -> tuple[Ints, npt.NDArray[np.bool_], Ints]:
    """One day's visits: items looked at, [n, _MOST_VIEWS + 2], which were bought, and the listing page."""
    n, n_items = utility.shape
    every = np.arange(n)
    gumbel = -np.log(rng.standard_exponential((n, n_items), dtype=np.float32) + np.float32(1e-20))
    drawn = _BROWSING * utility + gumbel
    width = min(_MOST_VIEWS + _PAGE, n_items - 1)
    top = np.argpartition(-drawn, width, axis=1)[:, :width]
    top = np.take_along_axis(top, np.argsort(-np.take_along_axis(drawn, top, axis=1), axis=1), axis=1)
    n_views = np.minimum(1 + rng.poisson(2.3, n), min(_MOST_VIEWS, width))
    looked = np.full((n, _MOST_VIEWS + 2), -1)
    looked[:, 1 : 1 + min(_MOST_VIEWS, width)] = top[:, :_MOST_VIEWS]
    looked[:, 1:-1][np.arange(_MOST_VIEWS) >= n_views[:, None]] = -1

    # What was looked at is weighed again, more strictly, and the best may be bought.
    seen = np.where(looked >= 0, utility[every[:, None], looked], -np.inf)
    weighed = (1 - _BROWSING) * seen + rng.gumbel(size=looked.shape)
    best = np.where(looked >= 0, weighed, -np.inf).argmax(axis=1)
    bought = np.zeros(looked.shape, dtype=bool)
    bought[every, best] = (rng.random(n) < 0.45) & np.isfinite(seen[every, best])

    # Place 0: something that goes with the last purchase. Last place: something that goes with this one.
    for place, cause, share in ((0, last_bought, market.complement_share), (-1, looked[every, best], 0.3)):
        partner = market.complements[cause, rng.integers(N_COMPLEMENTS, size=n)].astype(np.int64)
        wanted = (cause >= 0) & (partner >= 0) & (rng.random(n) < share)
        wanted &= np.isfinite(utility[every, partner]) & ~(looked == partner[:, None]).any(axis=1)
        if place == -1:
            wanted &= bought[every, best]
        looked[wanted, place] = partner[wanted]
        bought[wanted, place] = rng.random(int(wanted.sum())) < 0.75

    # A fifth of the visits begin on a listing page: the first look stands somewhere among the next best.
    page = np.full((n, _PAGE), -1)
    shown = np.flatnonzero((rng.random(n) < 0.2) & (width == _MOST_VIEWS + _PAGE))
    page[shown] = top[shown, _MOST_VIEWS:] if width == _MOST_VIEWS + _PAGE else -1
    page[shown, rng.integers(_PAGE, size=len(shown))] = top[shown, 0]
    page[shown] = np.where(np.isfinite(utility[shown[:, None], page[shown]]), page[shown], -1)
    return looked, bought, page


def record_events(
    visits: Visits,
    designs: list[Design],
    n_users: int,
    start: datetime,
    days: int,
    rng: np.random.Generator,
) -> pl.DataFrame:
    """Return EVENTS in the order of time.

    A look is a detail-page-view; what is bought was in the cart before; some carts are emptied again, some visits begin
    with a search, some buyers rate what they bought.
    """
    n, width = visits.looked.shape
    present = visits.looked >= 0
    gap = rng.integers(15, 110, size=(n, width)) * present
    view_at = visits.start[:, None] + np.cumsum(gap, axis=1)
    checkout = view_at.max(axis=1)[:, None] + rng.integers(20, 90, size=(n, 1))
    in_cart = visits.bought | (present & (rng.random((n, width)) < 0.14))
    removed = in_cart & ~visits.bought & (rng.random((n, width)) < 0.3)
    rated = visits.bought & (rng.random((n, width)) < 0.12)
    searching = rng.random(n) < 0.12
    shown = visits.page >= 0

    price = np.array([design.price_cents for design in designs], dtype=float)
    item_ids = pl.Series([design.item_id for design in designs], dtype=pl.String)
    frames = []

    def add(event_type: str, chosen: npt.NDArray[np.bool_], rows: Ints, seconds: Ints, **extra: Any) -> None:
        """Add one event per true cell of ``chosen`` [n, width]; ``extra`` are full matrices too."""
        visit, place = np.nonzero(chosen)
        frames.append(
            pl.DataFrame(
                {
                    "event_type": pl.repeat(event_type, len(visit), eager=True),
                    "visit": visit,
                    "row": rows[visit, place],
                    "second": np.broadcast_to(seconds, chosen.shape)[visit, place],
                    "value": extra["value"][visit, place] if "value" in extra else pl.repeat(None, len(visit), eager=True, dtype=pl.Float64),
                    "quantity": extra["quantity"][visit, place] if "quantity" in extra else pl.repeat(None, len(visit), eager=True, dtype=pl.Int64),
                    "position": place + 1 if event_type == "impression" else pl.repeat(None, len(visit), eager=True, dtype=pl.Int64),
                }
            )
        )  # fmt: skip

    quantity = np.where(rng.random((n, width)) < 0.07, 2, 1)
    stars = np.clip(np.round(rng.normal(4.2, 0.9, size=(n, width))), 1, 5)
    add("search", searching[:, None], np.full((n, 1), -1), visits.start[:, None])
    add("impression", shown, visits.page, visits.start[:, None] + 3)
    add("detail-page-view", present, visits.looked, view_at)
    add("add-to-cart", in_cart, visits.looked, view_at + rng.integers(5, 14, size=(n, width)), quantity=quantity)
    add("remove-from-cart", removed, visits.looked, checkout - 5, quantity=quantity)
    add("purchase", visits.bought, visits.looked, checkout, value=price[visits.looked], quantity=quantity)
    later = rng.integers(2 * _DAY_SECONDS, 12 * _DAY_SECONDS, size=(n, width))
    add("rating", rated, visits.looked, checkout + later, value=stars)

    events = pl.concat(frames).filter(pl.col("second") < days * _DAY_SECONDS)
    events = events.sort("second", "visit", maintain_order=True).with_row_index("number", offset=1)
    who = pl.col("visit").replace_strict(pl.Series(np.arange(n)), pl.Series(visits.shopper)) if n else pl.col("visit")
    return events.select(
        event_id=pl.format("e{}", pl.col("number").cast(pl.String).str.zfill(8)),
        event_type="event_type",
        user_id=pl.when(who < n_users).then(pl.format("u{}", who.cast(pl.String).str.zfill(6))),
        session_id=pl.format("s{}", pl.col("visit").cast(pl.String).str.zfill(7)),
        item_id=pl.lit(item_ids).implode().list.get(pl.when(pl.col("row") >= 0).then(pl.col("row")), null_on_oob=True),
        value="value",
        quantity=pl.col("quantity").cast(pl.Int32),
        recommendation_id=pl.lit(None, dtype=pl.String),
        position=pl.col("position").cast(pl.Int32),
        timestamp=pl.lit(start).cast(EVENTS["timestamp"]) + pl.duration(seconds=pl.col("second")),
    )
