"""The release that answers now, what the shop says of its items, what came after it; and the threads that look."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
from sqlalchemy import Engine

from recsys.artifacts import Release
from recsys.data.releases import live_release
from recsys.delta import LateItem, extend
from service.catalogue import facts_of, read_facts
from service.metrics import Metrics
from service.shelf import Facts, Shelf

# A transaction may commit after another that carries a later updated_at; looking back this far finds it all the same.
LOOK_BACK = timedelta(seconds=15)
RETRY_REFUSED_SECONDS = 60.0

logger = logging.getLogger(__name__)


MakeLate = Callable[[Release, list[str], str], list[LateItem]]  # Newcomers.make


@dataclass(frozen=True, slots=True)
class Live:
    """One release and its shelf. A request takes it once and keeps it, whatever is published or put meanwhile."""

    release: Release  # with the late items
    night: Release  # without
    shelf: Shelf  # changed in place; it has room for more rows than the release
    version: str
    late: Mapping[str, LateItem] = field(default_factory=dict)

    @property
    def available(self) -> np.ndarray:
        """bool [n_items] of ``release``: in stock now, by the database; changed in place."""
        return self.shelf.available[: len(self.release.item_ids)]

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
        room: int = 0,
    ) -> None:
        """``room``: how many late items a release may be given."""
        self.current: Live | None = None
        self.why_none: str = "the service has not looked for a release yet"
        self.make_late: MakeLate = lambda release, item_ids, version: []
        self.offer: Callable[[Iterable[str]], object] = lambda item_ids: None  # items that may be news; see Newcomers
        self._engine = engine
        self._load_release = load_release
        self._warm_up = warm_up
        self._metrics = metrics
        self._room = room
        self._taking = threading.Lock()  # one release at a time; requests never take it
        self._stock = threading.Lock()  # so that a poll never overwrites a change made while it was reading
        self._stock_seen = datetime.min.replace(tzinfo=UTC)
        self._refused: tuple[str, float] = ("", 0.0)  # version, when (monotonic seconds)

    @property
    def refused(self) -> bool:
        """Whether none answers because the published one cannot."""
        return self.current is None and self._refused[0] != ""

    def take_published(self) -> bool:
        """Take over a newly published release; whether another answers than before.

        Takes as long as loading it and embedding its late items: seconds to minutes, while :meth:`poll` may go on.
        """
        with self._taking:
            return self._take_published()

    def poll(self) -> None:
        """Take over what changed in the catalogue since the last look."""
        with self._stock:
            changed = self._poll(self.current) if self.current is not None else []
        for item_ids in changed:
            self.offer(item_ids)

    def note(self, item_id: str, facts: Facts) -> None:
        """Obey a change of an item from the next request on; one without a row is read when it gets one."""
        with self._stock:
            live = self.current
            row = live.release.row_of(item_id) if live is not None else None
            if live is not None and row is not None:
                live.shelf.put(row, facts)

    def take_late(self, night: Release, made: Sequence[LateItem]) -> bool:
        """Answer with these items too, from the next request on; False where another release went live meanwhile.

        Raises:
            SQLAlchemyError: the database does not answer.
        """
        with self._stock:
            live = self.current
            if live is None or live.night is not night:
                return False
            self.current = self._with_late(live, made)
            return True

    def _with_late(self, live: Live, made: Sequence[LateItem]) -> Live:
        late = dict(live.late)
        for item in made:
            if item.item_id in late or len(late) < self._room:
                late[item.item_id] = item
            else:
                self._metrics.late_items.labels("dropped").inc()
        release = extend(live.night, list(late.values()))
        # Before a request knows the rows; and as the catalogue has them now, not when they were embedded.
        for item_id, facts in facts_of(self._engine, [item.item_id for item in made]):
            if (row := release.row_of(item_id)) is not None:
                live.shelf.put(row, facts)
        self._metrics.late.set(len(late))
        return Live(release, live.night, live.shelf, live.version, late)

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
            shelf = Shelf(len(release.item_ids) + self._room)
            live = Live(release, release, shelf, published.version)
            news = self._fill(live)
            if current is not None:
                # The items of the old one must not vanish for the time that embedding them again takes.
                made = self.make_late(release, news, published.version)
                with self._stock:
                    live = self._with_late(live, made)
                news = []
            self._warm_up(live)  # maps the index into memory and proves that it answers
        except Exception as error:  # whatever is wrong with a release, the old one goes on answering
            self._refused = (published.version, time.monotonic())
            self.why_none = f"release {published.version} was refused: {error}"
            self._metrics.release_loads.labels("refused").inc()
            logger.exception("release %s refused", published.version)
            return False
        with self._stock:
            self._stock_seen = before_reading
            changed = self._poll(live)  # while the release was loading
            self.current = live
        for item_ids in (news, *changed):
            self.offer(item_ids)
        self._metrics.release_loads.labels("loaded").inc()
        logger.info("release %s is live, loaded in %.2f s", live.version, time.perf_counter() - started)
        return True

    def _fill(self, live: Live) -> list[str]:
        """Put the whole catalogue on the shelf; returns the items that may be news to the release.

        First those that it does not know, which would vanish, then those that changed, the newest of each first.
        """
        seen = live.night.manifest.catalogue_seen
        known_until = seen - LOOK_BACK if seen is not None else datetime.max.replace(tzinfo=UTC)
        news: list[tuple[bool, datetime, str]] = []
        for item_id, updated_at, facts in read_facts(self._engine):
            row = live.night.row_of(item_id)
            if row is not None:
                live.shelf.put(row, facts)
            if facts.listed and (row is None or updated_at > known_until):
                news.append((row is None, updated_at, item_id))
        return [item_id for *_, item_id in sorted(news, reverse=True)[: self._room]]

    def _poll(self, live: Live) -> list[list[str]]:
        """What other workers and importers changed since the last look; returns what may be news, write by write."""
        seen = datetime.now(UTC)
        changed: dict[datetime, list[str]] = {}  # all that is written together has one time
        for item_id, updated_at, facts in read_facts(self._engine, self._stock_seen - LOOK_BACK):
            if (row := live.release.row_of(item_id)) is not None:
                live.shelf.put(row, facts)
            if facts.listed:
                changed.setdefault(updated_at, []).append(item_id)
        self._stock_seen = seen
        return list(changed.values())


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
