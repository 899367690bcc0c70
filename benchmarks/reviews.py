"""What only reviewers say, found by searching the embedding: the demonstration shop plants such traits.

    python -m benchmarks.reviews [--items N] [--json FILE] [--threads N]

Each trait ("squeaks", "waterproof", …) is asked for in a shopper's words. Only products of the kinds that can have it
are ranked, so that knowing a boot from a mug does not help: the average precision says how far those that have it come
up, beside the share that have it, which is what an order without knowledge gives. The default pooling is compared with
the plain mean, trait by trait (paired bootstrap).
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.protocol import write_json
from pipelines.catalogue import bought_together
from pipelines.encode import encode_shop
from pipelines.night_config import NightConfig
from recsys.alignment.model import Aligner
from recsys.alignment.reviews import ReviewConfig
from recsys.alignment.train import train_alignment
from recsys.data.synthetic import Shop, ShopConfig, make_shop
from recsys.data.synthetic_words import REVIEW_TRAITS
from recsys.encoders import encode_texts
from recsys.evaluation.compare import Comparison, compare
from recsys.histories import read_interactions

DEFAULT, PLAIN = "default", "plain mean"
ABOUT = ("pooling", "mean", "by chance", "chance")  # what a row has beside its traits
POOLINGS: dict[str, ReviewConfig | None] = {
    DEFAULT: ReviewConfig(),
    PLAIN: ReviewConfig(helpfulness=0, rating=0, half_life_days=0),
    "helpfulness only": ReviewConfig(rating=0, half_life_days=0),
    "rating only": ReviewConfig(helpfulness=0, half_life_days=0),
    "recency only": ReviewConfig(helpfulness=0, rating=0),
    "description only": None,
}


@dataclass(frozen=True, eq=False)
class Asked:
    """A trait as a question: who may be an answer, and who is."""

    trait: str
    query: str
    candidates: NDArray[np.int64]  # rows of products of the kinds that can have it
    right: NDArray[np.bool_]  # of the candidates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=ShopConfig.n_items)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = ShopConfig(n_items=arguments.items, n_users=2 * arguments.items, picture_size=128)
        shop = make_shop(Path(folder), config, progress=True)
        night = NightConfig(threads=arguments.threads)
        night = replace(night, paths=replace(night.paths, images=folder))
        rows = [{"pooling": name, **found(shop, night, pooling)} for name, pooling in POOLINGS.items()]
    for row in rows:
        print("  ".join(f"{key} {row[key]:.3f}" if key != "pooling" else row[key] for key in row if key != "chance"))
    gained = default_against_plain(rows)
    if gained is not None:
        print(
            f"{DEFAULT} less {PLAIN}, over {gained.n} traits: {gained.difference:+.3f} "
            f"[{gained.low:+.3f}, {gained.high:+.3f}]: {gained.verdict}"
        )
    if arguments.json:
        write_json(arguments.json, {"items": arguments.items, "rows": rows})


def default_against_plain(rows: Sequence[Mapping[str, Any]]) -> Comparison | None:
    """Average precision of the default pooling (B) against the plain mean (A), trait by trait.

    None where one of the two rows is missing, or so few traits were asked for that an interval says nothing.
    """
    precise = {row["pooling"]: [row[trait] for trait in row if trait not in ABOUT] for row in rows}
    if not {DEFAULT, PLAIN} <= precise.keys():
        return None
    gained = compare(precise[PLAIN], precise[DEFAULT])
    return None if gained.too_few else gained


def found(shop: Shop, night: NightConfig, pooling: ReviewConfig | None) -> dict[str, Any]:
    """trait → average precision of its products, and what stands beside them.

    "mean" is over the traits, "chance" says of each the share that have it, and "by chance" is the mean of these.
    """
    night = replace(night, reviews=pooling or night.reviews)
    encoded = encode_shop(shop.items, shop.reviews, shop.config.end, night, progress=False)
    modalities = {name: each for name, each in encoded.modalities.items() if pooling or name != "reviews"}
    interactions = read_interactions(shop.events, shop.taste.item_ids)
    aligner = train_alignment(
        modalities, bought_together(interactions), night.alignment, night.seed, night.threads, progress=False
    )
    embedded = aligner.embed(modalities)
    questions = traits_of(shop)
    scores = score_questions(aligner, embedded, questions, night)
    precise = {asked.trait: average_precision(each, asked.right) for asked, each in zip(questions, scores)}
    chance = {asked.trait: float(asked.right.mean()) for asked in questions}
    means = {"mean": float(np.mean(list(precise.values()))), "by chance": float(np.mean(list(chance.values())))}
    return {**means, **precise, "chance": chance}


def traits_of(shop: Shop) -> list[Asked]:
    """The questions that this shop has an answer to."""
    traits = list(shop.taste.traits)
    asked = []
    for name, trait in REVIEW_TRAITS.items():
        can = shop.taste.item_traits[:, [traits.index(f"kind={kind}") for kind in trait.kinds]].any(axis=1)
        has = shop.taste.item_traits[:, traits.index(f"review={name}")] > 0
        if (has & can).any():
            asked.append(Asked(name, trait.query, np.flatnonzero(can), has[can]))
    return asked


def score_questions(
    aligner: Aligner, embedded: NDArray[np.float32], questions: list[Asked], night: NightConfig
) -> list[NDArray[np.float32]]:
    """For each question the likeness of its candidates to its words."""
    read = encode_texts([asked.query for asked in questions], night.text_encoder, None, progress=False)
    queries = aligner.embed_words(read.vectors)
    return [embedded[asked.candidates] @ query for asked, query in zip(questions, queries)]


def average_precision(scores: NDArray[np.float32], right: NDArray[np.bool_]) -> float:
    """Mean of the precision at each right answer; ties go against the right ones."""
    order = np.lexsort((right, -scores))
    hits = right[order]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


if __name__ == "__main__":
    main()
