"""What an item says, as text: one definition for the night and for items that come after it."""

import re
from collections.abc import Iterable, Sequence
from html import unescape
from pathlib import Path

MOST_REVIEWS = 30  # of an item that count for words; the rest still reach the aligner
MOST_LETTERS = 20_000  # of a text that are searched by word

_MARKUP = re.compile(r"<[a-zA-Z/!][^<>]*>")


def searched_text(
    item_id: str,
    title: str | None,
    description: str | None,
    category: str | None,
    brand: str | None,
    family: str | None,
    attributes: Sequence[str],
) -> str:
    """All that a shop says of an item, its codes included: what a search by word looks through.

    >>> searched_text("sku-58", "Wrap dress", None, "Women > Dresses", "Alba", None, ["colour=red"])
    'Wrap dress Alba Women Dresses red sku-58'

    Args:
        item_id, title, description, category, brand, family: as in ``schema.ITEMS``.
        attributes: "name=value" tokens; the values are searched.
    """
    values = [token.partition("=")[2] for token in attributes]
    path = " ".join(part.strip() for part in (category or "").split(">"))
    parts = [title, brand, path, *values, _plain(description), family, item_id]
    return " ".join(part for part in parts if part)[:MOST_LETTERS]


def reviewed_text(reviews: Iterable[tuple[str | None, int]]) -> str:
    """What reviewers say of an item: (words, helpful votes) of each → the most helpful ones, joined."""
    best = sorted((review for review in reviews if review[0]), key=lambda review: -review[1])[:MOST_REVIEWS]
    return " ".join(str(words) for words, _ in best)[:MOST_LETTERS]


def picture_file(images: Sequence[str], root: Path) -> Path | None:
    """The first of an item's pictures that is a file, None where none is; an address is kept, but not fetched.

    >>> picture_file(["https://shop.example/dress.jpg", "images/dress.jpg"], Path("shop")).as_posix()
    'shop/images/dress.jpg'
    """
    files = (image for image in images if "://" not in image and not image.startswith("data:"))
    first = next(files, None)
    return None if first is None else root / first


def _plain(text: str | None) -> str:
    return " ".join(unescape(_MARKUP.sub(" ", text or "")).split())
