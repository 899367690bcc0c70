"""From a batch of rows into the database; what is wrong with them into the rejects."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path
from typing import Any

import polars as pl
from sqlalchemy import Engine

from recsys.data.importers.checks import REQUIRED_ID, Checked, check, check_events, check_items, check_reviews
from recsys.data.importers.files import Batch, Records
from recsys.data.importers.images import find_unreadable
from recsys.data.importers.rejects import Rejects
from recsys.data.store import insert_events, insert_reviews, insert_unknown_items, put_items, put_users
from recsys.encoders.pictures import FORMATS

READABLE_IMAGE = f"an image file that can be decoded ({', '.join(FORMATS)})"


@dataclass
class Count:
    """What became of the rows of one table."""

    read: int = 0
    created: int = 0
    changed: int = 0
    unchanged: int = 0  # already there
    rejected: int = 0


class Intake:
    """Writes batch after batch, each in one transaction; a batch written again changes nothing.

    Args:
        engine: with the tables of today.
        rejects: takes what is not as expected.
        source: relative image paths are looked for below it, then below ``images_root``.
        images_root: paths of images below it are stored relative to it, others absolute.
        threads: decode so many images at a time to see whether they can be read.
    """

    def __init__(self, engine: Engine, rejects: Rejects, source: Path, images_root: Path | None, threads: int) -> None:
        self.engine = engine
        self.rejects = rejects
        self.source = source.resolve()
        self.images_root = images_root.resolve() if images_root is not None else None
        self.threads = threads
        self.counts: dict[str, Count] = {}
        self._contents: dict[str, int] = {}  # item_id → hash of all that came with it

    def take_items(self, batch: Batch | Records, rows: pl.DataFrame, names: Mapping[str, str] | None = None) -> None:
        """Create or replace items.

        Args:
            batch: where the rows stand.
            rows: columns named as in ITEMS; one row per line of the batch.
            names: what the file calls a column, where it differs.
        """
        good = self._reject(batch, check_items(rows), names or {}, self._count("items", rows))
        items = [self._as_stored(item) for item in good.to_dicts()]
        items = [item for item in items if self._is_first(batch, item, names or {})]
        self._check_images(batch, items, names or {})
        count = self._count("items")
        written = put_items(self.engine, items)
        count.created += written.created
        count.changed += written.changed
        count.unchanged += written.unchanged

    def take_reviews(
        self, batch: Batch | Records, rows: pl.DataFrame, names: Mapping[str, str] | None = None
    ) -> pl.DataFrame:
        """Add reviews not known yet; the arguments as for items. Returns the good rows, with their ``row``."""
        count = self._count("reviews", rows)
        good = self._reject(batch, check_reviews(rows), names or {}, count)
        written = insert_reviews(self.engine, good.to_dicts())
        count.created += written.created
        count.unchanged += written.unchanged
        return good

    def take_events(self, batch: Batch | Records, rows: pl.DataFrame, names: Mapping[str, str] | None = None) -> None:
        """Add events not known yet; the arguments as for items."""
        count = self._count("events", rows)
        good = self._reject(batch, check_events(rows), names or {}, count)
        accepted, duplicates = insert_events(self.engine, good.to_dicts())
        count.created += accepted
        count.unchanged += duplicates

    def take_users(self, batch: Batch | Records, rows: pl.DataFrame, names: Mapping[str, str] | None = None) -> None:
        """Create or replace users; the rows have ``user_id`` and ``attributes``, objects."""
        count = self._count("users", rows)
        good = self._reject(batch, check(rows, {"user_id": REQUIRED_ID}), names or {}, count)
        attributes = rows["attributes"]
        users = [{"user_id": user_id, "attributes": attributes[row]} for row, user_id in good.iter_rows()]
        written = put_users(self.engine, users)
        count.created += written.created
        count.changed += written.changed
        count.unchanged += written.unchanged

    def take_unknown_items(self, item_ids: Iterable[str]) -> None:
        """Make sure that items which events or reviews name are in the catalogue, if only by their id."""
        self._count("items").created += insert_unknown_items(self.engine, item_ids)

    def _count(self, table: str, rows: pl.DataFrame | None = None) -> Count:
        count = self.counts.setdefault(table, Count())
        count.read += rows.height if rows is not None else 0
        return count

    def _reject(self, batch: Batch | Records, checked: Checked, names: Mapping[str, str], count: Count) -> pl.DataFrame:
        for problem in checked.problems:
            row = batch.row(problem.row)
            name = names.get(problem.column, problem.column)
            came = row.get(name, problem.came)
            self.rejects.add(batch.path, batch.lines[problem.row], name, problem.expected, came, row)
        count.rejected += len(checked.bad_rows)
        return checked.good()

    def _as_stored(self, item: dict[str, Any]) -> dict[str, Any]:
        attributes: dict[str, Any] = {}
        for token in item["attributes"] or ():
            name, _, value = token.partition("=")
            attributes.setdefault(name, []).append(value)
        item["attributes"] = {name: values[0] if len(values) == 1 else values for name, values in attributes.items()}
        item["images"] = item["images"] or []
        return item

    def _is_first(self, batch: Batch | Records, item: dict[str, Any], names: Mapping[str, str]) -> bool:
        """Whether the item comes for the first time in this import. The same again is harmless, another is not."""
        content = hash(repr([value for name, value in item.items() if name != "row"]))
        known = self._contents.get(item["item_id"])
        if known is None:
            self._contents[item["item_id"]] = content
            return True
        count = self._count("items")
        if known == content:
            count.unchanged += 1
        else:
            line, name = batch.lines[item["row"]], names.get("item_id", "item_id")
            expected = "an item that did not come before in this import with other values"
            self.rejects.add(batch.path, line, name, expected, item["item_id"], batch.row(item["row"]))
            count.rejected += 1
        return False

    def _check_images(self, batch: Batch | Records, items: list[dict[str, Any]], names: Mapping[str, str]) -> None:
        """Leave out images that cannot be read, and write the others as they are stored."""
        places = {path: self._place(path) for item in items for path in item["images"]}
        outside = {place for path, place in places.items() if place is not None and self._is_outside(path, place)}
        unreadable = find_unreadable(
            (place for place in places.values() if place is not None and place not in outside), self.threads
        ) | dict.fromkeys(outside, "leads out of the folder")
        for item in items:
            stored = []
            for path in item["images"]:
                place = places[path]
                if place is not None and place in unreadable:
                    came = f"{path}: {unreadable[place]}"
                    line, name = batch.lines[item["row"]], names.get("images", "images")
                    self.rejects.add(batch.path, line, name, READABLE_IMAGE, came, batch.row(item["row"]), "value")
                elif place is None:
                    stored.append(path)
                elif self.images_root is not None and place.is_relative_to(self.images_root):
                    stored.append(place.relative_to(self.images_root).as_posix())
                else:
                    stored.append(str(place))
            item["images"] = stored

    def _place(self, path: str) -> Path | None:
        """The file that an image path means; None for a URL, which is not fetched."""
        if "://" in path:
            return None
        below_source = Path(normpath(self.source / path))  # an absolute path stays as it is
        if self.images_root is None or below_source.exists():
            return below_source
        return Path(normpath(self.images_root / path))

    def _is_outside(self, path: str, place: Path) -> bool:
        """Whether a relative path climbs out with ``..``: a feed's rows name the shop's own files only."""
        roots = [root for root in (self.source, self.images_root) if root is not None]
        return not Path(path).is_absolute() and not any(place.is_relative_to(root) for root in roots)
