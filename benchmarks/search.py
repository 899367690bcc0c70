"""A text query against its floor: ``python -m benchmarks.search [--items 1000000] [--queries 300] [--json FILE]``

A catalogue of made-up vectors and titles, a real text encoder and a real (untrained) aligner, the whole served by the
real app over ASGI, in one process, on one thread. Each query is asked of the service, and its words are encoded alone;
the two take turns, so that a busy machine slows both. What the service adds is their difference: reading the request,
the aligner's head, Faiss, BM25, the blend, the log and the answer.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

import numpy as np  # noqa: E402 - after the thread counts are set
import torch  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402
from sqlalchemy import insert  # noqa: E402

from benchmarks.protocol import write_json  # noqa: E402
from recsys.alignment.modality import Modality  # noqa: E402
from recsys.alignment.train import AlignmentConfig, train_alignment  # noqa: E402
from recsys.artifacts import Manifest, Release, save_release  # noqa: E402
from recsys.data.database import open_database, upgrade_database  # noqa: E402
from recsys.data.releases import publish_release, record_release  # noqa: E402
from recsys.data.synthetic import make_vectors  # noqa: E402
from recsys.data.tables import Item  # noqa: E402
from recsys.encoders import TextEncoderConfig, load_text_encoder  # noqa: E402
from recsys.ranking.features import ITEM_FEATURES, FeatureTables  # noqa: E402
from recsys.retrieval.index import IndexConfig, build_index  # noqa: E402
from recsys.retrieval.items import empty_table  # noqa: E402
from recsys.retrieval.retrieve import TABLES, Retrieval, RetrievalConfig  # noqa: E402
from recsys.retrieval.users import MAX_HISTORY, N_AGES, UserTower  # noqa: E402
from recsys.schema import EVENT_TYPES  # noqa: E402
from recsys.search_index import SearchIndex  # noqa: E402
from recsys.words import build_vocabulary, build_words  # noqa: E402
from service.app import create_app  # noqa: E402
from service.settings import Settings  # noqa: E402

DIM = 64
CUTOFF = datetime(2026, 3, 1, tzinfo=UTC)
N_WORDS = 20_000
WORDS_PER_TITLE = 8


def made_up_titles(n_items: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Titles of words that are common as words are (Zipf), each with a code of its own; and the words, common first."""
    rng = np.random.default_rng(seed)
    syllables = np.array([a + b for a in "bdfgklmnprstvz" for b in "aeiou"])
    lengths = rng.integers(2, 5, N_WORDS)
    words = np.array(["".join(rng.choice(syllables, length)) for length in lengths])
    share = 1 / np.arange(10, N_WORDS + 10)
    drawn = words[rng.choice(N_WORDS, (n_items, WORDS_PER_TITLE), p=share / share.sum())]
    return [f"{' '.join(title)} kx{number:07d}" for number, title in enumerate(drawn)], words


def made_up_queries(titles: Sequence[str], count: int, seed: int) -> list[str]:
    """One to four words of some title, or its code."""
    rng = np.random.default_rng(seed)
    queries = []
    for row in rng.integers(0, len(titles), count):
        *words, code = titles[row].split()
        some = rng.choice(words, rng.integers(1, 5), replace=False)
        queries.append(code if rng.random() < 0.1 else " ".join(some))
    return queries


def build_release(titles: list[str], folder: Path) -> tuple[Release, dict[str, float]]:
    """A release that answers searches of ``titles``, saved below ``folder``, and what its parts took, seconds."""
    took: dict[str, float] = {}

    def timed(name: str, make: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        made = make()
        took[name] = round(time.perf_counter() - started, 1)
        return made

    n_items = len(titles)
    vectors = make_vectors(n_items, DIM, seed=0, clusters=1_000)
    item_ids = [f"i{number:07d}" for number in range(n_items)]
    index = timed("index_s", lambda: build_index(item_ids, vectors, IndexConfig(), threads=1))
    words = timed("words_s", lambda: build_words(titles))
    encoder = load_text_encoder(TextEncoderConfig())
    sample = encoder.encode(titles[:256])
    text = Modality((sample / np.linalg.norm(sample, axis=1, keepdims=True)).astype(np.float32), np.ones(256, bool))
    aligner = train_alignment(
        {"text": text, "image": text}, np.zeros((0, 2), np.int32), AlignmentConfig(epochs=1, dim=DIM),
        seed=0, threads=1, progress=False,
    )  # fmt: skip
    nothing = np.zeros((n_items, 1), np.float16)
    release = Release(
        manifest=Manifest(
            version="", data_cutoff=CUTOFF, embedding_cutoff=CUTOFF, code_commit="",
            config={"retrieval": {}, "text_encoder": asdict(TextEncoderConfig()), "image_encoder": {}}, metrics={},
            index_kind=index.kind, index_recall=index.recall, taste_index_kind=index.kind,
            taste_index_recall=index.recall, n_items=n_items, dim=DIM,
        ),
        item_ids=item_ids,
        titles=titles,
        in_stock=np.ones(n_items, bool),
        retrieval=Retrieval(
            index=index, embeddings=vectors, tower=_tower(), taste=vectors, taste_index=index,
            tables=dict.fromkeys(TABLES, empty_table(n_items)),
            trending=np.zeros(n_items, np.float32), trending_rows=np.zeros(0, np.int32),
            newest=np.arange(n_items, dtype=np.int32), config=RetrievalConfig(),
        ),
        tables=FeatureTables(
            as_of_days=CUTOFF.timestamp() / 86_400, items=np.full((n_items, len(ITEM_FEATURES)), np.nan, np.float32),
            created_at_days=np.full(n_items, np.nan), category=np.full(n_items, -1, np.int32),
            brand=np.full(n_items, -1, np.int32), family=np.full(n_items, -1, np.int32),
            attributes=np.full((n_items, 1), -1, np.int32),
            spaces={"fused": vectors, "image": nothing, "text": nothing, "attributes": nothing},
        ),
        ranker=None,
        search=SearchIndex(
            words=words, reviews=build_words([None] * n_items),
            parts={"text": vectors.astype(np.float16)}, content=np.zeros((n_items, 2), np.uint64),
            codes={name: build_vocabulary([]) for name in ("category", "brand", "family", "attributes")},
            hubs=aligner.hubness(vectors),
        ),
    )  # fmt: skip
    return save_release(release, folder, aligner.save), took


def _tower() -> UserTower:
    nothing = {
        "query": (DIM, 1), "affinity": (DIM, DIM), "affinity_weight": (1,), "by_position": (MAX_HISTORY, 1),
        "by_age": (N_AGES, 1), "by_gap": (N_AGES, 1), "by_type": (len(EVENT_TYPES), 1), "turn_last": (DIM, DIM),
        "inner": (2 * DIM, 1), "inner_bias": (1,), "outer": (1, DIM), "log_scale": (1,),
        "item_turn": (DIM, DIM),
    }  # fmt: skip
    weights = {name: np.zeros(shape, np.float32) for name, shape in nothing.items()}
    return UserTower(turn=np.eye(DIM, dtype=np.float32), **weights)


def fill_database(url: str, folder: Path, release: Release) -> None:
    """The catalogue's rows, and the release as the live one."""
    engine = open_database(url)
    upgrade_database(engine)
    rows = [
        {
            "item_id": item_id, "title": title, "category": f"Things > {number % 50}", "brand": f"Brand {number % 200}",
            "price_cents": 1_000 + number % 9_000, "in_stock": True, "attributes": {}, "updated_at": CUTOFF,
        }
        for number, (item_id, title) in enumerate(zip(release.item_ids, release.titles))
    ]  # fmt: skip
    with engine.begin() as connection:
        for start in range(0, len(rows), 50_000):
            connection.execute(insert(Item), rows[start : start + 50_000])
    version = release.manifest.version
    record_release(engine, version=version, path=str(folder / version), data_cutoff=CUTOFF, checksum="", metrics={})
    publish_release(engine, version)
    engine.dispose()


def measure(url: str, queries: Sequence[str], filtered: bool) -> dict[str, Any]:
    """Milliseconds of each query: whole, as the client sees it and as the service says it, and its encoding alone."""
    torch.set_num_threads(1)
    encoder = load_text_encoder(TextEncoderConfig())
    whole, inside, alone, rungs = [], [], [], set()
    with TestClient(create_app(Settings(database=url))) as client:
        live = client.app.state.service.live.current  # type: ignore[attr-defined]
        if live is None or live.release.embedder is None or not live.release.embedder.wait(120):
            raise SystemExit("expected a live release with its encoders")
        wanted = {"category": "Things > 7", "price_to_cents": 6_000} if filtered else {}
        for number, query in enumerate(queries):
            body = {"text": query, "limit": 24, "filter": wanted}
            started = time.perf_counter()
            encoder.encode([query])
            encoded = time.perf_counter()
            answer = client.post("/v1/search", json=body)
            answered = time.perf_counter()
            if answer.status_code != 200:
                raise SystemExit(answer.text)
            if number >= 20:  # the first ones touch what is mapped
                alone.append(encoded - started)
                whole.append(answered - encoded)
                inside.append(answer.json()["took_ms"] / 1e3)
                rungs.add(answer.json()["fallback"])
    row: dict[str, Any] = {"filtered": filtered, "queries": len(whole), "fallback": "+".join(sorted(rungs))}
    for name, seconds in (("encoder", alone), ("service", inside), ("client", whole)):
        row |= {f"{name}_p{q}_ms": round(float(np.percentile(seconds, q)) * 1e3, 2) for q in (50, 99)}
    row["added_p50_ms"] = round(row["service_p50_ms"] - row["encoder_p50_ms"], 2)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description="a text query inside the service beside its encoder alone")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    titles, _ = made_up_titles(args.items, seed=0)
    queries = made_up_queries(titles, args.queries + 20, seed=1)
    with tempfile.TemporaryDirectory(prefix="recsys-search-") as home:
        folder = Path(home) / "releases"
        release, took = build_release(titles, folder)
        words = folder / release.manifest.version / "search" / "words"
        mib = round(sum(file.stat().st_size for file in words.iterdir()) / 2**20, 1)
        url = f"sqlite:///{Path(home) / 'shop.db'}"
        fill_database(url, folder, release)
        about = {"items": args.items, "index": release.manifest.index_kind, "words_mib": mib, **took}
        del release, titles
        rows = [about | measure(url, queries, filtered) for filtered in (False, True)]
    peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    print(f"peak memory {peak} MiB, building included")
    if args.json:
        write_json(args.json, {"rows": rows})


if __name__ == "__main__":
    main()
