"""What the shipped search finds in the demonstration shop, drawn for a person to judge: by words, by a photo, alike.

A night makes a release of the shop with the shipped encoders, alignment and index of words, and the release is asked as
the service asks it. The part of the night that learns what shoppers take is kept short: no sheet shows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from PIL import Image, ImageDraw, ImageFont

from pipelines.config import Paths
from pipelines.night_config import EvaluationConfig, NightConfig
from pipelines.retrain import retrain
from pipelines.tuning import TuningConfig
from recsys.alignment.users import UserTowerConfig
from recsys.artifacts import Release, load_release
from recsys.data.database import open_database
from recsys.data.importers import import_shop
from recsys.data.synthetic import ShopConfig, make_shop
from recsys.evaluation.sheet import card_colours, open_picture
from recsys.ranking.train import RankerConfig
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
    """Make the shop and its release below ``folder``, and ask it: name of a sheet → its rows."""
    shop = make_shop(folder / "shop", SHOP)
    release = make_release(folder, threads)
    cards = cards_of(shop.items, folder / "shop")
    photos = cards_of(make_shop(folder / "elsewhere", ELSEWHERE).items, folder / "elsewhere")

    def found(query: Query) -> list[Card]:
        return [cards[item.item_id][1] for item in search(release, query).items]

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


def make_release(folder: Path, threads: int) -> Release:
    """Import the shop in ``folder`` and run a night on it."""
    paths = Paths(
        database=f"sqlite:///{folder / 'shop.db'}",
        events=str(folder / "events"),
        cache=str(folder / "cache"),
        releases=str(folder / "releases"),
        images=str(folder / "shop"),
    )
    engine = open_database(paths.database)
    import_shop(engine, folder / "shop", "generic", rejects=folder / "rejects.jsonl", images_root=folder / "shop")
    engine.dispose()
    night = NightConfig(
        paths=paths,
        users=UserTowerConfig(epochs=2),
        ranker=RankerConfig(trees=50),
        tuning=TuningConfig(enabled=False),
        evaluation=EvaluationConfig(max_users=200),
        threads=threads,
    )
    made = retrain(night, progress=False)
    return load_release(folder / "releases" / made.manifest.version)


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
    pictured = any(row.asked for row in rows)
    start = 2 * GAP + SIDE if pictured else 0
    page = Image.new(
        "RGB", (start + GAP + SHOWN * (SIDE + GAP), len(rows) * (SIDE + LABEL + GAP) + GAP), "white"
    )  # fmt: skip
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for place, row in enumerate(rows):
        top = GAP + place * (SIDE + LABEL + GAP)
        pen.text((GAP, top), row.label, "#1c1e21", font)
        if row.asked is not None:
            _draw_card(page, row.asked, GAP, top + LABEL)
        for column, card in enumerate(row.found[:SHOWN]):
            _draw_card(page, card, start + GAP + column * (SIDE + GAP), top + LABEL)
    if pictured:
        pen.line((start, GAP, start, page.height - GAP), "#e3e5e8", 2)
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
