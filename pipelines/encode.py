"""The first half of the night: a shop's pictures, words and behaviour become vectors by row."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from pipelines.catalogue import SPACE_DIM, bought_together
from pipelines.night_config import NightConfig
from pipelines.recipe import ItemVectors
from recsys.alignment.modality import Modality
from recsys.alignment.model import Aligner
from recsys.alignment.reviews import pool_reviews
from recsys.alignment.spaces import LikenessSpace, fit_space
from recsys.alignment.train import train_alignment
from recsys.alignment.users import train_user_tower
from recsys.encoders import Encoded, encode_images, encode_texts
from recsys.encoders.text import item_text
from recsys.histories import Histories, Int32, Interactions, days_since_epoch

MAX_TOWER_EXAMPLES = 60_000


@dataclass(frozen=True)
class EncodedShop:
    """Frozen encoders' vectors: everything that depends on content alone.

    Attributes:
        modalities: "image", "text" and "reviews", by row; one that no item has is left out.
        counts: label → number, for the report.
    """

    modalities: Mapping[str, Modality]
    counts: Mapping[str, int]

    @cached_property
    def spaces(self) -> dict[str, LikenessSpace]:
        """Of "image" and "text", where any item has them: what only the picture, or only the words, say."""
        names = [name for name in ("image", "text") if name in self.modalities]
        return {name: fit_space(self.modalities[name], SPACE_DIM) for name in names}

    def likeness(self, name: str, n_items: int) -> np.ndarray:
        """Every item's place in such a space, float16 [n, SPACE_DIM]; zero where it has none."""
        if name not in self.spaces:
            return np.zeros((n_items, SPACE_DIM), np.float16)
        return self.spaces[name].place(self.modalities[name])


def encode_shop(
    items: pl.DataFrame, reviews: pl.DataFrame, as_of: datetime, config: NightConfig, progress: bool = True
) -> EncodedShop:
    """Pictures, item texts and review texts → vectors; only what is not in the cache is encoded.

    Args:
        items, reviews: ITEMS and REVIEWS frames.
        as_of: reviews written later are not used; ages are counted from here.
        config: encoders, cache folder, image root.
        progress: show bars on stderr.
    """
    cache = Path(config.paths.cache)
    root = Path(config.paths.images)
    pictures = [root / paths[0] if len(paths) else None for paths in items["images"].to_list()]
    fields = items.select("title", "description", "category", "brand", "attributes").iter_rows()
    images = encode_images(pictures, config.image_encoder, cache, progress, threads=config.threads)
    texts = encode_texts(
        [item_text(*each) for each in fields], config.text_encoder, cache, progress, threads=config.threads
    )
    known = _reviews_by_row(items, reviews, as_of)
    said = encode_texts(known["said"].to_list(), config.text_encoder, cache, progress, threads=config.threads)
    pooled = pool_reviews(
        said.vectors,
        np.where(said.present, known["row"].to_numpy(), -1).astype(np.int32),
        len(items),
        known["rating"].cast(pl.Float32).fill_null(float("nan")).to_numpy(),
        known["helpful_votes"].to_numpy(),
        known["age_days"].cast(pl.Float32).to_numpy(),
        config.reviews,
    )
    modalities = {
        "image": Modality(images.vectors, images.present),
        "text": Modality(texts.vectors, texts.present),
        "reviews": pooled,
    }
    return EncodedShop(
        modalities={name: modality for name, modality in modalities.items() if modality.present.any()},
        counts=_counts(images, texts, said),
    )


def align_shop(
    encoded: EncodedShop, events: Interactions, cutoff: datetime, config: NightConfig, progress: bool = True
) -> tuple[Aligner, ItemVectors]:
    """Train the aligner and the user tower on behaviour before ``cutoff`` and embed every item.

    The ranker's examples all lie after ``cutoff``: so likeness means the same to it in training and in serving.
    """
    past = events.select(events.time_days < days_since_epoch(cutoff))
    aligner = train_alignment(
        encoded.modalities,
        bought_together(past),
        config.alignment,
        seed=config.seed,
        threads=config.threads,
        progress=progress,
    )
    fused = aligner.embed(encoded.modalities, threads=config.threads)
    questions, answers = next_item_examples(past, config.retrieval.history_limit, MAX_TOWER_EXAMPLES, config.seed)
    tower = train_user_tower(
        fused,
        questions.offsets,
        questions.rows,
        questions.event_types,
        questions.age_days,
        answers,
        config.users,
        seed=config.seed,
        threads=config.threads,
        progress=progress,
    )
    n_items = len(fused)
    return aligner, ItemVectors(
        fused=fused,
        image=encoded.likeness("image", n_items),
        text=encoded.likeness("text", n_items),
        tower=tower,
        cutoff=cutoff,
    )


def _reviews_by_row(items: pl.DataFrame, reviews: pl.DataFrame, as_of: datetime) -> pl.DataFrame:
    rows = pl.DataFrame({"item_id": items["item_id"], "row": np.arange(len(items), dtype=np.int32)})
    return (
        reviews.filter(pl.col("timestamp") < as_of)
        .join(rows, on="item_id", maintain_order="left")
        .with_columns(
            said=pl.concat_str("title", "text", separator=". ", ignore_nulls=True),
            age_days=(pl.lit(as_of) - pl.col("timestamp")).dt.total_microseconds() / 86_400e6,
        )
    )


def next_item_examples(past: Interactions, history_limit: int, max_examples: int, seed: int) -> tuple[Histories, Int32]:
    """Every event whose shopper had an earlier one, as a question: what came before → that item.

    Things done at one time are one step: none of them is in another's history.

    Args:
        past: sorted by shopper and time.
        history_limit: newest events of a history that are kept.
        max_examples: drawn evenly where there are more.
        seed: of that draw.
    Returns:
        The histories, and the row that followed each, int32 [q].
    """
    n = len(past)
    order = np.arange(n)
    new_shopper = np.concatenate([[True], past.shoppers[1:] != past.shoppers[:-1]])[:n]
    new_time = new_shopper | np.concatenate([[True], past.time_days[1:] != past.time_days[:-1]])[:n]
    first = np.maximum.accumulate(np.where(new_shopper, order, 0))
    stop = np.maximum.accumulate(np.where(new_time, order, 0))
    targets = np.flatnonzero(stop > first)
    if len(targets) > max_examples:
        targets = np.sort(np.random.default_rng(seed).choice(targets, max_examples, replace=False))
    start = np.maximum(first[targets], stop[targets] - history_limit)
    lengths = stop[targets] - start
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], lengths)
    asked_at = past.time_days[targets]
    return (
        Histories(
            offsets=offsets,
            rows=past.rows[positions],
            event_types=past.event_types[positions],
            age_days=(np.repeat(asked_at, lengths) - past.time_days[positions]).astype(np.float32),
            requested_at_days=asked_at,
        ),
        past.rows[targets],
    )


def _counts(images: Encoded, texts: Encoded, said: Encoded) -> dict[str, int]:
    return {
        "pictures": int(images.present.sum()),
        "pictures encoded this night": images.n_encoded,
        "pictures that could not be read": len(images.failures),
        "item texts": int(texts.present.sum()),
        "item texts encoded this night": texts.n_encoded,
        "reviews": int(said.present.sum()),
        "reviews encoded this night": said.n_encoded,
    }
