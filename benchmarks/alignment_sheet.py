"""Text queries and their nearest products in the item space, drawn for a person to judge: the demonstration shop."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pipelines.catalogue import bought_together
from pipelines.encode import encode_shop
from pipelines.night_config import NightConfig
from recsys.alignment.train import train_alignment
from recsys.data.synthetic import ShopConfig, make_shop
from recsys.encoders import encode_texts
from recsys.evaluation.sheet import open_picture
from recsys.histories import read_interactions

QUERIES = (
    "red striped dress",
    "sporty black sneakers",
    "warm winter coat",
    "blue mug for coffee",
    "floral cushion for the sofa",
    "waterproof, stays dry in the rain",
    "squeaks and makes noise",
)
SHOWN, SIDE, GAP = 7, 96, 8


@dataclass(frozen=True)
class Found:
    """A query and the pictures of the products nearest to it, best first; None where a product has none."""

    query: str
    pictures: Sequence[str | None]


def search_demo_shop(folder: Path, threads: int) -> tuple[list[Found], Path]:
    """Make a demonstration shop, align it as a night does, and ask for QUERIES."""
    shop = make_shop(folder, ShopConfig(n_items=160, n_users=320, picture_size=128))
    night = NightConfig(threads=threads)
    night = replace(night, paths=replace(night.paths, images=str(folder)))
    encoded = encode_shop(shop.items, shop.reviews, shop.config.end, night, progress=False)
    pairs = bought_together(read_interactions(shop.events, shop.taste.item_ids))
    aligner = train_alignment(encoded.modalities, pairs, night.alignment, night.seed, threads, progress=False)
    embedded = aligner.embed(encoded.modalities)
    queries = aligner.embed_words(encode_texts(QUERIES, night.text_encoder, None, progress=False).vectors)
    first = shop.items["images"].list.first().to_list()
    nearest = (-(queries @ embedded.T)).argsort(axis=1, kind="stable")[:, :SHOWN]
    return [Found(query, [first[row] for row in rows]) for query, rows in zip(QUERIES, nearest.tolist())], folder


def draw_sheet(rows: Sequence[Found], folder: Path, path: Path) -> None:
    """One row a query; a small PNG."""
    label, font = 22, ImageFont.load_default(13)
    width = GAP + SHOWN * (SIDE + GAP)
    page = Image.new("RGB", (width, len(rows) * (SIDE + label + GAP) + GAP), "white")
    pen = ImageDraw.Draw(page)
    for place, row in enumerate(rows):
        top = GAP + place * (SIDE + label + GAP)
        pen.text((GAP, top), row.query, "#1c1e21", font)
        for column, picture in enumerate(row.pictures):
            left = GAP + column * (SIDE + GAP)
            drawn = open_picture(folder / picture, SIDE, SIDE) if picture else None
            if drawn is None:
                pen.rectangle((left, top + label, left + SIDE - 1, top + label + SIDE - 1), outline="#e3e5e8")
                pen.text((left + 8, top + label + 40), "no picture", "#6b7078", font)
            else:
                page.paste(drawn, (left, top + label))
    page.convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(path, optimize=True)
