"""Progress and stopping: the bridge between the copy engine's callbacks and the desk."""

from __future__ import annotations

import time

from tierd.move.job import Desk
from tierd.storage.control import Rate

_REPORT_INTERVAL_S = 0.25


class DeskControl:
    """A `storage.control.Control` that reports to a desk: named steps always, the rest four times a second.

    Attributes:
        rate: as the desk said in its last answer.
    """

    def __init__(self, desk: Desk, rate: Rate) -> None:
        self._desk = desk
        self.rate = rate
        self._step = ""
        self._bytes = 0
        self._files = 0
        self._next_report = 0.0
        self._is_deaf = False

    def checkpoint(self, name: str = "") -> None:
        now = time.monotonic()
        if not name and now < self._next_report:
            return
        self._next_report = now + _REPORT_INTERVAL_S
        self._step = name or self._step
        if not self._is_deaf:
            self.rate.bytes_per_s = self._desk.report(self._step, bytes_done=self._bytes, files_done=self._files)

    def progress(self, *, bytes: int, files: int) -> None:  # noqa: A002 - the protocol's word
        self._bytes += bytes
        self._files += files

    def deafen(self) -> None:
        """From here on the work is only undone or finished: requests to stop come too late."""
        self._is_deaf = True

    def listen(self) -> None:
        """What an earlier attempt had left is in order: requests to stop are heard again."""
        self._is_deaf = False
