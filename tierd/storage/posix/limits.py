"""What the processes of one crew share: counters, the stop sign, and the rate limit."""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import time

from tierd.errors import Interrupted

_STOP, _NEXT_NS, _RATE, _FIRST = 0, 1, 2, 3
_NAP_S = 0.1
_MAX_CREDIT_NS = 50_000_000
"""A pause of the work buys at most this much burst."""


class Board:
    """Shared memory of a crew: made before the fork, written by every process in its own slots.

    Args:
        bytes_per_s: limit for all processes together at first; None is no limit.
    """

    def __init__(self, processes: int, bytes_per_s: int | None) -> None:
        self._memory = mmap.mmap(-1, 8 * (_FIRST + 3 * processes))
        self._slots = memoryview(self._memory).cast("q")
        self._slots[_RATE] = bytes_per_s or 0
        self._processes = processes
        # A lock on a descriptor of its own per process would be needed for flock; record locks belong to the
        # process, and the kernel drops them when it is killed, so that nobody waits for a dead holder.
        self._lock_fd = os.memfd_create("tierd-rate")
        self._threads = threading.Lock()

    def close(self) -> None:
        self._slots.release()
        self._memory.close()
        os.close(self._lock_fd)

    def limit(self, bytes_per_s: int | None) -> None:
        """Change the limit, for every process, from what it moves next."""
        self._slots[_RATE] = bytes_per_s or 0

    def stop(self) -> None:
        """Ask every process to stop."""
        self._slots[_STOP] = 1

    @property
    def is_stopped(self) -> bool:
        return self._slots[_STOP] != 0

    def check(self) -> None:
        """Raises Interrupted when the crew was asked to stop."""
        if self._slots[_STOP]:
            raise Interrupted("asked to stop")

    def count(self, worker: int, n_bytes: int, files: int, *, moved: int | None = None) -> None:
        """Add to a worker's counters; called by its main thread, or under its own lock.

        Args:
            n_bytes: done by now, whoever did it; `moved`: of these, copied in this attempt (None: all).
        """
        at = _FIRST + 3 * worker
        self._slots[at] += n_bytes
        self._slots[at + 1] += files
        self._slots[at + 2] += n_bytes if moved is None else moved

    def totals(self) -> tuple[int, int, int]:
        """Bytes, files, and bytes moved in this attempt, of all workers together."""
        values = self._slots[_FIRST : _FIRST + 3 * self._processes].tolist()
        return sum(values[0::3]), sum(values[1::3]), sum(values[2::3])

    def throttle(self, n_bytes: int) -> None:
        """Wait until the limit allows these bytes.

        Raises:
            Interrupted: asked to stop meanwhile.
        """
        bytes_per_s = self._slots[_RATE]
        if not bytes_per_s:
            self.check()
            return
        cost = n_bytes * 1_000_000_000 // bytes_per_s
        with self._threads:
            fcntl.lockf(self._lock_fd, fcntl.LOCK_EX)
            now = time.monotonic_ns()
            start = max(self._slots[_NEXT_NS], now - _MAX_CREDIT_NS)
            self._slots[_NEXT_NS] = start + cost
            fcntl.lockf(self._lock_fd, fcntl.LOCK_UN)
        while True:
            self.check()
            wait = (start + cost - time.monotonic_ns()) / 1e9
            if wait <= 0:
                return
            time.sleep(min(wait, _NAP_S))
