"""What the shipped search finds in the demonstration shop, drawn for a person to judge: by words, by a photo, alike.

The night's own parts make a release of the shop, with the shipped encoders, alignment and index of words, and it is
asked as the service asks it. There is no ranker in it, and what learns shoppers' tastes is kept short: no sheet shows
either.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
from PIL import Image, ImageDraw, ImageFont

from pipelines import recipe
from pipelines.catalogue import build_catalogue
from pipelines.config import Paths
from pipelines.encode import align_shop, encode_shop
from pipelines.night_config import NightConfig
from pipelines.search import build_search
from pipelines.workshop import Workshop
from recsys.alignment.users import UserTowerConfig
from recsys.artifacts import Release, load_release, save_release
from recsys.data.synthetic import Shop, ShopConfig, make_shop
from recsys.evaluation.sheet import card_colours, open_picture
from recsys.histories import read_interactions
from recsys.search import Query, search

QUERIES = (
    "red striped dress",
    "sporty black sneakers",
    "warm winter coat",
    "blue mug for coffee",
    "floral cushion for the sofa",
    "waterproof, stays dry in the rain",
    "squeaks and makes noise",
)
SHOP = ShopConfig(picture_size=128)
ELSEWHERE = ShopConfig(n_items=200, n_users=20, picture_size=128, seed=1)  # whose pictures are the photos
NIGHT = NightConfig(users=UserTowerConfig(epochs=1))
STEP = 3  # of the categories, in the order of their names, every so many has a row
SHOWN, SIDE, GAP, LABEL = 7, 96, 8, 22  # places, and pixels


@dataclass(frozen=True)
class Card:
    """A product as drawn: its picture, or its title where it has none."""

    title: str
    picture: Path | None


@dataclass(frozen=True)
class Row:
    """A question and what was found, best first; ``asked`` is the picture asked with, None for words."""

    label: str
    found: Sequence[Card]
    asked: Card | None = None


def search_demo_shop(folder: Path, threads: int) -> dict[str, list[Row]]:
    """Make the shop and its release below ``folder``, and ask it: name of a sheet → its rows.

    Raises:
        SystemExit: a part of the search did not answer, which the sheets would not tell.
    """
    shop = make_shop(folder / "shop", SHOP)
    release = make_release(shop, folder, threads)
    elsewhere = make_shop(folder / "elsewhere", ELSEWHERE)
    cards, photos = cards_of(shop.items, shop.folder), cards_of(elsewhere.items, elsewhere.folder)

    def found(query: Query) -> list[Card]:
        slate = search(release, query)
        if slate.fallback != "full":
            raise SystemExit(f"expected a search with all its parts, came {slate.fallback!r}")
        return [cards[item.item_id][1] for item in slate.items]

    return {
        "words": [Row(words, found(Query(words, limit=SHOWN))) for words in QUERIES],
        "photo": [
            Row(f"a photo: {card.title}", found(Query(picture=card.picture.read_bytes(), limit=SHOWN)), card)
            for _, card in some_of_each(photos)
            if card.picture is not None
        ],
        "similar": [
            Row(f"like: {card.title}", [cards[other][1] for other, _ in release.similar([item_id], SHOWN)], card)
            for item_id, card in some_of_each(cards)
        ],
    }


def make_release(shop: Shop, folder: Path, threads: int) -> Release:
    """A release of the shop saved below ``folder``: what a night makes, less the ranker."""
    paths = Paths(cache=str(folder / "cache"), images=str(shop.folder))
    night = replace(NIGHT, paths=paths, threads=threads)
    end = shop.config.end
    catalogue = build_catalogue(shop.items, shop.reviews)
    events = read_interactions(shop.events, catalogue.item_ids)
    encoded = encode_shop(shop.items, shop.reviews, end, night, progress=False)
    aligned = align_shop(encoded, events, end, night, progress=False)
    workshop = Workshop(recipe.Shop(catalogue, events, shop.events), aligned.vectors, night.recipe)
    release = workshop.release_at(end)
    words = build_search(
        shop.items, shop.reviews, aligned.aligner, aligned.modalities, aligned.vectors.fused, shop.folder, threads
    )
    manifest = replace(release.manifest, config=night.for_manifest())
    saved = save_release(replace(release, search=words, manifest=manifest), folder / "releases", aligned.save)
    return load_release(folder / "releases" / saved.manifest.version)  # as a service would, with what embeds a query


def cards_of(items: pl.DataFrame, folder: Path) -> dict[str, tuple[str, Card]]:
    """item_id → its category, and how it is drawn; pictures are paths relative to ``folder``."""
    columns = items.select("item_id", "category", "title", pl.col("images").list.first())
    return {
        item_id: (category or "", Card(title or item_id, folder / picture if picture else None))
        for item_id, category, title, picture in columns.iter_rows()
    }


def some_of_each(cards: dict[str, tuple[str, Card]]) -> list[tuple[str, Card]]:
    """Of every STEP-th category the first product with a picture: nobody chose what is shown."""
    first: dict[str, tuple[str, Card]] = {}
    for item_id, (category, card) in cards.items():
        if category and card.picture is not None:
            first.setdefault(category, (item_id, card))
    return [first[category] for category in sorted(first)[::STEP]]


def draw_sheet(rows: Sequence[Row], path: Path) -> None:
    """One row a question, a picture that is asked with before what was found; a small PNG."""
    start = 2 * GAP + SIDE if any(row.asked for row in rows) else 0
    page = Image.new(
        "RGB", (start + GAP + SHOWN * (SIDE + GAP), len(rows) * (SIDE + LABEL + GAP) + GAP), "white"
    )  # fmt: skip
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for place, row in enumerate(rows):
        top = GAP + place * (SIDE + LABEL + GAP)
        pen.text((GAP, top), row.label, "#1c1e21", font)
        if row.asked is not None:
            _draw_card(page, row.asked, GAP, top + LABEL)
            pen.line((start, top + LABEL, start, top + LABEL + SIDE - 1), "#c4c7cc", 2)
        for column, card in enumerate(row.found[:SHOWN]):
            _draw_card(page, card, start + GAP + column * (SIDE + GAP), top + LABEL)
    page.convert("P", palette=Image.Palette.ADAPTIVE, colors=128).save(path, optimize=True)


def _draw_card(page: Image.Image, card: Card, left: int, top: int) -> None:
    drawn = open_picture(card.picture, SIDE, SIDE)
    if drawn is not None:
        page.paste(drawn, (left, top))
        return
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(11)
    ground, ink = card_colours(card.title)
    pen.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), ground)
    lines = [""]
    for word in card.title.split():
        longer = f"{lines[-1]} {word}".strip()
        lines[-1:] = [longer] if pen.textlength(longer, font) <= SIDE - 8 else [lines[-1], word]
    pen.multiline_text((left + 4, top + 4), "\n".join(lines[:6]), ink, font)
