"""Worker processes: how one is started, and one that is started ahead.

Python and its libraries take a third of a second to load, which is a large part of a short transfer. So when a
transfer ends, a process that has everything loaded is made ready for the next one. It waits at its socket, has no
order and has opened nothing; after some time without an order it is ended.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from tierd.model.tier import TierKind

log = logging.getLogger(__name__)

_KEEP_S = 300.0
"""How long one waits for an order: longer, its memory would be for nothing on most machines."""


@dataclass(frozen=True)
class Worker:
    """A worker process, and the daemon's end of its socket."""

    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]

    def end(self) -> None:
        """End a worker that has no order."""
        self.connection.close()
        self.process.kill()
        self.process.wait()


def start_worker(lock_fd: int, preload: Iterable[TierKind] = ()) -> Worker:
    """Start a worker; it dies with the thread that calls this.

    Args:
        lock_fd: the catalog's lock. It goes along: a new daemon waits until the workers of the old one are gone.
        preload: kinds of tiers whose drivers it loads before it has an order.
    """
    ours, theirs = socket.socketpair()
    connection: Connection[Any, Any] = Connection(ours.detach())
    try:
        with theirs:
            command = [sys.executable, "-I", "-m", "tierd.move.worker", str(theirs.fileno()), *preload]
            process = subprocess.Popen(
                command,
                pass_fds=(theirs.fileno(), lock_fd),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
            )
    except BaseException:
        connection.close()
        raise
    return Worker(process, connection)


class Standby:
    """At most one worker without an order. Used by one thread, which lives longer than all workers.

    Args:
        start: starts a worker.
        keep_s: how long one waits for an order.
    """

    def __init__(
        self,
        start: Callable[[], Worker],
        keep_s: float = _KEEP_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start, self._keep_s, self._monotonic = start, keep_s, monotonic
        self._worker: Worker | None = None
        self._until = 0.0

    def prepare(self) -> None:
        """Have one ready from now on, for a while."""
        self._until = self._monotonic() + self._keep_s
        if self._worker is None:
            try:
                self._worker = self._start()
            except OSError as error:  # the transfer that needs one will say so where it matters
                log.warning("no worker can be started ahead: %s", error)

    def look(self) -> None:
        """End the one whose time is over."""
        if self._worker is not None and self._monotonic() > self._until:
            self.end()

    def take(self) -> Worker | None:
        """The one that is ready, for an order; None where none is."""
        worker, self._worker = self._worker, None
        if worker is not None and worker.process.poll() is not None:
            worker.end()
            return None
        return worker

    def end(self) -> None:
        """Have none any more."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end()
