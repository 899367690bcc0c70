"""Compact codes beside floats: how much of the exact answer is kept, at how many bytes, how fast.

    python -m benchmarks.codes [--vectors FILE.npy] [--products FILE --images DIR] [--items N] [--json FILE]

Items are the unit vectors of FILE.npy; or a shop's products in the aligned space (files as for benchmarks.crossmodal;
the aligner never sees the tenth of the products that is asked about); or N made-up ones in clusters. Queries are items
that are not in the index, or the test products' words.

recall@k is the share of the exact k nearest items, by inner product of the floats, among the method's first k. Bytes an
item are those that a search scans or keeps in memory; ``disk_bytes_per_item`` those of the float vectors that a
shortlist is rescored from, which a release has anyway. How long a shortlist must be is taken from items of the index,
not from the queries. One query at a time on one thread; the methods take turns: a busy machine slows all alike.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

import faiss  # noqa: E402 - after the thread counts are set
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from benchmarks.protocol import write_json  # noqa: E402
from recsys.data.synthetic import make_vectors  # noqa: E402
from recsys.retrieval.codes import CodeIndex, DecodedVectors, graded_codes, learn_codes, plain_codes  # noqa: E402
from recsys.retrieval.index import IndexConfig, build_index  # noqa: E402

Array = NDArray[np.float32]
K = 100
GOAL = 0.98  # of the exact 100 nearest; shortlists are lengthened until a sample of items reaches it
SAMPLE = 9_984  # that quantisers with k-means inside learn from


@dataclass(frozen=True)
class Method:
    """What is measured: a name, its bytes, and how to ask it one query (float32 [1, d]) for k rows."""

    name: str
    bits: int
    memory_bytes: float
    disk_bytes: float
    ask: Callable[[Array, int], NDArray[np.int64]]
    shortlist: int = 0


def exact(items: Array) -> Method:
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items)
    return Method("float, exact scan", 32 * items.shape[1], items.shape[1] * 4, 0, asker(index))


def inverted_lists(items: Array) -> Method:
    index = build_index([], items, IndexConfig(kind="ivf", min_recall=GOAL), threads=1).index
    return Method("float, inverted lists", 32 * items.shape[1], items.shape[1] * 4 + 8, 0, asker(index))


def hamming_only(items: Array, bits: int, learned: bool) -> Method:
    codes = (learn_codes if learned else plain_codes)(items, bits, seed=0)
    index = scan_of(codes.encode(items))

    def ask(query: Array, k: int) -> NDArray[np.int64]:
        rows: NDArray[np.int64] = index.search(codes.encode(query), k)[1]
        return rows

    return Method(f"{_kind(learned)}, Hamming distance alone", bits, bits / 8, 0, ask)


def rescored_from_disk(items: Array, bits: int, learned: bool) -> Method:
    codes = (learn_codes if learned else plain_codes)(items, bits, seed=0)
    index = deepened(CodeIndex(codes, scan_of(codes.encode(items)), items, 250), items)
    name = f"{_kind(learned)}, rescored from vectors on disk"
    return Method(name, bits, bits / 8, items.shape[1] * 4, asker(index), index.depth)


def _kind(learned: bool) -> str:
    return "ITQ" if learned else "random rotations"


def rescored_from_codes(items: Array, bits: int) -> Method:
    """A quarter of the bits are signs, to be found by; the others say where on its axes the item lies."""
    signs, graded = learn_codes(items, bits // 4, seed=0), graded_codes(items, bits - bits // 4, seed=0)
    vectors = DecodedVectors(graded, graded.encode(items))
    index = deepened(CodeIndex(signs, scan_of(signs.encode(items)), vectors, 250), items)
    return Method("ITQ and graded axes, rescored from the codes", bits, bits / 8, 0, asker(index), index.depth)


def quantised(items: Array, name: str, recipe: str) -> Method:
    index = faiss.index_factory(items.shape[1], recipe, faiss.METRIC_INNER_PRODUCT)
    rng = np.random.default_rng(0)
    index.train(items[rng.choice(len(items), min(len(items), SAMPLE), replace=False)])
    index.add(items)
    coder = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    return Method(name, 8 * coder.code_size, coder.code_size, 0, asker(index))


def shipped(items: Array) -> Method:
    """What a release's index is where the floats do not fit the budget."""
    budget = int(len(items) * 40 / 2**20) + 1
    index = build_index([], items, IndexConfig(kind="binary", memory_mib=budget, min_recall=GOAL), threads=1).index
    assert isinstance(index, CodeIndex)
    return Method(
        "default", index.codes.bits, index.codes.bits / 8 + 8, items.shape[1] * 4, asker(index), index.depth
    )  # 8: of the row's number, in Faiss's lists


def scan_of(codes: NDArray[np.uint8]) -> faiss.IndexBinaryFlat:
    index = faiss.IndexBinaryFlat(8 * codes.shape[1])
    index.add(np.ascontiguousarray(codes))
    return index


def deepened(index: CodeIndex, items: Array) -> CodeIndex:
    """The shortlist doubled until a sample of the items finds GOAL of its neighbours in it, up to a tenth of all."""
    rng = np.random.default_rng(1)
    queries = items[rng.choice(len(items), min(100, len(items)), replace=False)]
    truth = nearest(items, queries)
    while recall([index.search(queries, K)[1]], truth, K) < GOAL and index.depth < len(items) // 10:
        index = replace(index, depth=min(2 * index.depth, len(items) // 10))
    return index


def asker(index: Any) -> Callable[[Array, int], NDArray[np.int64]]:
    def ask(query: Array, k: int) -> NDArray[np.int64]:
        rows: NDArray[np.int64] = index.search(query, k)[1]
        return rows

    return ask


def nearest(items: Array, queries: Array) -> NDArray[np.int64]:
    rows: NDArray[np.int64] = faiss.knn(queries, items, min(K, len(items)), metric=faiss.METRIC_INNER_PRODUCT)[1]
    return rows


def recall(answers: Sequence[NDArray[np.int64]], truth: NDArray[np.int64], k: int) -> float:
    """Share of the exact k nearest among the first k of each answer."""
    found = np.concatenate(answers)
    return float(np.mean([len(np.intersect1d(mine[:k], true[:k])) for mine, true in zip(found, truth)]) / k)


def measure(items: Array, methods: Sequence[Method], queries: Array, about: dict[str, Any]) -> list[dict[str, Any]]:
    """Every method asked every query, in turns."""
    truth = nearest(items, queries)
    seconds, answers = np.zeros(len(methods)), [list[NDArray[np.int64]]() for _ in methods]
    for method in methods:
        method.ask(queries[:1], K)
    for place in range(len(queries)):
        for number, method in enumerate(methods):
            started = time.perf_counter()
            answers[number].append(method.ask(queries[place : place + 1], K))
            seconds[number] += time.perf_counter() - started
    return [
        {
            "method": method.name,
            **about,
            "bits": method.bits,
            "bytes_per_item": method.memory_bytes,
            "disk_bytes_per_item": method.disk_bytes,
            "recall@100": round(recall(given, truth, K), 4),
            "recall@10": round(recall(given, truth, 10), 4),
            "queries_per_s": round(len(queries) / took, 1),
            "shortlist": method.shortlist,
        }
        for method, given, took in zip(methods, answers, seconds)
    ]


def aligned_products(products: Path, images: Path, cache: Path) -> tuple[Array, dict[str, Array]]:
    """The products that the aligner learned from, in its space; and as queries the others, whole and as words alone."""
    from benchmarks.products import read_products
    from recsys.alignment.modality import Modality
    from recsys.alignment.train import AlignmentConfig, train_alignment
    from recsys.encoders import ImageEncoderConfig, TextEncoderConfig, encode_images, encode_texts

    shop = read_products(products, images)
    pictures = encode_images(shop.pictures, ImageEncoderConfig(), cache)
    texts = encode_texts(shop.words, TextEncoderConfig(), cache)
    order = np.random.default_rng(0).permutation(np.flatnonzero(pictures.present & texts.present))
    asked, known = np.split(order, [len(order) // 10])
    there = np.ones(len(known), bool)
    modalities = {"image": Modality(pictures.vectors[known], there), "text": Modality(texts.vectors[known], there)}
    aligner = train_alignment(modalities, np.zeros((0, 2), np.int32), AlignmentConfig(), seed=0, threads=1)
    there = np.ones(len(asked), bool)
    new = {"image": Modality(pictures.vectors[asked], there), "text": Modality(texts.vectors[asked], there)}
    return aligner.embed(modalities), {
        "new items": aligner.embed(new),
        "words": aligner.embed_modality("text", texts.vectors[asked]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=Path, help="float array [n, d]; all-zero rows are left out")
    parser.add_argument("--products", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--items", type=int, default=200_000, help="made-up items, where no file is given")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--cache", type=Path, default=Path("var/cache"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if bool(arguments.products) != bool(arguments.images):
        parser.error("--products and --images belong together")
    faiss.omp_set_num_threads(1)

    if arguments.products:
        items, asked = aligned_products(arguments.products, arguments.images, arguments.cache)
        dataset = arguments.products.parent.name
    else:
        n_asked = arguments.queries
        if arguments.vectors:
            whole = np.asarray(np.load(arguments.vectors), np.float32)
            whole = np.random.default_rng(0).permutation(whole[whole.any(axis=1)])
            whole /= np.linalg.norm(whole, axis=1, keepdims=True)
            dataset = arguments.vectors.stem
        else:
            whole = make_vectors(arguments.items + n_asked, 64, seed=0, clusters=max(1, arguments.items // 1000))
            dataset = f"{arguments.items} made-up items"
        if len(whole) < n_asked + 2 * K:
            parser.error(f"expected at least {n_asked + 2 * K} vectors, came {len(whole)}")
        items, asked = np.ascontiguousarray(whole[n_asked:]), {"new items": whole[:n_asked]}

    methods = [exact(items), inverted_lists(items), shipped(items)]
    for bits in (64, 128, 256):
        methods += [
            hamming_only(items, bits, learned=False),
            hamming_only(items, bits, learned=True),
            rescored_from_disk(items, bits, learned=False),
            rescored_from_disk(items, bits, learned=True),
            rescored_from_codes(items, bits),
        ]
        if items.shape[1] % (bits // 8) == 0:
            methods.append(quantised(items, "product quantisation", f"PQ{bits // 8}np"))
    methods += [quantised(items, "RaBitQ, 1 bit a dimension", "RaBitQ"), quantised(items, "4-bit scalars", "SQ4")]

    rows = []
    for name, queries in asked.items():
        rows += measure(items, methods, np.ascontiguousarray(queries[: arguments.queries]), {"queries": name})
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    if arguments.json:
        result = {"dataset": dataset, "items": len(items), "dim": items.shape[1], "k": K, "rows": rows}
        write_json(arguments.json, result)


if __name__ == "__main__":
    main()
