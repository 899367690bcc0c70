"""Items put since the night are embedded beside the requests, one thread for all of them."""

import logging
import threading
from collections.abc import Iterable
from datetime import datetime
from heapq import nsmallest
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from recsys.artifacts import Release
from recsys.delta import LateItem
from recsys.late import CatalogueItem, is_news, make_late_items
from recsys.search_index import content_keys
from service.catalogue import load_catalogue_items
from service.live import LiveRelease
from service.metrics import Metrics
from service.settings import Settings

BATCH = 16  # items embedded together: a quarter of a second of work, after which they can be found
RETRY_SECONDS = 1.0

logger = logging.getLogger(__name__)


class Newcomers:
    """A bounded set of item ids to look at, and the thread that looks.

    An item waits in it once, however often it is put. What does not fit, and what fails for good, waits for the night.
    """

    def __init__(self, engine: Engine, live: LiveRelease, settings: Settings, metrics: Metrics) -> None:
        self._engine = engine
        self._live = live
        self._settings = settings
        self._metrics = metrics
        self._images = Path(settings.images)
        self._waiting: dict[str, int] = {}  # item_id → how many were offered with it
        self._working = False
        self._changed = threading.Condition()  # guards the two above
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="newcomers", daemon=True)
        # item_id → what of it was last looked at, for which release: the poll names an item again and again.
        self._done: dict[str, tuple[str, datetime, tuple[int, int]]] = {}

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def offer(self, item_ids: Iterable[str]) -> None:
        """Look at these items soon, at those that come alone before those of a long list; returns at once.

        Where there is no room, those stay that came with fewest others, and of equals those that came first.
        """
        offered, room = list(item_ids), self._settings.late_items
        with self._changed:
            for item_id in offered:
                self._waiting[item_id] = min(len(offered), self._waiting.get(item_id, len(offered)))
            if len(self._waiting) > room:
                self._metrics.late_items.labels("dropped").inc(len(self._waiting) - room)
                self._waiting = {name: self._waiting[name] for name in self._next(room)}
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until everything offered so far was looked at."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._working)

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """End after the batch under way."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(timeout_seconds)

    def make(self, release: Release, item_ids: list[str], version: str) -> list[LateItem]:
        """Those of the items that are news to the release, embedded.

        Raises:
            SQLAlchemyError: the database does not answer.
        """
        now, live = self._settings.now(), self._live.current
        is_live = live is not None and live.night is release
        late_already = live.late if live is not None and is_live else {}
        news: list[CatalogueItem] = []
        seen: dict[str, tuple[str, datetime, tuple[int, int]]] = {}
        for updated_at, item in load_catalogue_items(self._engine, item_ids, now):
            mark = (version, updated_at, content_keys(item.text, item.picture(self._images)))
            # Of a release that is being loaded nothing was looked at: an earlier try to load it came to nothing.
            if is_live and self._done.get(item.item_id) == mark:
                continue
            seen[item.item_id] = mark
            if is_news(release, item, self._images) or item.item_id in late_already:
                news.append(item)
        made = make_late_items(release, news, self._images, max(now, release.manifest.data_cutoff))
        self._done |= seen
        return made

    def _run(self) -> None:
        while item_ids := self._take():
            try:
                self._look_at(item_ids)
            except SQLAlchemyError:
                self._forget(item_ids)
                logger.exception("the database did not answer; %d new items are looked at again", len(item_ids))
                self.offer(item_ids)
                self._stopping.wait(RETRY_SECONDS)
            except Exception:  # one batch must not end the thread
                self._forget(item_ids)
                self._metrics.late_items.labels("failed").inc(len(item_ids))
                logger.exception("%d new items wait for the night", len(item_ids))
            with self._changed:
                self._working = False
                self._changed.notify_all()

    def _forget(self, item_ids: Iterable[str]) -> None:
        for item_id in item_ids:
            self._done.pop(item_id, None)

    def _take(self) -> list[str]:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping.is_set())
            if self._stopping.is_set():
                return []
            item_ids = self._next(BATCH)
            for item_id in item_ids:
                del self._waiting[item_id]
            self._working = True
            return item_ids

    def _next(self, most: int) -> list[str]:
        return nsmallest(most, self._waiting, key=self._waiting.__getitem__)

    def _look_at(self, item_ids: list[str]) -> None:
        live = self._live.current
        if live is None:
            return  # a release that is loaded looks for itself
        made = self.make(live.night, item_ids, live.version)
        if made and not self._live.take_late(live.night, made):
            self._forget(item_ids)  # another release went live meanwhile
            self.offer(item_ids)
            return
        self._metrics.late_items.labels("taken").inc(len(made))
