"""Server-sent events: every event once and in order, also across a reconnection."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.concurrency import run_in_threadpool

from tierd.catalog import Catalog
from tierd.model.event import Event
from tierd.serve.look import Look
from tierd.serve.watch import Watch

MEDIA_TYPE = "text/event-stream"
HEARTBEAT_S = 15.0
_RETRY_MS = 3000
_BATCH = 200


async def stream(
    watch: Watch, catalog: Catalog, look: Look, after: int, *, heartbeat_s: float = HEARTBEAT_S
) -> AsyncIterator[str]:
    """The events after this id, as they happen, until the server stops or the client leaves.

    Each client reads the catalog at its own pace, so a slow one loses nothing and costs no memory.
    """
    yield f"retry: {_RETRY_MS}\n\n"
    with watch.waiting() as waiter:
        while True:
            waiter.rest()
            events = await run_in_threadpool(catalog.events, after=after, limit=_BATCH)
            if events:
                after = events[-1].id
                yield "".join(_frame(e, look) for e in events)
            if watch.is_closed:
                return
            if not events and not await waiter.wait(heartbeat_s):
                yield ": still here\n\n"


def _frame(event: Event, look: Look) -> str:
    # JSON escapes line breaks, so what a hostile name contains cannot end the frame.
    return f"id: {event.id}\ndata: {look.event(event).model_dump_json()}\n\n"
