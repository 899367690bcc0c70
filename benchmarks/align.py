"""How long the aligner trains: ``python -m benchmarks.align [--items 44000] [--threads 2] [--json FILE]``

Made-up encodings, as wide as those of the shipped encoders: two views of a few thousand clusters, so that there is
something to align, and pairs of items bought together. What is timed is the training alone, as a night does it once the
encodings lie in the cache: the shipped configuration, all members, and the compression of what they say.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.protocol import peak_mib, write_json
from pipelines.night_config import load_config
from recsys.alignment.modality import Modality
from recsys.alignment.train import train_alignment
from recsys.encoders import load_image_encoder, load_text_encoder

PAIRS_PER_ITEM = 5
ITEMS_PER_CLUSTER = 10


def made_up_views(n_items: int, widths: dict[str, int], seed: int) -> dict[str, Modality]:
    """Unit vectors float32 [n_items, width] of each modality, near the centre of each item's cluster there."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, max(1, n_items // ITEMS_PER_CLUSTER), n_items)
    views = {}
    for name, width in widths.items():
        centres = rng.normal(size=(cluster.max() + 1, width)).astype(np.float32)
        vectors = centres[cluster] + rng.normal(size=(n_items, width)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        views[name] = Modality(vectors, np.ones(n_items, bool))
    return views


def run(n_items: int, threads: int, seed: int = 0) -> dict[str, Any]:
    """Train once; the row of the table."""
    config = load_config(Path("pipelines/nightly.toml"))
    widths = {
        "image": load_image_encoder(config.image_encoder).dim,
        "text": load_text_encoder(config.text_encoder).dim,
    }
    views = made_up_views(n_items, widths, seed)
    pairs = np.random.default_rng(seed).integers(0, n_items, (PAIRS_PER_ITEM * n_items, 2)).astype(np.int32)
    started = time.perf_counter()
    aligner = train_alignment(views, pairs, config.alignment, seed=seed, threads=threads)
    trained = time.perf_counter()
    aligner.embed(views)
    return {
        "items": n_items,
        **{f"{name}_width": width for name, width in widths.items()},
        "members": config.alignment.members,
        "threads": threads,
        "train_s": round(trained - started, 1),
        "embed_s": round(time.perf_counter() - trained, 1),
        "peak_mib": round(peak_mib()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="how long the aligner trains")
    parser.add_argument("--items", type=int, default=44_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    row = run(args.items, args.threads)
    print("  ".join(f"{name} {value}" for name, value in row.items()))
    if args.json:
        write_json(args.json, {"rows": [row]})


if __name__ == "__main__":
    main()
