"""A shop of sixty items in two tastes, and releases of it small enough to make in a test.

Items ``red-00`` … and ``blue-00`` …: whoever looked at red ones buys red ones. Everything is real (tables, index,
tower, files on disk); only the encoders are left out, whose vectors are planted here.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from recsys.artifacts import Manifest, Release, save_release
from recsys.data.releases import publish_release, record_release
from recsys.histories import read_interactions
from recsys.ranking.features import SPACES, FeatureTables, fit_item_features
from recsys.retrieval.fit import TablesConfig, fit_retrieval, index_content
from recsys.retrieval.index import IndexConfig, build_index
from recsys.retrieval.retrieve import RetrievalConfig
from recsys.retrieval.users import MAX_HISTORY, N_AGES, Taste, UserTower
from recsys.schema import EVENT_TYPES, EVENTS
from recsys.search_index import SearchIndex
from service.app import create_app
from service.deps import Service
from service.settings import Settings

N_EACH = 30
ITEM_IDS = sorted([f"red-{i:02}" for i in range(N_EACH)] + [f"blue-{i:02}" for i in range(N_EACH)])
RETRIEVAL = {"depth": 20, "trending_depth": 10}
CUTOFF = datetime(2026, 3, 1, tzinfo=UTC)


def items() -> list[dict[str, Any]]:
    """The catalogue: ``red-07`` costs 1007 cents, came on the 8th of January, and is a dress of Alba."""
    return [
        {
            "item_id": item_id,
            "title": f"{item_id.split('-')[0].title()} dress {item_id[-2:]}",
            "category": f"Dresses > {item_id.split('-')[0].title()}",
            "brand": "Alba",
            "price_cents": 1000 + int(item_id[-2:]),
            "in_stock": True,
            "attributes": {"colour": item_id.split("-")[0]},
            "images": [f"images/{item_id}.jpg", f"images/{item_id}-back.jpg"],
            "created_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=int(item_id[-2:])),
        }
        for item_id in ITEM_IDS
    ]


def build_release(
    folder: Path,
    seed: int = 0,
    vectors: np.ndarray | None = None,
    spaces: Mapping[str, np.ndarray] | None = None,
    search: SearchIndex | None = None,
    save_aligner: Callable[[Path], None] | None = None,
    catalogue_seen: datetime | None = None,
    **config: Any,
) -> Release:
    """A release of the shop, saved below ``folder``; another seed makes another version.

    Without ``vectors`` [60, d] they are planted; the rest is what search needs.
    """
    rng = np.random.default_rng(seed)
    shoppers = [f"u{n:02}" for n in range(40)]
    rows = [
        {
            "event_id": f"{shopper}-{step}",
            "event_type": "purchase" if step % 3 == 2 else "detail-page-view",
            "user_id": shopper,
            "item_id": f"{'red' if number % 2 else 'blue'}-{rng.integers(N_EACH):02}",
            "timestamp": CUTOFF - timedelta(days=6, minutes=number) + timedelta(hours=step * 12),
        }
        for number, shopper in enumerate(shoppers)
        for step in range(9)
    ]
    events = read_interactions(pl.DataFrame(rows, schema=EVENTS), ITEM_IDS)
    colour = np.array([item_id.startswith("red") for item_id in ITEM_IDS])
    planted = rng.normal(0, 0.3, (len(ITEM_IDS), 16))
    planted[:, 0] += np.where(colour, 1.0, -1.0)
    planted = (planted / np.linalg.norm(planted, axis=1, keepdims=True)).astype(np.float32)
    vectors = planted if vectors is None else vectors
    dim = vectors.shape[1]
    catalogue = items()
    created = np.array([item["created_at"].timestamp() / 86_400 for item in catalogue])
    as_of_days = CUTOFF.timestamp() / 86_400
    counted = TablesConfig(neighbours=20)
    category = colour.astype(np.int32)
    likeness = {
        "fused": vectors,
        "image": vectors.astype(np.float16),
        "text": vectors.astype(np.float16),
        "attributes": np.eye(2, dtype=np.float16)[category],
        **(spaces or {}),
    }
    content_width = sum(likeness[name].shape[1] for name in SPACES)
    retrieval = fit_retrieval(
        index_content(ITEM_IDS, vectors, tables=counted, index=IndexConfig(), threads=1),
        created,
        events,
        Taste(mean_tower(dim, content_width), vectors, np.zeros_like(vectors)),
        build_index(ITEM_IDS, vectors, IndexConfig(), threads=1),
        as_of_days,
        tables=counted,
        retrieval=RetrievalConfig(**RETRIEVAL),
    )
    tables = FeatureTables(
        as_of_days=as_of_days,
        items=fit_item_features(
            events,
            as_of_days,
            price_cents=np.array([item["price_cents"] for item in catalogue], np.float32),
            category=category,
            review_rows=np.zeros(0, np.int32),
            review_ratings=np.zeros(0, np.float32),
        ),
        created_at_days=created,
        category=category,
        brand=np.zeros(len(ITEM_IDS), np.int32),
        family=np.full(len(ITEM_IDS), -1, np.int32),
        attributes=category[:, None].copy(),
        spaces=likeness,
    )
    manifest = Manifest(
        version="",
        data_cutoff=CUTOFF,
        embedding_cutoff=CUTOFF,
        code_commit="",
        config={"retrieval": RETRIEVAL, "seed": seed, **config},
        metrics={},
        index_kind="flat",
        index_recall=1.0,
        taste_index_kind="flat",
        taste_index_recall=1.0,
        n_items=len(ITEM_IDS),
        dim=dim,
        catalogue_seen=catalogue_seen,
    )
    release = Release(
        manifest=manifest,
        item_ids=ITEM_IDS,
        titles=[item["title"] for item in catalogue],
        in_stock=np.ones(len(ITEM_IDS), bool),
        retrieval=retrieval,
        tables=tables,
        ranker=None,
        search=search,
    )
    return save_release(release, folder, save_aligner)


def mean_tower(dim: int, content_width: int) -> UserTower:
    """A tower that learned nothing: a shopper is the mean of their items."""
    nothing = {
        "query": (dim, 1),
        "affinity": (dim, dim),
        "affinity_weight": (1,),
        "by_position": (MAX_HISTORY, 1),
        "by_age": (N_AGES, 1),
        "by_gap": (N_AGES, 1),
        "by_type": (len(EVENT_TYPES), 1),
        "turn_last": (dim, dim),
        "inner": (2 * dim, 1),
        "inner_bias": (1,),
        "outer": (1, dim),
        "log_scale": (1,),
    }
    weights = {name: np.zeros(shape, np.float32) for name, shape in nothing.items()}
    item_turn = np.eye(content_width, dim, dtype=np.float32)  # content begins with the fused space
    return UserTower(turn=np.eye(dim, dtype=np.float32), item_turn=item_turn, **weights)


def publish(engine: Engine, folder: Path, seed: int = 0, **parts: Any) -> str:
    """Build, record and publish a release; returns its version."""
    return publish_saved(engine, folder, build_release(folder, seed, **parts).manifest.version)


def publish_saved(engine: Engine, folder: Path, version: str) -> str:
    """Record and publish a release that is there; returns its version."""
    path = str(folder / version)
    record_release(engine, version=version, path=path, data_cutoff=CUTOFF, checksum="", metrics={})
    publish_release(engine, version)
    return version


@contextmanager
def serve(engine: Engine, settings: Settings | None = None, **parts: Any) -> Iterator[tuple[TestClient, Service]]:
    """A client of a running app over ``engine``'s database, and the app's parts. Errors of the service raise here."""
    defaults = settings or settings_for(engine)
    app = create_app(defaults, **parts)
    with TestClient(app) as client:
        yield client, app.state.service


def settings_for(engine: Engine, **chosen: Any) -> Settings:
    """Settings over ``engine``'s database; the watcher looks only when a test asks it to."""
    url = engine.url.render_as_string(hide_password=False)
    return Settings(**{"database": url, "reload_seconds": 3600, **chosen})


def ids(answer: dict[str, Any]) -> list[str]:
    """The item ids of an answer."""
    return [item["id"] for item in answer["items"]]


def event(number: int, item_id: str, event_type: str = "detail-page-view", **more: Any) -> dict[str, Any]:
    """One event of the session ``s1``, as a body has it."""
    return {"event_id": f"e{number}", "event_type": event_type, "session_id": "s1", "item_id": item_id, **more}


def post(client: TestClient, path: str, **body: Any) -> dict[str, Any]:
    """The answer to a call that must go well."""
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def problem(answer: Any, status: int, kind: str) -> dict[str, Any]:
    """The problem that ``answer`` must be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["type"] == f"urn:recsys:problem:{kind}"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert body["instance"]
    return body
