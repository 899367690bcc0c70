"""The shop of service_shop.py with real encoders: pictures drawn, all of it encoded, a small aligner trained.

Made once a process, in a few seconds; a test publishes it into its own database.
"""

import atexit
import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from service_shop import CUTOFF, ITEM_IDS, build_release, ids, items, publish_saved, serve, settings_for
from sqlalchemy import Engine

from pipelines.config import Paths
from pipelines.encode import encode_shop
from pipelines.night_config import NightConfig
from pipelines.search import build_search
from recsys.alignment.spaces import save_spaces
from recsys.alignment.train import AlignmentConfig, train_alignment
from recsys.data.database import open_database, upgrade_database
from recsys.data.load import attribute_tokens
from recsys.data.store import put_items
from recsys.schema import ITEMS, REVIEWS, validate
from service.deps import Service

SAID = "It squeaks at every step."  # the review of red-05, and nowhere else


@cache
def searchable() -> tuple[Path, Path, str]:
    """The folder of the release, the folder of pictures, and the release's version."""
    folder = Path(tempfile.mkdtemp(prefix="recsys-searchable-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    pictures = folder / "pictures"
    (pictures / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for item_id in ITEM_IDS:
        (pictures / "images" / f"{item_id}.jpg").write_bytes(picture(item_id.split("-")[0], rng))
    config = NightConfig(paths=Paths(cache=str(folder / "cache"), images=str(pictures)), threads=1)
    frame, reviews = _items(), _reviews()
    encoded = encode_shop(frame, reviews, CUTOFF, config, progress=False)
    small = AlignmentConfig(dim=16, members=1, hidden=64, components=128, epochs=12)
    aligner = train_alignment(encoded.modalities, np.zeros((0, 2), np.int32), small, seed=0, threads=1, progress=False)

    def save_aligner(into: Path) -> None:
        aligner.save(into)
        save_spaces(encoded.spaces, into)

    vectors = aligner.embed(encoded.modalities)
    release = build_release(
        folder / "releases",
        vectors=vectors,
        search=build_search(frame, reviews, aligner, encoded.modalities, vectors, pictures, threads=1),
        spaces={name: encoded.likeness(name, len(frame)) for name in ("image", "text")},
        save_aligner=save_aligner,
        text_encoder=asdict(config.text_encoder),
        image_encoder=asdict(config.image_encoder),
    )
    return folder / "releases", pictures, release.manifest.version


def publish_searchable(engine: Engine) -> Path:
    """Publish it in this database; returns the folder of pictures."""
    releases, pictures, version = searchable()
    publish_saved(engine, releases, version)
    return pictures


@contextmanager
def serving(engine: Engine) -> Iterator[tuple[TestClient, Service]]:
    """A client of a service with this release, ready to search, and the app's parts."""
    put_items(engine, items())
    pictures = publish_searchable(engine)
    with serve(engine, settings_for(engine, images=str(pictures))) as (client, service):
        live = service.live.current
        assert live is not None
        assert live.release.embedder is not None
        assert live.release.embedder.wait(120)
        service.newcomers.flush()
        yield client, service


@contextmanager
def standing_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The same on a database of its own, for tests that change nothing."""
    engine = open_database(f"sqlite:///{tmp_path_factory.mktemp('search') / 'shop.db'}")
    upgrade_database(engine)
    with serving(engine) as (client, _):
        yield client
    engine.dispose()


def find(client: TestClient, **body: Any) -> dict[str, Any]:
    """The answer to a search by words that must go well."""
    answer = client.post("/v1/search", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def find_like(client: TestClient, data: bytes, **fields: Any) -> Any:
    """The response to a search by a picture."""
    return client.post("/v1/search", files={"image": ("photo", data)}, data=fields)


def reds(answer: dict[str, Any]) -> int:
    """How many red items an answer has."""
    return sum(item_id.startswith("red") for item_id in ids(answer))


def picture(colour: str, rng: np.random.Generator | None = None, form: str = "JPEG", **options: Any) -> bytes:
    """A dress of one colour on grey, 96 pixels wide."""
    rng = rng or np.random.default_rng(1)
    ink = {"red": (200, 30, 40), "blue": (30, 50, 200), "green": (30, 160, 60)}[colour]
    pixels = np.full((96, 96, 3), 215, np.uint8)
    top, waist = rng.integers(8, 20), rng.integers(30, 60)
    for y in range(top, 92):
        half = int(12 + max(0, y - waist) * 0.6)
        pixels[y, 48 - half : 48 + half] = ink
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def _items() -> pl.DataFrame:
    rows = [
        {**item, "attributes": attribute_tokens(item["attributes"]), "description": None, "family": None}
        for item in items()
    ]
    return validate(pl.DataFrame(rows), ITEMS, "items")


def _reviews() -> pl.DataFrame:
    words = {"red-05": SAID, "blue-05": "Fits well and keeps its colour.", "red-06": "A fine dress."}
    rows = [
        {
            "review_id": f"r-{item_id}", "item_id": item_id, "user_id": "u1", "rating": 4.0, "title": None,
            "text": text, "helpful_votes": 1, "timestamp": CUTOFF.replace(day=1, month=2),
        }
        for item_id, text in words.items()
    ]  # fmt: skip
    return validate(pl.DataFrame(rows), REVIEWS, "reviews")
