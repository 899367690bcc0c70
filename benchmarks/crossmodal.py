"""Search across modalities: a picture for a text, a text for a picture, over products never trained on.

    python -m benchmarks.crossmodal --products FILE --images DIR [--json FILE] [--cache DIR] [--threads N]

FILE is Parquet with the columns product_id, title, description, category; DIR holds ``<product_id>.jpg``. Products
without a picture or without words are left out. Split by product 80/10/10 (seed 0): fitted on the first part, the best
epoch taken by the second, measured on the third, every query against all test products. Ties count against a method.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recsys.alignment.modality import Modality
from recsys.alignment.train import AlignmentConfig, train_alignment
from recsys.encoders import ImageEncoderConfig, TextEncoderConfig, encode_images, encode_texts

Array = NDArray[np.float32]
Project = tuple[Callable[[Array], Array], Callable[[Array], Array]]  # of pictures, of texts, to unit vectors
DEFAULT = AlignmentConfig()
VARIANTS = {
    "default": DEFAULT,
    "SigLIP loss": replace(DEFAULT, loss="siglip"),
    "InfoNCE, one member": replace(DEFAULT, members=1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cache", type=Path, default=Path("var/cache"))
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()

    products = pl.read_parquet(arguments.products)
    columns = [pl.col(name).fill_null("") for name in ("title", "description")]
    words = products.select(pl.concat_str(columns, separator=". ").str.strip_chars(". ")).to_series().to_list()
    paths = [arguments.images / f"{product}.jpg" for product in products["product_id"]]
    images = encode_images(paths, ImageEncoderConfig(), arguments.cache)
    texts = encode_texts(words, TextEncoderConfig(), arguments.cache)
    both = np.flatnonzero(images.present & texts.present)
    if len(both) < 30:
        raise SystemExit(f"expected at least 30 products with picture and words, came {len(both)}")
    image, text = images.vectors[both], texts.vectors[both]
    category = products["category"].to_numpy()[both]
    order = np.random.default_rng(0).permutation(len(both))
    fit, watch, test = np.split(order, [len(both) * 8 // 10, len(both) * 9 // 10])

    rows: list[dict[str, Any]] = []
    for method, train in {
        **{name: _aligner_of(config, arguments.threads) for name, config in VARIANTS.items()},
        "CCA": fit_cca,
    }.items():
        started = time.perf_counter()
        of_image, of_text = train(image, text, fit, watch)
        seconds = time.perf_counter() - started
        sides = {"image": of_image(image[test]), "text": of_text(text[test])}
        for query, answer in (("image", "text"), ("text", "image")):
            row = {"method": method, "direction": f"{query}→{answer}"}
            row |= measure(sides[query], sides[answer], category[test])
            row |= {"seconds": round(seconds, 2), "bytes_per_item": sides[answer].shape[1] * 4}
            rows.append(row)
            print(
                "  ".join(
                    f"{key} {value:.3f}" if isinstance(value, float) else str(value) for key, value in row.items()
                )
            )
    result = {
        "dataset": arguments.products.parent.name,
        "protocol": {"split": "80/10/10 by product, seed 0", "test_products": len(test), "fit_products": len(fit)},
        "rows": rows,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def measure(queries: Array, answers: Array, category: NDArray[Any]) -> dict[str, float]:
    """Recall of the one right answer, its mean reciprocal rank, mAP by category, and exact queries a second.

    Args:
        queries, answers: unit norm, float32 [n, dim], row i of one belongs to row i of the other.
        category: of each product; for mAP every product of the query's category is right.
    """
    similarity = queries @ answers.T
    rank = (similarity >= np.diag(similarity)[:, None]).sum(axis=1)
    order = np.argsort(-similarity, axis=1, kind="stable")
    right = category[order] == category[:, None]
    precision = np.cumsum(right, axis=1) / np.arange(1, len(answers) + 1)
    average_precision = (precision * right).sum(axis=1) / right.sum(axis=1)
    n_queries = min(200, len(queries))
    started = time.perf_counter()
    for query in queries[:n_queries]:
        np.argpartition(answers @ query, -min(10, len(answers) - 1))
    seconds = time.perf_counter() - started
    recalls = {f"recall@{k}": float((rank <= k).mean()) for k in (1, 5, 10)}
    return {
        **recalls,
        "mrr": float((1 / rank).mean()),
        "map": float(average_precision.mean()),
        "queries_per_s": round(n_queries / seconds),
    }


def _aligner_of(config: AlignmentConfig, threads: int) -> Callable[..., Project]:
    def train(image: Array, text: Array, fit: NDArray[np.int64], watch: NDArray[np.int64]) -> Project:
        rows = np.concatenate([fit, watch])
        there = np.ones(len(rows), bool)
        aligner = train_alignment(
            {"image": Modality(image[rows], there), "text": Modality(text[rows], there)},
            np.zeros((0, 2), np.int32),
            config,
            seed=0,
            threads=threads,
            held_out=np.arange(len(rows)) >= len(fit),
        )
        return lambda vectors: aligner.embed_modality("image", vectors), lambda v: aligner.embed_modality("text", v)

    return train


def fit_cca(image: Array, text: Array, fit: NDArray[np.int64], watch: NDArray[np.int64]) -> Project:
    """Canonical correlation analysis in closed form; ridge and width chosen on the watched products.

    Source: Hardoon et al. 2004, "Canonical correlation analysis: an overview with application to learning methods".
    """
    candidates = [_cca(image[fit], text[fit], ridge, dim) for ridge in (0.03, 0.1, 0.3) for dim in (64, 128)]
    everything = np.zeros(len(watch))

    def quality(candidate: Project) -> float:
        return measure(candidate[0](image[watch]), candidate[1](text[watch]), everything)["mrr"]

    return max(candidates, key=quality)


def _cca(image: Array, text: Array, ridge: float, dim: int) -> Project:
    means = [side.mean(axis=0) for side in (image, text)]
    centred = [(side - mean).astype(np.float64) for side, mean in zip((image, text), means)]
    whiteners = []
    for side in centred:
        covariance = side.T @ side / len(side)
        covariance[np.diag_indices_from(covariance)] += ridge * np.trace(covariance) / len(covariance)
        variance, axes = np.linalg.eigh(covariance)
        whiteners.append(axes / np.sqrt(variance) @ axes.T)
    cross = whiteners[0] @ (centred[0].T @ centred[1] / len(image)) @ whiteners[1]
    left, correlation, right = np.linalg.svd(cross, full_matrices=False)
    maps = [whiteners[0] @ left[:, :dim] * correlation[:dim], whiteners[1] @ right[:dim].T * correlation[:dim]]

    def projection(mean: Array, turn: NDArray[np.float64]) -> Callable[[Array], Array]:
        def project(vectors: Array) -> Array:
            turned = (vectors - mean) @ turn
            return np.asarray(turned / np.linalg.norm(turned, axis=1, keepdims=True), dtype=np.float32)

        return project

    return projection(means[0], maps[0]), projection(means[1], maps[1])


if __name__ == "__main__":
    main()
