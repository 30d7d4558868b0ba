"""How long work is told to stop and tells how far it is: the one thing that every step of a transfer is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Control(Protocol):
    """The caller's hand on a piece of work. Called from one thread only, that of the caller."""

    def checkpoint(self, name: str = "") -> None:
        """A place where the work may stop and be resumed later.

        Called at least every 0.2 s while bytes move, and with a name between steps on the file system. May sleep
        (a pause).

        Raises:
            Interrupted: the work is to stop. It leaves a state from which the next call goes on.
        """

    def progress(self, *, bytes: int, files: int) -> None:  # noqa: A002  the word of the progress report
        """Count what was done since the last call. What an earlier attempt did is counted when it is met again."""


class Unlimited:
    """A control that never stops the work and counts."""

    def __init__(self) -> None:
        self.bytes = 0
        self.files = 0

    def checkpoint(self, name: str = "") -> None:
        pass

    def progress(self, *, bytes: int, files: int) -> None:  # noqa: A002  the word of the progress report
        self.bytes += bytes
        self.files += files


class Rate:
    """How many bytes/s a piece of work may move, all its processes together; may change while it runs.

    Attributes:
        bytes_per_s: None is no limit.
    """

    def __init__(self, bytes_per_s: int | None = None) -> None:
        self.bytes_per_s = bytes_per_s


class Following:
    """A control that also passes a rate on when it has changed.

    Args:
        limit: called with the new rate, by the thread that calls `checkpoint`, and once at the beginning.
    """

    def __init__(self, control: Control, rate: Rate, limit: Callable[[int | None], None]) -> None:
        self._control, self._rate, self._limit = control, rate, limit
        self._last = rate.bytes_per_s
        limit(self._last)

    def checkpoint(self, name: str = "") -> None:
        self._control.checkpoint(name)
        if self._rate.bytes_per_s != self._last:
            self._last = self._rate.bytes_per_s
            self._limit(self._last)

    def progress(self, *, bytes: int, files: int) -> None:  # noqa: A002  the word of the progress report
        self._control.progress(bytes=bytes, files=files)
