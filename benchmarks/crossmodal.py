"""Search across modalities: a picture for a text, a text for a picture, over products never trained on.

    python -m benchmarks.crossmodal --products FILE --images DIR [--json FILE] [--methods NAME ...] [--pairs FILE]

FILE is Parquet, CSV or JSON lines with the columns product_id, title, description, category (H&M's articles are read as
they are); DIR holds ``<product_id>.jpg``, or .png, .webp and the like. Products without an id, a picture or words are
left out, and so is what comes twice; the protocol counts them. Split by product 80/10/10 (seed 0): fitted on the first
part, the best epoch taken by the second, measured on the third, every query against all test products. Ties count
against a method. mAP is of the products with a category, where there are two categories. ``--pairs`` names purchases,
for the rows that learn from them.

Rows of the default are named "default". It is compared, query by query (paired bootstrap), with the best of the rows
that train one objective alone.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.crossmodal_measures import measure, neighbours_kept, queries_per_second, ranks_of
from benchmarks.crossmodal_methods import METHODS, Answer, Material, answer
from benchmarks.products import Products, read_pairs, read_products
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
FEW = 100  # test products, below which a lucky tenth answer says little
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

    products = read_products(arguments.products, arguments.images)
    material, category, left_out = prepare(products, arguments)
    n_used = len(material.fit) + len(material.watch) + len(material.test)
    protocol = {
        "split": "80/10/10 by product, seed 0",
        "products_read": n_used + sum(left_out.values()),
        "products_used": n_used,
        "left_out": left_out,
        "test_products": len(material.test),
        "fit_products": len(material.fit),
        "image_model": arguments.image_model,
        "text_model": arguments.text_model,
    }
    print(f"{protocol['products_read']} products read, {n_used} used; left out: {in_words(left_out)}")
    if few := warning(len(material.test)):
        print(few)
    able = able_of(wanted, material)
    result: dict[str, Any] = {"dataset": products.name, "protocol": protocol, "comparison": [], "rows": []}
    ranks: dict[str, dict[str, Any]] = {}
    os.environ["OMP_NUM_THREADS"] = "1"  # of each worker; it is read when a process starts
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(arguments.threads, len(able)), context, _start, (material, category)) as pool:
        for method, (its_rows, its_ranks) in zip(able, pool.map(_rows_of, able)):
            ranks[method] = its_ranks
            result["rows"] += its_rows
            result["comparison"] = compare_default(ranks)
            for row in its_rows:
                print(line_of(row), flush=True)
            if arguments.json:  # after every method: a run that is cut off keeps what it has measured
                write_json(arguments.json, result)
    for line in result["comparison"]:
        print(f"{line['direction']}: {line['mean_b']:.3f}, {line['best']} {line['mean_a']:.3f}: {line['verdict']}")


def prepare(products: Products, arguments: argparse.Namespace) -> tuple[Material, Any, dict[str, int]]:
    """Encode the products that have both modalities, and split them.

    Returns:
        The material, the categories of its test products, and why others are left out → how many.
    """
    image_encoder = load_image_encoder(ImageEncoderConfig(arguments.image_model))
    text_encoder = load_text_encoder(TextEncoderConfig(arguments.text_model))
    images = encode_images(products.pictures, image_encoder, arguments.cache, threads=arguments.threads)
    words = [said if seen else None for said, seen in zip(products.words, images.present)]  # the others are left out
    texts = encode_texts(words, text_encoder, arguments.cache, threads=arguments.threads)
    both = np.flatnonzero(images.present & texts.present)
    reasons = {
        **products.left_out,
        "without a picture": sum(path is None for path in products.pictures),
        "with a picture that cannot be read": len(images.failures),
        "without words": int((images.present & ~texts.present).sum()),
    }
    left_out = {reason: n for reason, n in reasons.items() if n}
    if len(both) < 30:
        raise SystemExit(
            f"expected at least 30 products with picture and words, came {len(both)}; left out: {in_words(left_out)}"
        )
    concepts = {}
    names = imagenet_names()
    if image_encoder.classifier is not None and len(image_encoder.classifier[1]) == len(names):
        read = encode_texts(names, text_encoder, arguments.cache, progress=False)
        concepts["image"] = Concepts(*image_encoder.classifier, names=read.vectors)
    order = np.random.default_rng(SEED).permutation(len(both))
    fit, watch, test = np.split(order, [len(both) * 8 // 10, len(both) * 9 // 10])
    pairs = np.zeros((0, 2), np.int32)
    if arguments.pairs:
        pairs = read_pairs(arguments.pairs, [products.ids[row] for row in both.tolist()])
    material = Material({"image": images.vectors[both], "text": texts.vectors[both]}, fit, watch, test, pairs, concepts)
    return material, products.category[both][test], left_out


def able_of(wanted: Sequence[str], material: Material) -> list[str]:
    """The methods that can be had with this material; says why others cannot, and ends where none can."""
    reasons = {method: material.needs(METHODS[method]) for method in wanted}
    able = [method for method, reason in reasons.items() if reason is None]
    if not able:
        came = "; ".join(f"{method}: {reason}" for method, reason in reasons.items())
        raise SystemExit(f"--methods: expected at least one that these products and encoders allow, came only {came}")
    for method, reason in reasons.items():
        if reason is not None:
            print(f"{method}: left out: {reason}")
    return able


def warning(n_test: int) -> str | None:
    """What to think of recalls among so few products; None where they are enough."""
    if n_test >= FEW:
        return None
    return (
        f"warning: only {n_test} test products: by chance alone recall@10 is {min(1, 10 / n_test):.3f} "
        f"and recall@5 {min(1, 5 / n_test):.3f}"
    )


def in_words(left_out: Mapping[str, int]) -> str:
    """``3 without an id, 1 without words``; "none" where nothing is left out."""
    return ", ".join(f"{n} {reason}" for reason, n in left_out.items()) or "none"


def line_of(row: Mapping[str, Any]) -> str:
    """A row as it is printed: numbers after their names, a dash where one is not known."""
    return "  ".join(value if isinstance(value, str) else f"{key} {_number(value)}" for key, value in row.items())


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


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
