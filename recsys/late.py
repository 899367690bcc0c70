"""From the catalogue's rows to late items: embedded, coded and counted as the night would have done it."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.artifacts import Release
from recsys.content import picture_file, reviewed_text, searched_text
from recsys.delta import LateItem
from recsys.embedder import Content, Embedded, Review
from recsys.encoders.text import item_text
from recsys.histories import Float32, Int32, days_since_epoch
from recsys.ranking.features import ITEM_FEATURES, SPACES, FeatureTables
from recsys.search_index import content_keys
from recsys.words import words_of

logger = logging.getLogger(__name__)

TYPICAL_OF = 2_000  # items that never sold, whose features stand for a newcomer's
CONTENT_NEIGHBOURS = 50


@dataclass(frozen=True)
class CatalogueItem:
    """One item as the catalogue holds it now: the fields of ``schema.ITEMS``, and its reviews."""

    item_id: str
    title: str | None
    description: str | None
    category: str | None
    brand: str | None
    family: str | None
    price_cents: int | None
    in_stock: bool
    attributes: Sequence[str]  # "name=value" tokens, sorted
    images: Sequence[str]
    created_at: datetime | None
    reviews: Sequence[Review] = ()

    @property
    def text(self) -> str | None:
        """What the text encoder reads."""
        return item_text(self.title, self.description, self.category, self.brand, self.attributes)

    def picture(self, root: Path) -> Path | None:
        """The file of the first picture."""
        return picture_file(self.images, root)


def is_news(release: Release, item: CatalogueItem, images_root: Path) -> bool:
    """Whether the release does not know the item, or knew it with another text or picture.

    Args:
        release: of the night, not an extended one.
        item: as it is now.
        images_root: of relative picture paths.
    """
    row = release.row_of(item.item_id)
    if row is None:
        return True
    if release.search is None:
        return False  # a release of before cannot tell
    text, picture = content_keys(item.text, item.picture(images_root))
    then_text, then_picture = release.search.content[row].tolist()
    return text != then_text or picture not in (then_picture, 0)


def make_late_items(
    release: Release, items: Sequence[CatalogueItem], images_root: Path, now: datetime
) -> list[LateItem]:
    """Embed ``items`` and say of each what the release says of its own.

    Where there is no aligner, or it fails, a new item has no vector, as one without picture and words; a changed one
    keeps its old one. It can be found by its words all the same.

    Args:
        release: of the night, not an extended one.
        items: each once.
        images_root: of relative picture paths.
        now: UTC; no item is younger than the requests it is shown in.
    """
    embedded = _embed(release, items, images_root)
    return [_late_item(release, item, number, embedded, now) for number, item in enumerate(items)]


def _embed(release: Release, items: Sequence[CatalogueItem], images_root: Path) -> Embedded | None:
    if release.embedder is None or not items:
        return None
    try:
        made = release.embedder.embed_items(
            [
                Content(item.text, item.picture(images_root), item.reviews, release.row_of(item.item_id))
                for item in items
            ]
        )
    except Exception:  # whatever broke, the items can still be found by their words
        logger.exception("%d new items could not be embedded", len(items))
        return None
    for number, why in made.failures.items():
        logger.warning("item %s goes without its picture: %s", items[number].item_id, why)
    return made


def _late_item(
    release: Release, item: CatalogueItem, number: int, embedded: Embedded | None, now: datetime
) -> LateItem:
    row, tables = release.row_of(item.item_id), release.tables
    category = _codes(release, row, {"category": item.category, "brand": item.brand, "family": item.family})
    created = days_since_epoch(min(item.created_at, now)) if item.created_at is not None else float("nan")
    fused = np.asarray(tables.spaces["fused"][row] if row is not None else np.zeros(release.manifest.dim), np.float32)
    made: dict[str, npt.NDArray[Any]] = {}
    parts, hubs = _of_the_night(release, row)
    if embedded is not None:
        parts = {name: part[number] for name, part in embedded.parts.items()}
        hubs = {name: float(hub[number]) for name, hub in embedded.hubs.items()}
        fused = embedded.fused[number]
        made = {name: vectors[number] for name, vectors in embedded.spaces.items()}
        # Its modality is gone where the encoders were there and none was made.
        made |= {name: np.zeros(_width(tables, name), np.float32) for name in ("image", "text") if name not in made}
    spaces = {
        name: made[name]
        if name in made
        else tables.spaces[name][row]
        if row is not None
        else np.zeros(_width(tables, name))
        for name in SPACES
        if name != "fused"
    }
    return LateItem(
        item_id=item.item_id,
        title=item.title or "",
        in_stock=item.in_stock,
        created_at_days=created,
        features=_features(tables, row, category["category"], item.price_cents),
        codes=category,
        attributes=_attributes(release, row, item),
        spaces=spaces | {"fused": fused},
        parts=parts,
        hubs=hubs,
        neighbours=_neighbours(release, row, fused),
        said=Counter(words_of(_said(item))),
        reviewed=Counter(words_of(reviewed_text((review.text, review.helpful_votes) for review in item.reviews))),
    )


def _of_the_night(release: Release, row: int | None) -> tuple[dict[str, npt.NDArray[Any]], dict[str, float]]:
    """Parts and hubs of an item that keeps its vectors: without its hubs it would be found before its like."""
    if release.search is None or row is None:
        return {}, {}
    parts = {name: np.asarray(part[row]) for name, part in release.search.parts.items()}
    return parts, {name: float(hub[row]) for name, hub in release.search.hubs.items()}


def _said(item: CatalogueItem) -> str:
    return searched_text(
        item.item_id, item.title, item.description, item.category, item.brand, item.family, item.attributes
    )


def _width(tables: FeatureTables, space: str) -> int:
    return int(tables.spaces[space].shape[1])


def _codes(release: Release, row: int | None, names: Mapping[str, str | None]) -> dict[str, int]:
    if release.search is None:
        tables = release.tables
        return {name: int(getattr(tables, name)[row]) if row is not None else -1 for name in names}
    found = {name: release.search.codes[name].find(value) if value else None for name, value in names.items()}
    return {name: -1 if code is None else code for name, code in found.items()}


def _attributes(release: Release, row: int | None, item: CatalogueItem) -> Int32:
    out = np.full(release.tables.attributes.shape[1], -1, np.int32)
    if release.search is None:
        return np.asarray(release.tables.attributes[row], np.int32) if row is not None else out
    tokens = [*item.attributes, *(f"category={level}" for level in (item.category or "").split(" > ") if level)]
    tokens += [f"{name}={value}" for name, value in (("brand", item.brand), ("family", item.family)) if value]
    names = release.search.codes["attributes"]
    codes = sorted({code for token in tokens if (code := names.find(token)) is not None})[: len(out)]
    out[: len(codes)] = codes
    return out


def _features(tables: FeatureTables, row: int | None, category: int, price_cents: int | None) -> Float32:
    """A changed item's own, a new one's those of items that never sold; the price is today's."""
    features = np.array(tables.items[row] if row is not None else _newcomers_features(_ById(tables)), np.float32)
    price = ITEM_FEATURES.index("price_cents")
    features[price] = np.nan if price_cents is None else price_cents
    prices = np.asarray(tables.items[:, price])
    known = prices[(np.asarray(tables.category) == category) & ~np.isnan(prices)] if category >= 0 else prices[:0]
    median = float(np.median(known)) if len(known) else float("nan")
    features[ITEM_FEATURES.index("price_in_category")] = features[price] / median if median else np.nan
    return features


class _ById:
    """A release's tables as a key: by identity, since arrays have no hash."""

    def __init__(self, tables: FeatureTables) -> None:
        self.tables = tables

    def __hash__(self) -> int:
        return id(self.tables)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and self.tables is other.tables


@lru_cache(maxsize=2)
def _newcomers_features(key: _ById) -> Float32:
    """The median of items that never sold and that nobody reviewed, NaN where it is theirs; all NaN without any."""
    items = key.tables.items
    unsold = np.isnan(np.asarray(items[:, ITEM_FEATURES.index("days_since_last_sale")]))
    unsold &= np.asarray(items[:, ITEM_FEATURES.index("review_count")]) == 0
    rows = np.flatnonzero(unsold)[:TYPICAL_OF]
    if len(rows) == 0:
        return np.full(len(ITEM_FEATURES), np.nan, np.float32)
    chosen = np.array(items[rows], np.float32)
    known = ~np.isnan(chosen)
    # nanmedian would warn about a column that nobody knows.
    return np.array(
        [np.median(column[mine]) if mine.any() else np.nan for column, mine in zip(chosen.T, known.T)], np.float32
    )


def _neighbours(release: Release, row: int | None, fused: Float32) -> tuple[Int32, Float32]:
    nothing = np.zeros(0, np.int32), np.zeros(0, np.float32)
    if release.retrieval.index is None or not fused.any():
        return nothing
    rows, likeness = release.retrieval.index.search(fused[None], CONTENT_NEIGHBOURS + 1)
    kept = (rows[0] >= 0) & (likeness[0] > 0) & (rows[0] != (-1 if row is None else row))
    return rows[0][kept][:CONTENT_NEIGHBOURS], likeness[0][kept][:CONTENT_NEIGHBOURS]
