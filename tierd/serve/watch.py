"""Lets many requests wait for events at the cost of one thread, and of none while nobody waits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterator

from starlette.concurrency import run_in_threadpool

from tierd.catalog import Catalog
from tierd.errors import CatalogError
from tierd.model.event import Event
from tierd.model.transfer import Transfer, TransferId

_LOOK_S = 0.5
_BREATH_S = 0.01
_BATCH = 500

log = logging.getLogger(__name__)


class Waiter:
    """One request that waits, on its event loop."""

    def __init__(self, transfer_id: TransferId | None) -> None:
        self._transfer_id = transfer_id
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()

    def rest(self) -> None:
        """Forget what was reported so far. Call it before reading the state that is waited for."""
        self._woken.clear()

    async def wait(self, timeout_s: float) -> bool:
        """Wait until something of interest happens; False when time is up."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._woken.wait()
        except TimeoutError:
            return False

    def wants(self, events: list[Event]) -> bool:
        """Whether one of these events is of interest."""
        return self._transfer_id is None or any(e.transfer_id == self._transfer_id for e in events)

    def wake(self) -> None:
        """Let it go on; from any thread."""
        # The loop may have been closed with the request still on it.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._woken.set)


class Watch:
    """Tells waiters about new events. Its one thread lives while somebody waits."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._waiters: set[Waiter] = set()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    @property
    def is_closed(self) -> bool:
        """True when the server is about to stop: nobody should wait any longer."""
        return self._closing.is_set()

    @property
    def waiters(self) -> int:
        """How many requests wait."""
        with self._lock:
            return len(self._waiters)

    @contextlib.contextmanager
    def waiting(self, transfer_id: TransferId | None = None) -> Iterator[Waiter]:
        """Be told about events from now on: those of one transfer, or all. Must be called on an event loop."""
        waiter = Waiter(transfer_id)
        with self._lock:
            self._waiters.add(waiter)
            if self._closing.is_set():
                waiter.wake()
            elif self._thread is None:
                self._thread = threading.Thread(target=self._run, name="tierd-watch", daemon=True)
                self._thread.start()
        try:
            yield waiter
        finally:
            with self._lock:
                self._waiters.discard(waiter)

    async def transfer(self, transfer_id: TransferId, timeout_s: float) -> Transfer:
        """The transfer when it has ended, or as it is when time is up or the server stops. Occupies no thread.

        Raises:
            NotFound: there is no such transfer.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        with self.waiting(transfer_id) as waiter:
            while True:
                waiter.rest()
                transfer = await run_in_threadpool(self._catalog.transfer, transfer_id)
                left_s = deadline - loop.time()
                if not transfer.is_live or left_s <= 0 or self.is_closed:
                    return transfer
                await waiter.wait(left_s)

    def close(self) -> None:
        """Wake everybody for the last time. Thread-safe, idempotent; returns when the catalog is no longer used."""
        with self._lock:
            self._closing.set()
            waiters, thread = list(self._waiters), self._thread
        for waiter in waiters:
            waiter.wake()
        if thread is not None:
            thread.join(timeout=2 * _LOOK_S + 1)

    def _run(self) -> None:
        last: int | None = None
        while self._is_needed():
            try:
                if last is None:
                    last = self._catalog.last_event_id()
                    # Whoever read its state before this moment has to look again.
                    self._tell(None)
                elif self._catalog.wait_for_event(last, _LOOK_S):
                    events = self._catalog.events(after=last, limit=_BATCH)
                    last = events[-1].id if events else last
                    self._tell(events)
                else:
                    # A catalog that was closed answers at once; this keeps the loop from spinning until all have left.
                    self._closing.wait(_BREATH_S)
            except CatalogError as e:
                # Whoever waits reads again by itself and gets the error; here it only must not end the waiting.
                log.warning("cannot watch for events: %s", e, extra={"action": "watch_failed"})
                self._closing.wait(_LOOK_S)

    def _is_needed(self) -> bool:
        with self._lock:
            if self._waiters and not self._closing.is_set():
                return True
            self._thread = None
            return False

    def _tell(self, events: list[Event] | None) -> None:
        with self._lock:
            waiters = [w for w in self._waiters if events is None or w.wants(events)]
        for waiter in waiters:
            waiter.wake()
