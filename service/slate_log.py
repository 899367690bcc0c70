"""Slates go to the database beside the request path, never in it."""

import logging
import threading
from queue import Empty, Full, Queue
from typing import Any

from sqlalchemy import Engine, insert
from sqlalchemy.exc import SQLAlchemyError

from recsys.data.tables import Recommendation
from service.metrics import Metrics

LARGEST_BATCH = 500  # rows in one transaction
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
        self._metrics = metrics
        self._queue: Queue[Row] = Queue(size)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slate-log", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def append(self, row: Row) -> None:
        """Take one slate; returns at once."""
        try:
            self._queue.put_nowait(row)
        except Full:
            self._metrics.slates.labels("dropped").inc()
        self._metrics.slates_waiting.set(self._queue.qsize())

    def flush(self) -> None:
        """Wait until every slate taken so far is written or given up."""
        self._queue.join()

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """Write what waits, then end. What the database has not taken by then is lost, and said so."""
        self._stopping.set()
        self._thread.join(timeout_seconds)
        if left := self._queue.qsize():
            self._metrics.slates.labels("dropped").inc(left)
            logger.error("%d slates were not written before the service ended", left)

    def _run(self) -> None:
        while not (self._stopping.is_set() and self._queue.empty()):
            try:
                rows = [self._queue.get(timeout=0.2)]
            except Empty:
                continue
            while len(rows) < LARGEST_BATCH:
                try:
                    rows.append(self._queue.get_nowait())
                except Empty:
                    break
            self._write(rows)
            for _ in rows:
                self._queue.task_done()
            self._metrics.slates_waiting.set(self._queue.qsize())

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
