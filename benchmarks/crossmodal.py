"""Search across modalities: a picture for a text, a text for a picture, over products never trained on.

    python -m benchmarks.crossmodal --products FILE --images DIR [--json FILE] [--methods NAME ...] [--pairs FILE]
        [--fit N]

FILE is Parquet, CSV or JSON lines with the columns product_id, title, description, category (H&M's articles are read as
they are); DIR holds ``<product_id>.jpg``, or .png, .webp and the like. Products without an id, a picture or words are
left out, and so is what comes twice; the protocol counts them. Split by product 80/10/10 (seed 0): fitted on the first
part, the best epoch taken by the second, measured on the third, every query against all test products. Ties count
against a method. mAP is of the products with a category, where there are two categories. ``--pairs`` names purchases,
for the rows that learn from them; ``--fit N`` asks the same questions of a shop that has N products to learn from, and
an eighth as many to take the best epoch by.

Rows of the default are named "default". It is compared, query by query (paired bootstrap), with the best of the rows
that train one objective alone: as they are, and once more with their hubs taken back as the default's are. Every row
has the interval of its recall@1 less that of the best such row as it is. A method that fails is left out and named in
the protocol; where it is the default, the command fails after the others.
"""

import argparse
import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.crossmodal_measures import measure, neighbours_kept, queries_per_second, ranks_of
from benchmarks.crossmodal_methods import METHODS, Answer, Material, answer, load_material
from benchmarks.products import Products, read_pairs, read_products
from benchmarks.protocol import LeftOut, why_left_out, write_json
from pipelines.stages import peak_mib
from recsys.alignment.concepts import Concepts, imagenet_names
from recsys.encoders import (
    ImageEncoderConfig,
    TextEncoderConfig,
    encode_images,
    encode_texts,
    load_image_encoder,
    load_text_encoder,
)
from recsys.evaluation.compare import compare, compare_all

SEED = 0
MIN_FIT = 16  # products to learn from
FEW = 100  # test products, below which a lucky tenth answer says little
# After a method's name: the same aligner, its likeness the other way.
HUBS_LEFT, HUBS_TAKEN = ", hubs left", ", hubs taken back"
Ranks = Mapping[str, Mapping[str, Any]]  # name of a row → direction → rank of each query's answer, int64 [test]


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
    parser.add_argument("--fit", type=int, metavar="N", help="learn from so many of the products: a smaller shop")
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
    failed: dict[str, str] = {}
    protocol["left_out_methods"] = failed
    result: dict[str, Any] = {
        "dataset": products.name,
        "protocol": protocol,
        "comparison": [],
        "comparison_corrected": [],
        "rows": [],
    }
    ranks: dict[str, Mapping[str, Any]] = {}
    os.environ["OMP_NUM_THREADS"] = "1"  # of each worker; it is read when a process starts
    with TemporaryDirectory() as folder, ThreadPoolExecutor(min(arguments.threads, len(able))) as waiting:
        material.save(Path(folder))
        each = waiting.map(partial(measure_apart, folder=Path(folder), category=category), able)
        for method, measured in zip(able, each):
            if isinstance(measured, LeftOut):
                failed[method] = measured.reason
                print(f"{method}: left out: {measured.reason}", flush=True)
            else:
                its_rows, its_ranks = measured
                for row in its_rows:
                    print(line_of(row), flush=True)
                ranks |= its_ranks
                result["rows"] += its_rows
                result["comparison"] = compare_default(ranks)
                result["comparison_corrected"] = compare_default(ranks, HUBS_TAKEN)
                add_intervals(result["rows"], ranks)
            if arguments.json:  # after every method: a run that is cut off keeps what it has measured
                write_json(arguments.json, result)
    for line in result["comparison"] + result["comparison_corrected"]:
        print(f"{line['direction']}: {line['mean_b']:.3f}, {line['best']} {line['mean_a']:.3f}: {line['verdict']}")
    if "default" in failed:
        raise SystemExit(f"default: expected an answer, came {failed['default']}")


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
    if arguments.fit is not None:
        if not MIN_FIT <= arguments.fit <= len(fit):
            raise SystemExit(f"--fit: expected {MIN_FIT} to {len(fit)} products, came {arguments.fit}")
        fit, watch = fit[: arguments.fit], watch[: max(1, arguments.fit // 8)]
        left_out["beyond --fit"] = len(both) - len(fit) - len(watch) - len(test)
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


def measure_apart(method: str, folder: Path, category: Any) -> tuple[list[dict[str, Any]], Ranks] | LeftOut:
    """Train and measure in a fresh process, so that memory is the method's own, and its failure too.

    Args:
        folder: of the material.
        category: of the test products.
    """
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_rows_of, method, folder, category).result()
    except Exception as error:  # whatever it was, the other methods' hours are not lost with it
        return why_left_out(method, error)


def _rows_of(method: str, folder: Path, category: Any) -> tuple[list[dict[str, Any]], Ranks]:
    started = time.perf_counter()
    found = answer(METHODS[method], load_material(folder), SEED, threads=1)
    return rows_of(method, found, category, time.perf_counter() - started, peak_mib())


def rows_of(
    method: str, found: Answer, category: Any, seconds: float, peak: float
) -> tuple[list[dict[str, Any]], Ranks]:
    """The rows of a method, two for each of its names, and the ranks behind each of their recalls.

    ``seconds`` and ``peak``, MiB, are of training and embedding; measuring costs all methods the same.
    """
    kept = {f"neighbours_kept_without_{name}": neighbours_kept(found.whole, part) for name, part in found.parts.items()}
    names = names_of(method)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    ranks: dict[str, dict[str, Any]] = {name: {} for name in names}
    for query, other in (("image", "text"), ("text", "image")):
        direction = f"{query}→{other}"
        bare = found.sides[query] @ found.sides[other].T
        rest = {
            "queries_per_s": queries_per_second(found.sides[query], found.sides[other]),
            "bytes_per_item": found.aligner.dim * 4,
            "seconds": round(seconds, 1),
            "peak_mib": round(peak),
            **kept,
        }
        for name, taken_back in names.items():
            likeness = bare - found.hubs[query] if taken_back else bare
            ranks[name][direction] = ranks_of(likeness)
            rows[name].append({"method": name, "direction": direction, **measure(likeness, category), **rest})
    return [row for of_name in rows.values() for row in of_name], ranks


def names_of(method: str) -> dict[str, bool]:
    """The names of a method's rows → whether hubs are taken back in them; its own name first."""
    how = METHODS[method]
    if how.corrected:
        return {method: True, method + HUBS_LEFT: False}
    return {method: False, method + HUBS_TAKEN: True} if how.single else {method: False}


def compare_default(ranks: Ranks, suffix: str = "") -> list[dict[str, Any]]:
    """The default against the best single objective of each direction, by recall@1 of the same queries.

    ``suffix`` is that of the single objectives' rows: HUBS_TAKEN, or none for the bare ones.
    """
    lines = []
    for direction, hits in _hits(ranks).items():
        best = _best_single(hits, suffix)
        if best is not None and "default" in hits:
            comparison = compare(hits[best], hits["default"], seed=SEED)
            lines.append({"direction": direction, "measure": "recall@1", "best": best, **comparison.as_dict()})
    return lines


def add_intervals(rows: Sequence[dict[str, Any]], ranks: Ranks) -> None:
    """Set ``ci_vs_best_single`` of each row: of its recall@1 less that of the best bare single objective.

    None for that one itself, where no single objective was measured, and where test products are too few.
    """
    hits = _hits(ranks)
    best = {direction: _best_single(of_direction) for direction, of_direction in hits.items()}
    against = {
        direction: compare_all(dict.fromkeys(hits[direction], hits[direction][name]), hits[direction], seed=SEED)
        for direction, name in best.items()
        if name is not None
    }
    for row in rows:
        method, direction = row["method"], row["direction"]
        row["ci_vs_best_single"] = None
        if best[direction] not in (None, method) and not against[direction][method].too_few:
            row["ci_vs_best_single"] = [against[direction][method].low, against[direction][method].high]


def _hits(ranks: Ranks) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Direction → name of a row → 1 where a query's answer stands first, else 0; float64 [test]."""
    hits: dict[str, dict[str, NDArray[np.float64]]] = {}
    for name, of_name in ranks.items():
        for direction, rank in of_name.items():
            hits.setdefault(direction, {})[name] = (rank == 1).astype(np.float64)
    return hits


def _best_single(hits: Mapping[str, NDArray[np.float64]], suffix: str = "") -> str | None:
    singles = [method + suffix for method, how in METHODS.items() if how.single and method + suffix in hits]
    return max(singles, key=lambda name: hits[name].mean(), default=None)


if __name__ == "__main__":
    main()
