"""Search across modalities: a picture for a text, a text for a picture, over products never trained on.

    python -m benchmarks.crossmodal --products FILE --images DIR [--json FILE] [--methods NAME ...] [--pairs FILE]

FILE is Parquet, CSV or JSON lines with the columns product_id, title, description, category (H&M's articles are read as
they are); DIR holds ``<product_id>.jpg``. Products without a picture or without words are left out. Split by product
80/10/10 (seed 0): fitted on the first part, the best epoch taken by the second, measured on the third, every query
against all test products. Ties count against a method. ``--pairs`` names purchases, for the rows that learn from them.

Rows of the default are named "default". It is compared, query by query (paired bootstrap), with the best of the rows
that train one objective alone.
"""

import argparse
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.crossmodal_measures import measure, neighbours_kept, queries_per_second, ranks_of
from benchmarks.crossmodal_methods import METHODS, Answer, Material, answer
from benchmarks.products import read_pairs, read_products
from benchmarks.protocol import write_json
from recsys.alignment.concepts import Concepts, imagenet_names
from recsys.encoders import (
    ImageEncoderConfig,
    TextEncoderConfig,
    encode_images,
    encode_texts,
    load_image_encoder,
    load_text_encoder,
)
from recsys.evaluation.compare import compare

SEED = 0
HUBS_LEFT = ", hubs left"  # after a method's name: the same aligner, its likeness as it is
_material: tuple[Material, Any] | None = None  # of a worker process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pairs", type=Path, help="purchases, as H&M's transactions")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help=f"some of: {', '.join(METHODS)}")
    parser.add_argument("--image-model", default=ImageEncoderConfig.model)
    parser.add_argument("--text-model", default=TextEncoderConfig.model)
    parser.add_argument("--cache", type=Path, default=Path("var/cache"))
    parser.add_argument("--threads", type=int, default=2, help="methods trained beside each other")
    arguments = parser.parse_args()
    wanted = arguments.methods or list(METHODS)
    if unknown := set(wanted) - set(METHODS):
        parser.error(f"--methods: expected some of {list(METHODS)}, came {sorted(unknown)}")

    material, category, name = prepare(arguments)
    able = []
    for method in wanted:
        reason = material.needs(METHODS[method])
        if reason is None:
            able.append(method)
        else:
            print(f"{method}: left out: {reason}")
    protocol = {
        "split": "80/10/10 by product, seed 0",
        "test_products": len(material.test),
        "fit_products": len(material.fit),
        "image_model": arguments.image_model,
        "text_model": arguments.text_model,
    }
    result: dict[str, Any] = {"dataset": name, "protocol": protocol, "comparison": [], "rows": []}
    ranks: dict[str, dict[str, Any]] = {}
    os.environ["OMP_NUM_THREADS"] = "1"  # of each worker; it is read when a process starts
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(arguments.threads, len(able)), context, _start, (material, category)) as pool:
        for method, (its_rows, its_ranks) in zip(able, pool.map(_rows_of, able)):
            ranks[method] = its_ranks
            result["rows"] += its_rows
            result["comparison"] = compare_default(ranks)
            for row in its_rows:
                print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else str(v) for k, v in row.items()), flush=True)
            if arguments.json:  # after every method: a run that is cut off keeps what it has measured
                write_json(arguments.json, result)
    for line in result["comparison"]:
        print(f"{line['direction']}: {line['mean_b']:.3f}, {line['best']} {line['mean_a']:.3f}: {line['verdict']}")


def prepare(arguments: argparse.Namespace) -> tuple[Material, Any, str]:
    """Encode the products that have both modalities, and split them."""
    products = read_products(arguments.products, arguments.images)
    image_encoder = load_image_encoder(ImageEncoderConfig(arguments.image_model))
    text_encoder = load_text_encoder(TextEncoderConfig(arguments.text_model))
    there = [path if path.exists() else None for path in products.pictures]
    images = encode_images(there, image_encoder, arguments.cache, threads=arguments.threads)
    words = [said if seen else None for said, seen in zip(products.words, images.present)]  # the others are left out
    texts = encode_texts(words, text_encoder, arguments.cache, threads=arguments.threads)
    both = np.flatnonzero(images.present & texts.present)
    if len(both) < 30:
        raise SystemExit(f"expected at least 30 products with picture and words, came {len(both)}")
    concepts = {}
    names = imagenet_names()
    if image_encoder.classifier is not None and len(image_encoder.classifier[1]) == len(names):
        read = encode_texts(names, text_encoder, arguments.cache, progress=False)
        concepts["image"] = Concepts(*image_encoder.classifier, names=read.vectors)
    order = np.random.default_rng(SEED).permutation(len(both))
    fit, watch, test = np.split(order, [len(both) * 8 // 10, len(both) * 9 // 10])
    pairs = np.zeros((0, 2), np.int32)
    if arguments.pairs:
        pairs = read_pairs(arguments.pairs, [products.ids[row] for row in both])
    material = Material({"image": images.vectors[both], "text": texts.vectors[both]}, fit, watch, test, pairs, concepts)
    return material, products.category[both][test], products.name


def _start(material: Material, category: Any) -> None:
    global _material
    _material = material, category


def _rows_of(method: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    assert _material is not None
    material, category = _material
    started = time.perf_counter()
    found = answer(METHODS[method], material, SEED, threads=1)
    return rows_of(method, found, category, time.perf_counter() - started)


def rows_of(method: str, found: Answer, category: Any, seconds: float) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The two rows of a method, and the ranks behind each of their recalls.

    Where hubs are taken back, two more rows say what is found when they are left.
    """
    kept = {f"neighbours_kept_without_{name}": neighbours_kept(found.whole, part) for name, part in found.parts.items()}
    rows, left, ranks = [], [], {}
    for query, other in (("image", "text"), ("text", "image")):
        direction = f"{query}→{other}"
        likeness = found.sides[query] @ found.sides[other].T
        rest = {
            "queries_per_s": queries_per_second(found.sides[query], found.sides[other]),
            "bytes_per_item": found.aligner.dim * 4,
            "seconds": round(seconds, 1),
            **kept,
        }
        if query in found.hubs:
            left.append({"method": method + HUBS_LEFT, "direction": direction, **measure(likeness, category), **rest})
            likeness = likeness - found.hubs[query]
        ranks[direction] = ranks_of(likeness)
        rows.append({"method": method, "direction": direction, **measure(likeness, category), **rest})
    return rows + left, ranks


def compare_default(ranks: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The default against the best single objective of each direction, by recall@1 of the same queries."""
    singles = [method for method in ranks if METHODS[method].single]
    if "default" not in ranks or not singles:
        return []
    lines = []
    for direction, of_default in ranks["default"].items():
        hits = {method: (ranks[method][direction] == 1).astype(float) for method in singles}
        best = max(singles, key=lambda method: hits[method].mean())
        comparison = compare(hits[best], (of_default == 1).astype(float), seed=SEED)
        lines.append({"direction": direction, "measure": "recall@1", "best": best, **comparison.as_dict()})
    return lines


if __name__ == "__main__":
    main()
