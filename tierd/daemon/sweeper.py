"""Sweeps the tiers now and then: a transfer that was cancelled while it waited leaves its unfinished copy behind, a
lease that ended its part of a snapshot.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from tierd.daemon.tiers import Tiers
from tierd.errors import Interrupted, TierdError

log = logging.getLogger(__name__)

_INTERVAL_S = 900.0


class Sweeper:
    """A thread that sweeps at the start and then every quarter of an hour. Also the control of its own work."""

    def __init__(self, tiers: Tiers, live_keys: Callable[[], set[str]]) -> None:
        self._tiers = tiers
        self._live_keys = live_keys
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="sweeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def sweep(self) -> None:
        """Sweep soon; returns at once."""
        self._wake.set()

    def stop(self) -> None:
        """Stop at the next entry to delete; what is left is swept after the next start."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def _loop(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                self._tiers.sweep(self._live_keys, self)
            except Interrupted:
                return
            except TierdError as error:
                log.warning("sweep: %s", error)
            self._wake.wait(_INTERVAL_S)

    def checkpoint(self, name: str = "") -> None:
        if self._stop.is_set():
            raise Interrupted("stop")

    def progress(self, *, bytes: int, files: int) -> None:  # noqa: A002 - the protocol's word
        pass
