"""How many may listen at the same time, so that streams leave connections for everybody else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from tierd.errors import TierdError


class TooManyListeners(TierdError):
    """Too many listen for changes."""

    code, http_status = "too_many_listeners", HTTPStatus.SERVICE_UNAVAILABLE


class Listeners:
    """Counts those who listen. Used on the event loop only."""

    def __init__(self, most: int) -> None:
        self._most, self._now = most, 0

    def check(self) -> None:
        """Raise where no more are welcome.

        Raises:
            TooManyListeners: as many as may are listening.
        """
        if self._now >= self._most:
            raise TooManyListeners(f"{self._most} listen already", hint="Close some, or try again later.")

    @contextmanager
    def one(self) -> Iterator[None]:
        """Be counted."""
        self._now += 1
        try:
            yield
        finally:
            self._now -= 1
