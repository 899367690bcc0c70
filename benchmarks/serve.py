"""The request against its floor: ``python -m benchmarks.serve [--home var/demo-hm] [--requests 1000] [--json FILE]``

Asks the live release of ``--home`` (``make demo DATA=hm`` makes one) one request at a time on one thread, each beside
the bare library calls that it cannot do without: the Faiss search of the same user vectors and the LightGBM prediction
of the same feature rows. The two take turns in one run, so that a busy machine slows both.
"""

import argparse
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

import faiss  # noqa: E402 - after the thread counts are set
import numpy as np  # noqa: E402
from sqlalchemy import func, select  # noqa: E402

from benchmarks.protocol import write_json  # noqa: E402
from recsys.artifacts import Release, load_release  # noqa: E402
from recsys.data.database import open_database  # noqa: E402
from recsys.data.load import load_user_history  # noqa: E402
from recsys.data.releases import live_release  # noqa: E402
from recsys.data.tables import Event  # noqa: E402
from recsys.recommend import recommend, score_inputs  # noqa: E402
from recsys.request import Request  # noqa: E402


def open_live(home: Path) -> tuple[Release, list[Request]]:
    """The live release of a shop, and a request for each shopper with a history, in an order drawn once."""
    engine = open_database(f"sqlite:///{home / 'shop.db'}")
    live = live_release(engine)
    if live is None:
        raise SystemExit(f"{home}: expected a shop with a published release; make demo DATA=hm makes one")
    release = load_release(live.path)
    now = release.manifest.data_cutoff + timedelta(hours=1)
    users = select(Event.user_id).where(Event.user_id.is_not(None)).group_by(Event.user_id).having(func.count() >= 2)
    with engine.connect() as connection:
        user_ids = sorted(connection.scalars(users).all(), key=str)
    order = np.random.default_rng(0).permutation(len(user_ids))[:5000]
    return release, [
        Request(
            requested_at=now,
            user_id=user_ids[i],
            history=load_user_history(engine, user_id=user_ids[i], before=now),
            limit=12,
        )
        for i in order.tolist()
    ]


def bare_calls(release: Release, request: Request) -> Callable[[], object]:
    """The two library calls of this request, everything around them computed beforehand."""
    histories, _, features = score_inputs(release, [request])
    retrieval = release.retrieval
    vectors = retrieval.tower.user_vectors(
        retrieval.taste, histories.offsets, histories.rows, histories.event_types, histories.age_days
    )[0]
    if retrieval.taste_index is None or release.ranker is None:
        raise SystemExit("expected a release with an index and a ranker")
    index, booster = retrieval.taste_index.index, release.ranker.booster
    depth = max(1, retrieval.config.depth // len(vectors))

    def call() -> None:
        index.search(vectors, depth)
        booster.predict(features, num_threads=1)

    return call


def seconds_of(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description="recommend() beside the bare Faiss and LightGBM calls")
    parser.add_argument("--home", type=Path, default=Path("var/demo-hm"))
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    faiss.omp_set_num_threads(1)
    release, requests = open_live(args.home)
    recommend(release, requests[:50])  # touch what is mapped
    whole, bare, candidates = [], [], []
    for request in requests[50 : 50 + args.requests]:
        floor = bare_calls(release, request)
        floor()
        bare.append(seconds_of(floor))
        whole.append(seconds_of(lambda asked=request: recommend(release, [asked])))
        candidates.append(recommend(release, [request])[0].n_candidates)
    row: dict[str, Any] = {
        "release": release.manifest.version,
        "items": len(release.item_ids),
        "requests": len(whole),
        "candidates": float(np.mean(candidates)),
        "features": len(release.manifest.features),
    }
    for name, times in (("recommend", whole), ("bare", bare)):
        row |= {f"{name}_p{q}_ms": round(float(np.percentile(times, q)) * 1e3, 3) for q in (50, 99)}
    row |= {f"ratio_p{q}": round(float(np.percentile(whole, q) / np.percentile(bare, q)), 2) for q in (50, 99)}
    for name, value in row.items():
        print(f"{name:>20}  {value}")
    if args.json:
        write_json(args.json, {"rows": [row]})


if __name__ == "__main__":
    main()
