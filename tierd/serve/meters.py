"""Counts and times API requests, by route template: its series are bounded by the routes, not by what is asked for."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_WAITED = "tierd.waited_s"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"})
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


class Meters:
    """The counters of the API."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "tierd_api_requests",
            "API requests answered, by route template and HTTP status.",
            ("method", "route", "status"),
            registry=registry,
        )
        self._durations = Histogram(
            "tierd_api_request_duration_seconds",
            "Time until an API request was answered, without the time it was asked to wait for a transfer or events.",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=registry,
        )

    def count(self, scope: Scope, status: int, duration_s: float) -> None:
        """Count one answered request."""
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = str(getattr(scope.get("route"), "path", "unmatched"))
        self._requests.labels(method, route, str(status)).inc()
        self._durations.labels(method, route).observe(max(0.0, duration_s - scope.get(_WAITED, 0.0)))


def waited(scope: Scope, seconds: float) -> None:
    """Take the time that a request spent waiting as it was asked to out of its measured duration."""
    scope[_WAITED] = scope.get(_WAITED, 0.0) + seconds


class Metered:
    """ASGI middleware that measures every request."""

    def __init__(self, app: ASGIApp, meters: Meters) -> None:
        self.app, self.meters = app, meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        finally:
            # Also when the handler broke: what is answered then is a 500, unless the response had begun.
            self.meters.count(scope, status, time.perf_counter() - began)
