"""How fast requests are made: as many at a time as the store likes, and so many bytes a second as the user allows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_STEP_S = 0.1
_WINDOW_S = 0.5
_REQUEST_WORTH = 64 << 10
"""Bytes that a request counts for besides those it moves, so that small ones are seen to make progress, too."""
_WORSE = 0.9
_HOLD = 8
_CREDIT_S = 0.05
"""A pause buys at most this much burst."""


class Pace:
    """How many requests may be under way: one more as long as that brings more, half as many when the store says so.

    Args:
        most: requests at the same time at the best of times; it begins with as many.
    """

    def __init__(self, most: int) -> None:
        self._most = self._allowed = max(1, most)
        self._busy = 0
        self._changed = threading.Condition()
        self._cut_at = 0.0
        self._work = self._ended = 0
        self._since = time.monotonic()
        self._rate_before: float | None = None
        self._hold = 0

    @property
    def allowed(self) -> int:
        """Requests at the same time now."""
        return self._allowed

    @contextmanager
    def slot(self, wait: Callable[[], None]) -> Iterator[None]:
        """Hold one of the places; `wait` is called while there is none."""
        while not self._enter():
            wait()
        try:
            yield
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify()

    def _enter(self) -> bool:
        with self._changed:
            if self._busy >= self._allowed:
                self._changed.wait(_STEP_S)
            if self._busy >= self._allowed:
                return False
            self._busy += 1
            return True

    def slow_down(self, begun: float) -> None:
        """The store is overloaded, says the answer to a request that was `begun` then (monotonic).

        Those that were under way when the number was last halved tell nothing new.
        """
        with self._changed:
            now = time.monotonic()
            if begun >= self._cut_at:
                self._allowed = max(1, self._allowed // 2)
                self._cut_at = now
            self._rate_before = None
            self._hold = 0
            self._begin_window(now)

    def done(self, n_bytes: int) -> None:
        """A request succeeded."""
        with self._changed:
            self._work += n_bytes + _REQUEST_WORTH
            self._ended += 1
            now = time.monotonic()
            if self._allowed < self._most and self._ended >= self._allowed and now - self._since >= _WINDOW_S:
                self._adapt(self._work / (now - self._since))
                self._begin_window(now)

    def _adapt(self, rate: float) -> None:
        before, self._rate_before = self._rate_before, None
        if before is not None and rate < before * _WORSE:
            self._allowed -= 1
            self._hold = _HOLD
        elif self._hold:
            self._hold -= 1
        else:
            self._rate_before = rate
            self._allowed += 1
            self._changed.notify()

    def _begin_window(self, now: float) -> None:
        self._since, self._work, self._ended = now, 0, 0


class Bandwidth:
    """A limit of bytes per second for all threads together; None is no limit."""

    def __init__(self, bytes_per_s: int | None = None) -> None:
        self._lock = threading.Lock()
        self._next = 0.0
        self.bytes_per_s = bytes_per_s

    def take(self, n_bytes: int, wait: Callable[[], None]) -> None:
        """Wait until so many bytes are due; `wait` is called meanwhile."""
        rate = self.bytes_per_s
        if not rate:
            return
        with self._lock:
            now = time.monotonic()
            self._next = max(self._next, now - _CREDIT_S) + n_bytes / rate
            due = self._next
        while (left := due - time.monotonic()) > 0:
            time.sleep(min(left, _STEP_S))
            wait()
