"""Server-sent events: every event once and in order, also across a reconnection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.concurrency import run_in_threadpool

from tierd.catalog import Catalog
from tierd.model.event import Event
from tierd.serve.listeners import Listeners
from tierd.serve.look import Look
from tierd.serve.watch import Watch

MEDIA_TYPE = "text/event-stream"
HEARTBEAT_S = 15.0
LISTENERS = 1000
"""Streams of events that may be open at the same time."""
_RETRY_MS = 3000
_BATCH = 200


class EventStreams:
    """Streams of events. What all listeners wait for is read once; one that is behind reads at its own pace, so it
    loses nothing and costs no memory.
    """

    def __init__(self, catalog: Catalog, look: Look) -> None:
        self._catalog, self._look = catalog, look
        self._listeners = Listeners(LISTENERS)
        self._reading = asyncio.Lock()
        self._last: tuple[int, int, str] | None = None

    def listen(self, watch: Watch, after: int | None, *, heartbeat_s: float = HEARTBEAT_S) -> AsyncIterator[str]:
        """The events after this id, or from now on, as they happen, until the server stops or the client leaves.

        Raises:
            TooManyListeners: as many as may are listening.
        """
        self._listeners.check()
        return self._stream(watch, self._catalog.last_event_id() if after is None else after, heartbeat_s)

    async def _stream(self, watch: Watch, after: int, heartbeat_s: float) -> AsyncIterator[str]:
        with self._listeners.one():
            yield f"retry: {_RETRY_MS}\n\n"
            with watch.waiting() as waiter:
                while True:
                    waiter.rest()
                    after, frames = await self._read(after)
                    if frames:
                        yield frames
                    if watch.is_closed:
                        return
                    if not frames and not await waiter.wait(heartbeat_s):
                        yield ": still here\n\n"

    async def _read(self, after: int) -> tuple[int, str]:
        """Some events after this id as frames, and the id of the last of them."""
        if self._catalog.last_event_id() <= after:
            return after, ""
        # Events are only ever added, so what once followed an id still does.
        async with self._reading:
            if self._last is None or self._last[0] != after:
                events = await run_in_threadpool(self._catalog.events, after=after, limit=_BATCH)
                if not events:
                    return after, ""
                self._last = (after, events[-1].id, "".join(_frame(e, self._look) for e in events))
            return self._last[1:]


def _frame(event: Event, look: Look) -> str:
    # JSON escapes line breaks, so what a hostile name contains cannot end the frame.
    return f"id: {event.id}\ndata: {look.event(event).model_dump_json()}\n\n"
