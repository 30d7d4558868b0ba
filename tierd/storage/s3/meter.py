"""What was asked of a store: requests, repetitions, failures and bytes by operation."""

from __future__ import annotations

import threading

from tierd.model.s3 import Counts


class Meter:
    """Counts by operation: put, begin, part, complete, abort, parts, uploads, get, head, list, delete, restore."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, Counts] = {}

    def add(
        self,
        operation: str,
        *,
        requests: int = 0,
        retries: int = 0,
        errors: int = 0,
        bytes_up: int = 0,
        bytes_down: int = 0,
    ) -> None:
        more = Counts(requests=requests, retries=retries, errors=errors, bytes_up=bytes_up, bytes_down=bytes_down)
        with self._lock:
            self._counts[operation] = self._counts.get(operation, Counts()) + more

    def snapshot(self) -> dict[str, Counts]:
        """The counts up to now."""
        with self._lock:
            return dict(self._counts)
