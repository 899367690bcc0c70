"""The first half of the night: a shop's pictures, words and behaviour become vectors by row."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from pipelines.catalogue import SPACE_DIM, bought_together
from pipelines.modalities import read_modalities
from pipelines.night_config import NightConfig
from pipelines.recipe import ItemVectors
from recsys.alignment.behaviour import behaviour_modality
from recsys.alignment.carried import save_carried
from recsys.alignment.concepts import Concepts, imagenet_names
from recsys.alignment.ensemble import Ensemble, Shape
from recsys.alignment.graph import with_neighbours
from recsys.alignment.modality import Modality
from recsys.alignment.model import Aligner
from recsys.alignment.reviews import pool_reviews
from recsys.alignment.spaces import LikenessSpace, fit_space, save_spaces
from recsys.alignment.train import train_alignment
from recsys.content import picture_file
from recsys.encoders import Encoded, encode_images, encode_texts, load_image_encoder
from recsys.encoders.text import item_text
from recsys.histories import Int32, Interactions, days_since_epoch


@dataclass(frozen=True)
class EncodedShop:
    """Frozen encoders' vectors: everything that depends on content alone.

    Attributes:
        modalities: "image", "text", "reviews" and those given as vectors, by row; one that no item has is left out.
        counts: label → number, for the report.
        n_items: rows.
    """

    modalities: Mapping[str, Modality]
    counts: Mapping[str, int]
    n_items: int

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


@dataclass(frozen=True)
class AlignedShop:
    """Every item in one space, and what put it there.

    Attributes:
        aligner: as trained.
        modalities: what it was trained on and embedded, by row: those encoded, and with a graph their neighbours', or
            behaviour alone where items have hardly any.
        spaces: of "image" and "text", where any item has them.
        vectors: of every item.
    """

    aligner: Aligner
    modalities: Mapping[str, Modality]
    spaces: Mapping[str, LikenessSpace]
    vectors: ItemVectors

    def save(self, folder: Path) -> None:
        """Write what embeds a query, a new item or a changed one into ``folder``."""
        self.aligner.save(folder)
        save_spaces(self.spaces, folder)
        save_carried(self.modalities, folder)


def encode_shop(
    items: pl.DataFrame, reviews: pl.DataFrame, as_of: datetime, config: NightConfig, progress: bool = True
) -> EncodedShop:
    """Pictures, item texts and review texts → vectors; only what is not in the cache is encoded.

    Args:
        items, reviews: ITEMS and REVIEWS frames.
        as_of: reviews written later are encoded too, but they are in no item's vector; ages are counted from here.
        config: encoders, cache folder, image root.
        progress: show bars on stderr.
    """
    cache = Path(config.paths.cache)
    root = Path(config.paths.images)
    pictures = [picture_file(paths, root) for paths in items["images"].to_list()]
    fields = items.select("title", "description", "category", "brand", "attributes").iter_rows()
    images = encode_images(pictures, config.image_encoder, cache, progress, threads=config.threads)
    texts = encode_texts(
        [item_text(*each) for each in fields], config.text_encoder, cache, progress, threads=config.threads
    )
    pooled, said = _pool_reviews(items, reviews, as_of, config, progress)
    modalities = {
        "image": Modality(images.vectors, images.present),
        "text": Modality(texts.vectors, texts.present),
        "reviews": pooled,
        **read_modalities(config.modalities, items["item_id"].to_list()),
    }
    return EncodedShop(
        modalities={name: modality for name, modality in modalities.items() if modality.present.any()},
        n_items=len(items),
        counts=_counts(images, texts, said)
        | {f"items with {name}": int(modalities[name].present.sum()) for name in config.modalities},
    )


def align_shop(
    encoded: EncodedShop, events: Interactions, cutoff: datetime, config: NightConfig, progress: bool = True
) -> AlignedShop:
    """Train the aligner on behaviour before ``cutoff`` and embed every item; so should ``encoded`` have its reviews.

    The ranker's examples all lie after ``cutoff``: so likeness means the same to it in training and in serving. Where
    nothing at all is known by then, every item's vector is zero, and recommendations come from counts alone.
    """
    modalities, pairs = _what_is_aligned(encoded, events, cutoff, config)
    alignment = config.alignment
    if len(modalities) == 1:  # an ensemble disagrees about what goes with what; alone, there is nothing to align with
        alignment = replace(alignment, members=1)
    if _with_content(modalities):
        aligner = train_alignment(
            modalities,
            pairs,
            alignment,
            seed=config.seed,
            threads=config.threads,
            progress=progress,
            concepts=_concepts(config) if config.alignment.method == "conse" else None,
        )
    else:
        aligner = _untrained(modalities, alignment.dim)
    fused = aligner.embed(modalities, threads=config.threads)
    n_items = len(fused)
    vectors = ItemVectors(
        fused=fused,
        image=encoded.likeness("image", n_items),
        text=encoded.likeness("text", n_items),
        cutoff=cutoff,
    )
    return AlignedShop(aligner, modalities, encoded.spaces, vectors)


def add_newest_reviews(
    aligned: AlignedShop,
    encoded: EncodedShop,
    items: pl.DataFrame,
    reviews: pl.DataFrame,
    events: Interactions,
    as_of: datetime,
    config: NightConfig,
) -> AlignedShop:
    """What align_shop() made of ``encoded``, with the reviews up to ``as_of``; the same where that adds nothing.

    For what is published only: who learns or is judged from the cutoff of the vectors on would read in an item's vector
    what its buyers were about to say of it. The aligner stays as it is, and one that learned of no reviews cannot place
    any.
    """
    cutoff = aligned.vectors.cutoff
    newer = reviews.filter(pl.col("timestamp").is_between(cutoff, as_of, closed="left"))
    if "reviews" not in aligned.aligner.shape.modalities or newer.is_empty():
        return aligned
    pooled, _ = _pool_reviews(items, reviews, as_of, config, progress=False)
    renewed = replace(encoded, modalities={**encoded.modalities, "reviews": pooled})
    modalities, _ = _what_is_aligned(renewed, events, cutoff, config)
    fused = aligned.aligner.embed(modalities, threads=config.threads)
    return replace(aligned, modalities=modalities, vectors=replace(aligned.vectors, fused=fused))


def _what_is_aligned(
    encoded: EncodedShop, events: Interactions, cutoff: datetime, config: NightConfig
) -> tuple[Mapping[str, Modality], Int32]:
    """The modalities that an aligner learns from and embeds, and what was bought together before ``cutoff``."""
    past = events.select(events.time_days < days_since_epoch(cutoff))
    pairs = bought_together(past)
    modalities = encoded.modalities
    if _with_content(modalities) < 2:
        until = days_since_epoch(cutoff)
        modalities = {"behaviour": behaviour_modality(events, encoded.n_items, SPACE_DIM, until)}
    if config.alignment.fusion == "graph":
        modalities = with_neighbours(modalities, pairs)
    return modalities, pairs


def _untrained(modalities: Mapping[str, Modality], dim: int) -> Aligner:
    """What stands for an aligner where no item has any modality to train on: all its weights are zero."""
    widths = {name: modality.vectors.shape[1] for name, modality in modalities.items()}
    ensemble = Ensemble(Shape(widths, dim, members=1, hidden=0, components=1, fusion="mean", dropout=0.0, noise=0.0))
    for weights in ensemble.parameters():
        weights.detach().zero_()
    return Aligner(ensemble, history=[])


def _concepts(config: NightConfig) -> dict[str, Concepts]:
    """What the image encoder's classifier names, where it knows the thousand classes of ImageNet."""
    classifier = load_image_encoder(config.image_encoder).classifier
    names = imagenet_names()
    if classifier is None or len(classifier[1]) != len(names):
        return {}
    read = encode_texts(names, config.text_encoder, Path(config.paths.cache), progress=False, threads=config.threads)
    return {"image": Concepts(*classifier, names=read.vectors)}


def _with_content(modalities: Mapping[str, Modality]) -> int:
    """How many items have any modality."""
    return int(np.any([modality.present for modality in modalities.values()], axis=0).sum()) if modalities else 0


def _pool_reviews(
    items: pl.DataFrame, reviews: pl.DataFrame, as_of: datetime, config: NightConfig, progress: bool
) -> tuple[Modality, Encoded]:
    """Every item's reviews from before ``as_of`` as one vector; and the encodings of all reviews of known items."""
    rows = pl.DataFrame({"item_id": items["item_id"], "row": np.arange(len(items), dtype=np.int32)})
    known = reviews.join(rows, on="item_id", maintain_order="left").with_columns(
        said=pl.concat_str("title", "text", separator=". ", ignore_nulls=True),
        age_days=(pl.lit(as_of) - pl.col("timestamp")).dt.total_microseconds() / 86_400e6,
        written=pl.col("timestamp") < as_of,
    )
    cache = Path(config.paths.cache)
    said = encode_texts(known["said"].to_list(), config.text_encoder, cache, progress, threads=config.threads)
    pooled = pool_reviews(
        said.vectors,
        np.where(said.present & known["written"].to_numpy(), known["row"].to_numpy(), -1).astype(np.int32),
        len(items),
        known["rating"].cast(pl.Float32).fill_null(float("nan")).to_numpy(),
        known["helpful_votes"].to_numpy(),
        known["age_days"].cast(pl.Float32).to_numpy(),
        config.reviews,
    )
    return pooled, said


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
