"""How long work is told to stop and tells how far it is: the one thing that every step of a transfer is given."""

from __future__ import annotations

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
