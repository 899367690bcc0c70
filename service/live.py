"""The release that answers now, which of its items are in stock, and the thread that keeps both fresh."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from sqlalchemy import Engine, select

from recsys.artifacts import Release
from recsys.data.releases import live_release
from recsys.data.tables import Item
from service.metrics import Metrics

# A transaction may commit after another that carries a later updated_at; looking back this far finds it all the same.
LOOK_BACK = timedelta(seconds=15)
RETRY_REFUSED_SECONDS = 60.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Live:
    """One release and its stock. A request takes it once and keeps it, whatever is published meanwhile."""

    release: Release
    available: np.ndarray  # bool [n_items]: in stock now, by the database; changed in place
    version: str

    def earliest(self, now: datetime) -> datetime:
        """``now``, or the release's data cut-off where that is later: our clock is behind that of the night.

        A request path that refuses to know the future would answer nothing until the clocks agree.
        """
        return max(now, self.release.manifest.data_cutoff)


class LiveRelease:
    """Holds the :class:`Live` that answers, or none, and replaces it whole.

    A new release is loaded, and asked once, beside the old one; then one assignment swaps them. A release that cannot
    be loaded or does not answer is refused and the old one stays.
    """

    def __init__(
        self,
        engine: Engine,
        load_release: Callable[[str], Release],
        warm_up: Callable[[Live], object],
        metrics: Metrics,
    ) -> None:
        self.current: Live | None = None
        self.why_none: str = "the service has not looked for a release yet"
        self._engine = engine
        self._load_release = load_release
        self._warm_up = warm_up
        self._metrics = metrics
        self._refreshing = threading.Lock()  # one refresh at a time; requests never take it
        self._stock = threading.Lock()  # so that a poll never overwrites a change made while it was reading
        self._stock_seen = datetime.min.replace(tzinfo=UTC)
        self._refused: tuple[str, float] = ("", 0.0)  # version, when (monotonic seconds)

    @property
    def refused(self) -> bool:
        """Whether none answers because the published one cannot."""
        return self.current is None and self._refused[0] != ""

    def refresh(self) -> bool:
        """Take over a newly published release and changed stock, now.

        Returns:
            Whether another release answers than before.
        """
        with self._refreshing:
            if self._take_published():
                return True
            if self.current is not None:
                with self._stock:
                    self._poll_stock(self.current)
            return False

    def set_available(self, item_id: str, available: bool) -> None:
        """Obey a change of stock from the next request on."""
        with self._stock:
            live = self.current
            row = live.release.row_of(item_id) if live is not None else None
            if live is not None and row is not None:
                live.available[row] = available

    def _take_published(self) -> bool:
        published = live_release(self._engine)
        if published is None:
            self.why_none = "no release is published yet; the first night publishes one"
            return False
        current = self.current
        if current is not None and current.version == published.version:
            return False
        refused_version, refused_at = self._refused
        if published.version == refused_version and time.monotonic() - refused_at < RETRY_REFUSED_SECONDS:
            return False
        started = time.perf_counter()
        try:
            before_reading = datetime.now(UTC)
            release = self._load_release(published.path)
            live = Live(release, self._stock_of(release), published.version)
            self._warm_up(live)  # maps the index into memory and proves that it answers
        except Exception as error:  # whatever is wrong with a release, the old one goes on answering
            self._refused = (published.version, time.monotonic())
            self.why_none = f"release {published.version} was refused: {error}"
            self._metrics.release_loads.labels("refused").inc()
            logger.exception("release %s refused", published.version)
            return False
        with self._stock:
            self._stock_seen = before_reading
            self._poll_stock(live)  # what changed while the release was loading
            self.current = live
        self._metrics.release_loads.labels("loaded").inc()
        logger.info("release %s is live, loaded in %.2f s", live.version, time.perf_counter() - started)
        return True

    def _stock_of(self, release: Release) -> np.ndarray:
        """bool [n_items]: what the database has in stock; an item that it does not hold is not."""
        available = np.zeros(len(release.item_ids), dtype=bool)
        query = select(Item.item_id).where(Item.in_stock, Item.deleted_at.is_(None))
        with self._engine.connect() as connection:
            for item_id in connection.execution_options(yield_per=10_000).scalars(query):
                if (row := release.row_of(item_id)) is not None:
                    available[row] = True
        return available

    def _poll_stock(self, live: Live) -> None:
        """Items put by other workers and by importers since the last look."""
        seen = datetime.now(UTC)
        query = select(Item.item_id, Item.in_stock & Item.deleted_at.is_(None)).where(
            Item.updated_at >= self._stock_seen - LOOK_BACK
        )
        with self._engine.connect() as connection:
            for item_id, available in connection.execution_options(yield_per=10_000).execute(query):
                if (row := live.release.row_of(item_id)) is not None:
                    live.available[row] = available
        self._stock_seen = seen


class Watcher:
    """A thread that calls each of ``refresh`` every ``seconds``, whatever fails."""

    def __init__(self, seconds: float, *refresh: Callable[[], object]) -> None:
        self._seconds = seconds
        self._refresh = refresh
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        """Begin; the first look is after one interval."""
        self._thread.start()

    def look_once(self) -> None:
        """Call each now; a failure is logged and tried again at the next interval."""
        for refresh in self._refresh:
            try:
                refresh()
            except Exception:  # a database away for a minute must not end the watch
                logger.exception("looking for changes failed; trying again in %.1f s", self._seconds)

    def stop(self) -> None:
        """End after the refresh under way, if any."""
        self._stopping.set()
        self._thread.join(timeout=10.0)

    def _run(self) -> None:
        while not self._stopping.wait(self._seconds):
            self.look_once()
