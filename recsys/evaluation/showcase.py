"""From requests and slates to what a person can look at: pictures, titles, prices, and reasons in words."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from recsys.evaluation.sheet import Sheet, SheetItem
from recsys.request import Request, Slate

_PAST = {
    "purchase": "bought",
    "add-to-cart": "put into the cart",
    "detail-page-view": "looked at",
    "rating": "rated",
}


@dataclass(frozen=True)
class Showcase:
    """What there is to see of each item; ``cards`` maps item_id → a card without caption."""

    cards: dict[str, SheetItem]

    def item(self, item_id: str, caption: str = "", bought: bool = False) -> SheetItem:
        """The card of an item; one that the catalogue no longer has shows its item_id."""
        card = self.cards.get(item_id) or SheetItem(item_id, item_id)
        return SheetItem(item_id, card.title, card.subtitle, card.image_path, caption, bought)

    def history(self, request: Request) -> list[SheetItem]:
        """The request's history, oldest first, each with what happened when."""
        return [
            self.item(past.item_id, f"{_PAST.get(past.event_type, past.event_type)} {_ago(past.timestamp, request)}")
            for past in request.history
        ]

    def slate(self, slate: Slate, bought: Collection[str] = ()) -> list[SheetItem]:
        """The slate's items, best first, each with its first reason; those in ``bought`` are marked."""
        return [
            self.item(item.item_id, item.reasons[0].text if item.reasons else "", item.item_id in bought)
            for item in slate.items
        ]

    def sheet(self, request: Request, slate: Slate, bought: Collection[str] = ()) -> Sheet:
        """One shopper, whole."""
        moment = f"{request.requested_at:%Y-%m-%d %H:%M} UTC"
        return Sheet(
            title=shopper_of(request),
            history=self.history(request),
            recommended=self.slate(slate, bought),
            subtitle=f"{moment} · release {slate.release} · {say_rung(slate.fallback)}",
        )


def build_showcase(items: pl.DataFrame, images: Path | None = None) -> Showcase:
    """Cards for a catalogue.

    Args:
        items: the columns of :data:`recsys.schema.ITEMS`.
        images: root of relative picture paths; None: the working directory. Pictures on the web are not fetched.
    """
    wanted = items.select("item_id", "title", "category", "price_cents", pl.col("images").list.first().alias("image"))
    cards = {}
    for item_id, title, category, price_cents, image in wanted.iter_rows():
        price = "" if price_cents is None else f"{price_cents / 100:.2f}"
        kind = (category or "").rpartition(">")[2].strip()
        path = None if image is None or "://" in image else (images or Path()) / image
        cards[item_id] = SheetItem(item_id, title or item_id, " · ".join(filter(None, (price, kind))), path)
    return Showcase(cards)


def shopper_of(request: Request) -> str:
    """What to call the shopper of a request."""
    if request.user_id is not None:
        return f"Customer {request.user_id}"
    return f"Guest in session {request.session_id}" if request.session_id is not None else "A guest"


def say_rung(fallback: str) -> str:
    """The rung of the ladder that answered, in words."""
    return "ranked for this shopper" if fallback == "full" else fallback.replace("_", " ")


def _ago(moment: datetime, request: Request) -> str:
    days = (request.requested_at.date() - moment.date()).days
    if days <= 0:
        return "the same day"
    return "the day before" if days == 1 else f"{days} days before"
