"""Slates go to the database beside the request path, never in it."""

import logging
import threading
from collections import deque
from typing import Any

from sqlalchemy import Engine, insert
from sqlalchemy.exc import SQLAlchemyError

from recsys.data.tables import Recommendation
from service.metrics import Metrics

LARGEST_BATCH = 500  # rows in one transaction
GATHER_SECONDS = 0.1  # after the first row: one transaction for several slates takes less from the requests
ATTEMPTS = 3  # at one batch, before it is given up
RETRY_SECONDS = 0.5

logger = logging.getLogger(__name__)

Row = dict[str, Any]  # a row of `recommendations`


class SlateLog:
    """A bounded queue and the thread that empties it into the table ``recommendations``.

    A full queue, or a database that stays away, costs log rows, which are counted; it never costs an answer.
    """

    def __init__(self, engine: Engine, size: int, metrics: Metrics) -> None:
        self._engine = engine
        self._size = size
        self._metrics = metrics
        self._waiting: deque[Row] = deque()
        self._writing = False
        self._changed = threading.Condition()  # guards the two above
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slate-log", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def append(self, row: Row) -> None:
        """Take one slate; returns at once."""
        with self._changed:
            if len(self._waiting) >= self._size:
                self._metrics.slates.labels("dropped").inc()
                return
            self._waiting.append(row)
            self._metrics.slates_waiting.set(len(self._waiting))
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until every slate taken so far is written or given up."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._writing)

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Write what waits, then end. What the database has not taken by then is lost, and said so."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(timeout_seconds)
        if left := len(self._waiting):
            self._metrics.slates.labels("dropped").inc(left)
            logger.error("%d slates were not written before the service ended", left)

    def _run(self) -> None:
        while rows := self._take():
            self._write(rows)
            with self._changed:
                self._writing = False
                self._changed.notify_all()

    def _take(self) -> list[Row]:
        """The next batch, waiting for one; empty when there is none and there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping.is_set())
            self._changed.wait_for(lambda: self._is_full() or self._stopping.is_set(), GATHER_SECONDS)
            rows = [self._waiting.popleft() for _ in range(min(len(self._waiting), LARGEST_BATCH))]
            self._writing = bool(rows)
            self._metrics.slates_waiting.set(len(self._waiting))
            return rows

    def _is_full(self) -> bool:
        return len(self._waiting) >= LARGEST_BATCH

    def _write(self, rows: list[Row]) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._engine.begin() as connection:
                    connection.execute(insert(Recommendation), rows)
            except SQLAlchemyError:
                logger.exception("writing %d slates failed, attempt %d of %d", len(rows), attempt, ATTEMPTS)
                if attempt < ATTEMPTS:
                    self._stopping.wait(RETRY_SECONDS)
            else:
                self._metrics.slates.labels("written").inc(len(rows))
                return
        self._metrics.slates.labels("dropped").inc(len(rows))
