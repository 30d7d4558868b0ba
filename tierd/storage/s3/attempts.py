"""Repeating what may succeed later: with growing pauses, no longer than configured, and stopped at any moment."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from tierd.errors import Conflict, SourceGone, UploadGone
from tierd.storage.s3.failures import DAMAGED, FAILURES, Subject, code_of, is_overload, is_transient, translate
from tierd.storage.s3.meter import Meter
from tierd.storage.s3.pace import Pace
from tierd.storage.s3.wire import STEP_S, Broken, Stopped, Wait

T = TypeVar("T")
_FIRST_S, _LONGEST_S = 0.2, 5.0
_ANSWERS = (SourceGone, UploadGone, Conflict)
"""What is no failure of the store."""
_RESENDS = 3
"""Bodies that arrive damaged so often are damaged here, not on the way."""


class Attempts:
    """One operation, tried until it succeeds or must be given up.

    Attributes:
        count: requests so far.
    """

    def __init__(
        self,
        subject: Subject,
        pace: Pace,
        meter: Meter,
        wait: Wait,  # made by `stopping`
        patience_s: float,
    ) -> None:
        self.subject = subject
        self.count = 0
        self._pace, self._meter, self._wait = pace, meter, wait
        self._patience_s = patience_s
        self._failing_since: float | None = None
        self._failures = self._resent = 0
        self._began = 0.0

    def run(self, send: Callable[[], T], *, up: int = 0, down: int = 0) -> T:
        """Send until there is an answer.

        Args:
            up, down: bytes of the request's and of the answer's body, as far as it is long.

        Raises:
            TierdError: see `failures.translate`. What `Wait` raises.
        """
        try:
            while True:
                began = time.monotonic()
                try:
                    with self._pace.slot(self._wait):
                        self._began = began = time.monotonic()
                        self._meter.add(self.subject.operation, requests=1, bytes_up=up, retries=int(self.count > 0))
                        self.count += 1
                        answer = send()
                except FAILURES as error:
                    self._failed(error, began)
                else:
                    self._pace.done(up or down)
                    self._failing_since, self._failures = None, 0
                    return answer
        except Stopped as stopped:
            raise stopped.reason from None

    def went_on(self, error: Broken) -> None:
        """The answer broke, but brought so much that the rest is asked for at once."""
        if is_overload(error):
            self._pace.slow_down(self._began)

    def _failed(self, error: Exception, began: float) -> None:
        """Wait for the next attempt.

        Raises:
            TierdError: there shall be none.
        """
        operation, now = self.subject.operation, time.monotonic()
        if self._failing_since is None:
            self._failing_since = began
        self._failures += 1
        if is_overload(error):
            self._pace.slow_down(began)
        if code_of(error) in DAMAGED and operation in ("put", "part"):
            self._resent += 1
            is_worth_while = self._resent < _RESENDS
        else:
            is_worth_while = is_transient(error)
        longest = min(_LONGEST_S, _FIRST_S * 2.0 ** min(self._failures - 1, 10))
        pause = longest * random.uniform(0.5, 1.0)
        if not is_worth_while or now + pause - self._failing_since > self._patience_s:
            told = translate(error, self.subject)
            if not isinstance(told, _ANSWERS):
                self._meter.add(operation, errors=1)
            raise told from error
        self._sleep(now + pause)

    def _sleep(self, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            self._wait()
            time.sleep(min(left, STEP_S))
