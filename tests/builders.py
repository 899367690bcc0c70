"""Small real things, each made in milliseconds: a shop of arrays, releases of it, and requests of every sort.

Nothing stands in for our own code. Only the encoders are left out: their vectors are planted here, so that a test
knows which items belong together.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl

from pipelines.catalogue import build_catalogue
from pipelines.examples import ExamplesConfig
from pipelines.recipe import ItemVectors, RecipeConfig, Shop
from pipelines.workshop import Workshop
from recsys.alignment.users import UserTowerConfig
from recsys.artifacts import Release
from recsys.histories import Histories, Interactions, read_interactions
from recsys.ranking.train import RankerConfig
from recsys.request import PLACEMENTS, Interaction, Request
from recsys.retrieval.fit import TablesConfig
from recsys.retrieval.index import IndexConfig
from recsys.retrieval.retrieve import SOURCES, RetrievalConfig
from recsys.retrieval.users import MAX_HISTORY, N_AGES, Taste, UserTower
from recsys.schema import EVENT_TYPES, EVENTS, ITEMS, REVIEWS, validate

CUTOFF = datetime(2026, 3, 1, tzinfo=UTC)
TASTES = ("red", "blue", "green", "gold")
DIM = 16

EXACT = IndexConfig()
LISTS = IndexConfig(exact_up_to=10, min_recall=0.5)  # inverted lists, although the shop is small


def events_frame(*rows: tuple[str | None, str, str | None, float]) -> pl.DataFrame:
    """EVENTS from (user_id, event_type, item_id, days before CUTOFF)."""
    frame = pl.DataFrame(
        {
            "event_id": [f"e{number}" for number in range(len(rows))],
            "user_id": [row[0] for row in rows],
            "event_type": [row[1] for row in rows],
            "item_id": [row[2] for row in rows],
            "timestamp": [CUTOFF - timedelta(days=row[3]) for row in rows],
        },
        schema_overrides={name: EVENTS[name] for name in ("event_id", "user_id", "event_type", "item_id", "timestamp")},
    )
    absent = [pl.lit(None, dtype).alias(name) for name, dtype in EVENTS.items() if name not in frame.columns]
    return validate(frame.with_columns(absent), EVENTS, "events")


def purchases(shoppers: Sequence[int], rows: Sequence[int], time_days: Sequence[float]) -> Interactions:
    """Purchases of one piece each, already sorted by shopper and time."""
    return Interactions(
        shoppers=np.array(shoppers, np.int32),
        rows=np.array(rows, np.int32),
        event_types=np.full(len(rows), EVENT_TYPES.index("purchase"), np.int8),
        time_days=np.array(time_days, np.float64),
        quantities=np.ones(len(rows), np.float32),
    )


def histories_of(*of_each: Sequence[tuple[int, str, float]], now_days: float = 100.0) -> Histories:
    """Histories of (row, event type, age in days), oldest first."""
    events = [event for events in of_each for event in events]
    return Histories(
        offsets=np.cumsum([0, *(len(events) for events in of_each)], dtype=np.int64),
        rows=np.array([event[0] for event in events], np.int32),
        event_types=np.array([EVENT_TYPES.index(event[1]) for event in events], np.int8),
        age_days=np.array([event[2] for event in events], np.float32),
        requested_at_days=np.full(len(of_each), now_days),
        older_offsets=np.zeros(len(of_each) + 1, np.int64),
        older_rows=np.zeros(0, np.int32),
    )


def user_tower(dim: int = DIM, interests: int = 2, seed: int = 0) -> UserTower:
    """A tower with drawn weights: a shopper is roughly an attention-weighted mean of their items."""
    rng = np.random.default_rng(seed)
    shapes = {
        "query": (dim, interests),
        "affinity": (dim, dim),
        "affinity_weight": (interests,),
        "by_position": (MAX_HISTORY, interests),
        "by_age": (N_AGES, interests),
        "by_gap": (N_AGES, interests),
        "by_type": (len(EVENT_TYPES), interests),
        "turn_last": (dim, dim),
        "inner": (2 * dim, 8),
        "inner_bias": (8,),
        "outer": (8, dim),
        "log_scale": (1,),
        "item_turn": (dim, dim),
    }
    weights = {name: np.asarray(rng.normal(0, 0.1, shape), np.float32) for name, shape in shapes.items()}
    return UserTower(turn=np.eye(dim, dtype=np.float32), **weights)


def planted_taste(tower: UserTower, items: np.ndarray) -> Taste:
    """A tower over given item vectors."""
    return Taste(tower, items, np.zeros_like(items))


def build_shop(n_items: int = 80, n_shoppers: int = 90, seed: int = 0) -> tuple[Shop, ItemVectors]:
    """Items of four tastes and shoppers of one each, over 24 days before CUTOFF.

    Item ``red-003`` is the third of taste "red". Item 0 of each taste has no picture, item 1 no words, item 2 neither;
    item 3 has no category, price or arrival; item 4 is sold out.
    """
    rng = np.random.default_rng(seed)
    each = n_items // len(TASTES)
    item_ids = sorted(f"{taste}-{number:03}" for taste in TASTES for number in range(each))
    number_of = np.array([int(item_id[-3:]) for item_id in item_ids])
    taste_of = np.array([TASTES.index(item_id[:-4]) for item_id in item_ids])
    items = validate(
        pl.DataFrame(
            {
                "item_id": item_ids,
                "title": [None if n % 7 == 6 else f"Title of {i}" for i, n in zip(item_ids, number_of)],
                "description": [None] * len(item_ids),
                "category": [None if n == 3 else f"Things > {i[:-4]}" for i, n in zip(item_ids, number_of)],
                "brand": [None if n == 3 else f"brand {n % 3}" for n in number_of],
                "family": [None if n == 3 else f"{i[:-4]} {n // 4}" for i, n in zip(item_ids, number_of)],
                "price_cents": [None if n == 3 else 1000 + 10 * int(n) for n in number_of],
                "in_stock": number_of != 4,
                "attributes": [
                    [] if n == 3 else [f"colour={i[:-4]}", f"size={n % 5}"] for i, n in zip(item_ids, number_of)
                ],
                "images": [[] for _ in item_ids],
                "created_at": [None if n == 3 else CUTOFF - timedelta(days=40 + int(n)) for n in number_of],
            },
            schema_overrides={"attributes": pl.List(pl.String), "images": pl.List(pl.String)},
        ),
        ITEMS,
        "items",
    )
    events = _taste_events(item_ids, each, n_shoppers, rng)
    catalogue = build_catalogue(items, pl.DataFrame(schema=REVIEWS))
    shop = Shop(catalogue, read_interactions(events, catalogue.item_ids), events)
    fused, image, text = (_taste_vectors(taste_of, rng) for _ in range(3))
    image[np.isin(number_of, (0, 2))] = 0
    text[np.isin(number_of, (1, 2))] = 0
    fused[number_of == 2] = 0
    vectors = ItemVectors(
        fused=fused,
        image=image.astype(np.float16),
        text=text.astype(np.float16),
        cutoff=CUTOFF - timedelta(days=12),
    )
    return shop, vectors


def _taste_events(item_ids: Sequence[str], each: int, n_shoppers: int, rng: np.random.Generator) -> pl.DataFrame:
    rows = []
    for shopper in range(n_shoppers):
        taste = TASTES[shopper % len(TASTES)]
        for when in np.sort(rng.uniform(0.01, 24, 9))[::-1]:
            # One event in eight is of another taste.
            mine = taste if rng.random() < 0.875 else TASTES[rng.integers(len(TASTES))]
            event_type = ("detail-page-view", "add-to-cart", "purchase", "purchase", "impression")[rng.integers(5)]
            rows.append((f"u{shopper:03}", event_type, f"{mine}-{int(each * rng.beta(1, 2)):03}", float(when)))
    return events_frame(*rows)


def _taste_vectors(taste_of: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    centres = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0][: len(TASTES)]
    vectors = centres[taste_of] + rng.normal(0, 0.15, (len(taste_of), DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def recipe(index: IndexConfig = EXACT, **retrieval: object) -> RecipeConfig:
    """A recipe that suits a shop of eighty items; ``retrieval`` replaces fields of RetrievalConfig."""
    # Retrieval's own order is poor, so that a ranker is always worth keeping.
    poor = dict.fromkeys(SOURCES, 0.0) | {"new": 1.0}
    chosen = {"depth": 12, "trending_depth": 10, "new_depth": 4, "fusion_weight": poor, **retrieval}
    return RecipeConfig(
        tables=TablesConfig(neighbours=12, log_scale=1.6),
        index=index,
        retrieval=RetrievalConfig(**chosen),  # type: ignore[arg-type]
        examples=ExamplesConfig(max_requests=200, negatives=30),
        ranker=RankerConfig(trees=25, min_leaf=10),
        users=UserTowerConfig(dim=DIM, interests=2, hidden=8, epochs=2, refresh_epochs=1),
        threads=1,
    )


def build_release(
    shop: Shop, vectors: ItemVectors, config: RecipeConfig | None = None, *, ranker: bool = True
) -> Release:
    """A release of the shop as of CUTOFF, its ranker learned from four windows of two days before; see recipe()."""
    config = config or recipe()
    days = [CUTOFF - timedelta(days=back) for back in (10, 8, 6, 4)]
    cuts = [(day, day + timedelta(days=2)) for day in days] if ranker else []
    release = Workshop(shop, vectors, config).ranked_release(cuts, CUTOFF)
    manifest = replace(release.manifest, config={"retrieval": config.retrieval.__dict__, "seed": config.seed})
    return replace(release, manifest=manifest)


def mixed_requests(item_ids: Sequence[str], n: int, seed: int = 0) -> list[Request]:
    """Requests of every sort: all placements, long, short, empty and unknown histories, carts of unknown items, …"""
    rng = np.random.default_rng(seed)
    requests = []
    for number in range(n):
        length = int(rng.choice([0, 1, 2, 5, 20, 70]))
        ages = np.sort(rng.choice([0.0, 0.5, 1.0, 3.25, 9.0, 30.0], length))[::-1]
        now = CUTOFF + timedelta(hours=number % 50)
        known = [str(item_id) for item_id in rng.choice(item_ids, length)]
        history = tuple(
            Interaction(
                item_id if rng.random() > 0.1 else "never heard of",
                str(rng.choice(EVENT_TYPES)),
                now - timedelta(days=float(age)),
            )
            for item_id, age in zip(known, ages)
        )
        page = [str(item_id) for item_id in rng.choice([*item_ids, "unknown 1", "unknown 2"], rng.integers(0, 3))]
        requests.append(
            Request(
                requested_at=now,
                placement=PLACEMENTS[number % len(PLACEMENTS)],
                user_id=f"u{number}",
                history=history,
                item_ids=["unknown 1", "unknown 2"] if number % 11 == 10 else page if number % 3 else [],
                limit=int(rng.choice([0, 1, 7, 12, 40])),
                exclude_item_ids=[str(item_id) for item_id in rng.choice(item_ids, rng.integers(0, 4))],
                exclude_purchased=bool(number % 2),
                explain=bool(number % 4 == 0),
            )
        )
    return requests
