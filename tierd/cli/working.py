"""Shows how far long work in this process is: nothing for the first second, then a line that moves on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tierd.cli.terminal import escape
from tierd.model.units import format_size

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_QUIET_S = 1.0


class Work:
    """A `Control` of work that nobody stops but by Ctrl-C. Use `shown`."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._step = ""
        self._bytes = self._files = 0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def checkpoint(self, name: str = "") -> None:
        if name and name != self._step:
            self._step, self._bytes, self._files = name, 0, 0
        self._show()

    def progress(self, *, bytes: int, files: int) -> None:  # noqa: A002  the protocol's word
        self._bytes += bytes
        self._files += files

    def _show(self) -> None:
        if self._bar is None:
            if time.monotonic() - self._began < _QUIET_S or not sys.stderr.isatty():
                return
            self._bar = _bar()
            self._task = self._bar.add_task("", total=None)
            self._bar.start()
        assert self._task is not None
        amounts = [format_size(self._bytes)] if self._bytes else []
        amounts += [f"{self._files}"] if self._files else []
        self._bar.update(self._task, description=escape(" · ".join([self._step, *amounts])))

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _bar() -> Progress:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True, highlight=False), transient=True)


@contextmanager
def shown() -> Iterator[Work]:
    """Work whose progress is shown while the context lasts."""
    work = Work()
    try:
        yield work
    finally:
        work.close()
