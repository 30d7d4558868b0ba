"""Keeps a lease alive from a thread of its own, through restarts of the daemon.

A lease is renewed at a third of its time, so that two renewals may fail before it ends. While the daemon does not
answer, it is asked again and again. A lease that was lost only because nobody could renew it in time is granted anew;
one that somebody ended on purpose is not.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

from tierd.client.shapes import Lease
from tierd.errors import Conflict, DaemonUnreachable, NotFound, TierdError

_FIRST_RETRY_S = 1.0
_LONGEST_RETRY_S = 30.0

log = logging.getLogger(__name__)


class LeaseCalls(Protocol):
    """What the keeper needs of the daemon."""

    def renew(self, lease_id: int, lease: timedelta) -> Lease:
        """Let the lease end so much later than now."""

    def end_lease(self, lease_id: int) -> None:
        """End the lease now."""


class Keeper:
    """Renews one lease until it is stopped.

    Args:
        calls: the daemon.
        lease: as just granted.
        ttl: what it is renewed to.
        regrant: asks for it anew, with the request key of the first time.
    """

    def __init__(self, calls: LeaseCalls, lease: Lease, ttl: timedelta, regrant: Callable[[], Lease]) -> None:
        self._calls, self._ttl, self._regrant = calls, ttl, regrant
        self._lock = threading.Lock()
        self._lease = lease
        self._ends_at = time.monotonic() + ttl.total_seconds()
        self._trouble: str | None = None
        self._stop = threading.Event()
        # A forked child has no renewing thread, and must not end what its parent still needs.
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name=f"tierd-lease-{lease.id}", daemon=True)

    @property
    def lease(self) -> Lease:
        """The lease as last seen."""
        with self._lock:
            return self._lease

    @property
    def trouble(self) -> str | None:
        """Why the lease could not be renewed the last time; None while all is well."""
        with self._lock:
            return self._trouble

    def start(self) -> None:
        """Begin to renew."""
        self._thread.start()

    def stop(self) -> None:
        """Renew no longer; the lease stays as it is. Idempotent."""
        self._stop.set()
        if os.getpid() == self._pid and self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def end(self, patience: timedelta) -> None:
        """Renew no longer, and end the lease; one that cannot be ended now ends by itself. Idempotent.

        Args:
            patience: how long to go on trying while the daemon does not answer.
        """
        if os.getpid() != self._pid or self._stop.is_set():
            return
        self.stop()
        deadline = time.monotonic() + patience.total_seconds()
        while True:
            try:
                self._calls.end_lease(self.lease.id)
                return
            except NotFound:
                return
            except DaemonUnreachable as e:
                if time.monotonic() + _FIRST_RETRY_S > deadline:
                    log.warning("lease %s could not be ended, it expires by itself: %s", self.lease.id, e)
                    return
                time.sleep(_FIRST_RETRY_S)
            except TierdError as e:
                log.warning("lease %s could not be ended, it expires by itself: %s", self.lease.id, e)
                return

    def renew_now(self) -> None:
        """Renew at once.

        Raises:
            TierdError: the daemon does not answer, or the lease has ended.
        """
        began = time.monotonic()
        self.granted(self._calls.renew(self.lease.id, self._ttl), at=began)

    def granted(self, lease: Lease, *, at: float | None = None) -> None:
        """Take note that the lease was granted or renewed by a call made just now, or at a reading of the clock."""
        # From before the request: the lease then never lives longer here than it does in the daemon.
        ends_at = (time.monotonic() if at is None else at) + self._ttl.total_seconds()
        with self._lock:
            self._lease, self._ends_at, self._trouble = lease, ends_at, None

    def _run(self) -> None:
        pause_s, retry_s = self._interval_s(), _FIRST_RETRY_S
        while not self._stop.wait(pause_s):
            try:
                self._renew_or_regrant()
            except DaemonUnreachable as e:
                self._failed(str(e))
                pause_s, retry_s = min(retry_s, self._interval_s()), min(2 * retry_s, _LONGEST_RETRY_S)
            except (Conflict, NotFound) as e:
                self._failed(f"{e}; it is not renewed any longer")
                return
            except TierdError as e:
                self._failed(str(e))
                pause_s = self._interval_s()
            else:
                pause_s, retry_s = self._interval_s(), _FIRST_RETRY_S

    def _renew_or_regrant(self) -> None:
        try:
            self.renew_now()
        except (Conflict, NotFound):
            if not self._is_expired():
                raise
            self.granted(self._regrant())
            log.warning("lease %s ran out while the daemon was away; granted anew", self.lease.id)

    def _is_expired(self) -> bool:
        with self._lock:
            return time.monotonic() >= self._ends_at

    def _interval_s(self) -> float:
        return self._ttl.total_seconds() / 3

    def _failed(self, why: str) -> None:
        with self._lock:
            is_new, self._trouble = self._trouble != why, why
        if is_new:
            log.warning("lease %s could not be renewed: %s", self.lease.id, why)
