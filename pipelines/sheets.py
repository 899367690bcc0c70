"""Contact sheets of real shoppers: ``recsys sheet`` draws what they did above and what the live release answers
below."""

import argparse
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.config import add_config_argument, load_paths
from pipelines.contact_sheet import save_contact_sheet
from recsys.artifacts import Release, load_release
from recsys.content import picture_file
from recsys.data.database import current_database
from recsys.data.load import load_items, load_user_history
from recsys.data.releases import live_release
from recsys.errors import ReleaseError
from recsys.evaluation.sheet import Sheet, SheetItem
from recsys.recommend import recommend
from recsys.request import Request, Slate

ItemCards = Mapping[str, Mapping[str, Any]]


def item_cards(items: pl.DataFrame) -> ItemCards:
    """item_id → what a sheet shows of it; ``picture`` is a relative path, None where it has no picture."""
    shown = items.select("item_id", "title", "price_cents", "category")
    pictures = (picture_file(images, Path()) for images in items["images"].to_list())
    return {row["item_id"]: {**row, "picture": picture} for row, picture in zip(shown.iter_rows(named=True), pictures)}


def make_sheet(
    title: str, request: Request, slate: Slate, cards: ItemCards, images: Path, bought: Collection[str] = ()
) -> Sheet:
    """One shopper's history and slate, for drawing.

    Args:
        title: of the sheet.
        request, slate: asked with ``explain`` so that reasons can be shown.
        cards: from item_cards().
        images: root of relative picture paths.
        bought: item_ids that the shopper then really took; they are marked.
    """

    def card(item_id: str, caption: str) -> SheetItem:
        row = cards.get(item_id, {})
        price, picture = row.get("price_cents"), row.get("picture")
        return SheetItem(
            item_id=item_id,
            title=row.get("title") or item_id,
            subtitle="" if price is None else f"{price / 100:.2f}",
            image_path=images / picture if picture else None,
            caption=caption,
            bought=item_id in bought,
        )

    by = f" by {slate.release}" if slate.release else ""  # one that was not saved has no version
    return Sheet(
        title=title,
        subtitle=f"{len(request.history)} past events · answered as “{slate.fallback}”{by}",
        history=[card(e.item_id, f"{_past(e.event_type)} {e.timestamp:%-d %b}") for e in request.history],
        recommended=[card(item.item_id, item.reasons[0].text if item.reasons else "") for item in slate.items],
    )


def _past(event_type: str) -> str:
    words = {"purchase": "bought", "detail-page-view": "viewed", "add-to-cart": "put into the cart", "rating": "rated"}
    return words.get(event_type, event_type)


def draw_shoppers(release: Release, requests: Sequence[Request], cards: ItemCards, images: Path, path: Path) -> None:
    """Ask ``release`` for each request (they must say ``explain``) and draw one page."""
    sheets = [
        make_sheet(request.user_id or request.session_id or "somebody new", request, slate, cards, images)
        for request, slate in zip(requests, recommend(release, requests))
    ]
    save_contact_sheet(sheets, path)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``recsys sheet``."""
    parser.add_argument("user_ids", nargs="+", help="shoppers to draw; an unknown one is somebody new")
    add_config_argument(parser)
    parser.add_argument("--out", type=Path, default=Path("var/sheet.png"), help="the PNG to write")
    parser.add_argument("--as-of", type=datetime.fromisoformat, help="UTC moment of the request; default: now")
    parser.add_argument("--limit", type=int, default=12)


def run(args: argparse.Namespace) -> int:
    """``recsys sheet``: 0 when the page was drawn.

    Raises:
        RecsysError: there is no release to ask, or it has seen what comes after ``--as-of``.
    """
    paths = load_paths(args.config)
    now = args.as_of.replace(tzinfo=args.as_of.tzinfo or UTC) if args.as_of else datetime.now(UTC)
    with current_database(paths.database) as engine:
        live = live_release(engine)
        if live is None:
            raise ReleaseError("expected a published release: run recsys retrain first")
        items = load_items(engine)
        requests = [
            Request(
                requested_at=now,
                user_id=user_id,
                history=load_user_history(engine, user_id=user_id, before=now),
                limit=args.limit,
                explain=True,
            )
            for user_id in args.user_ids
        ]
    draw_shoppers(load_release(live.path), requests, item_cards(items), Path(paths.images), args.out)
    print(args.out)
    return 0
