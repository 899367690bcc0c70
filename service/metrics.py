"""What Prometheus may know. One :class:`Metrics` belongs to one app, so that two apps in a process do not mix."""

import os
import time
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Metrics:
    """All counters of the service, named as they are exported."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter(
            "recsys_http_requests", "HTTP requests", ["method", "route", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "recsys_http_request_duration_seconds",
            "Time from the first byte in to the last byte out",
            ["method", "route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.recommendations = Counter(
            "recsys_recommendations", "Slates answered", ["placement", "fallback", "release"], registry=registry
        )
        self.broken_parts = Counter(
            "recsys_broken_parts",
            "Times that a part of a request failed and a lesser answer was given",
            ["part"],  # history, purchases, recommend, similar, search, items
            registry=registry,
        )
        self.events = Counter(
            "recsys_events", "Events by what became of them", ["outcome"], registry=registry
        )  # accepted, duplicate, rejected
        self.release_loads = Counter(
            "recsys_release_loads", "Releases loaded, or refused", ["outcome"], registry=registry
        )  # loaded, refused
        self.release_cutoff = Gauge(
            "recsys_release_data_cutoff_timestamp_seconds",
            "Until when the live release knows the shop, Unix time",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.release_age = Gauge(
            "recsys_release_age_seconds",
            "Time since the live release's data cut-off; absent releases age 0",
            registry=registry,
            multiprocess_mode="livemostrecent",
        )
        self.slates = Counter(
            "recsys_slates", "Slates by what became of their log row", ["outcome"], registry=registry
        )  # written, dropped
        self.slates_waiting = Gauge(
            "recsys_slates_waiting",
            "Slates that wait to be written",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.late_items = Counter(
            "recsys_late_items", "Items put since the night by what became of them", ["outcome"], registry=registry
        )  # taken, failed, dropped
        self.late = Gauge(
            "recsys_late_items_live",
            "Items that came or changed since the live release's night and that it answers with",
            registry=registry,
            multiprocess_mode="livemax",
        )
        # Label values that exist from the start, so that a rate over them is defined before the first failure.
        for part in ("history", "purchases", "recommend", "similar", "search", "items"):
            self.broken_parts.labels(part)
        for outcome in ("accepted", "duplicate", "rejected"):
            self.events.labels(outcome)
        for outcome in ("loaded", "refused"):
            self.release_loads.labels(outcome)
        for outcome in ("taken", "failed", "dropped"):
            self.late_items.labels(outcome)
        for outcome in ("written", "dropped"):
            self.slates.labels(outcome)

    def export(self, data_cutoff: datetime | None) -> bytes:
        """The text format, over all workers.

        Args:
            data_cutoff: of the live release, UTC; None without one.
        """
        if data_cutoff is not None:
            self.release_cutoff.set(data_cutoff.timestamp())
            self.release_age.set((datetime.now(UTC) - data_cutoff).total_seconds())
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:  # set by service.serve for more than one worker
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            return generate_latest(registry)
        return generate_latest(self.registry)


class CountRequests:
    """ASGI middleware: count and time every request under its route's template, never under its raw path."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and note how it ended."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, start = 500, time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            # Unknown paths share one label: whoever scans for them must not fill the memory.
            route = getattr(scope.get("route"), "path_format", "unmatched")
            method = scope["method"] if route != "unmatched" else "any"
            self.metrics.requests.labels(method, route, str(status)).inc()
            self.metrics.request_seconds.labels(method, route).observe(time.perf_counter() - start)
