"""Shows how far a transfer is, on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tierd.cli.terminal import escape, say
from tierd.model.units import format_duration, format_rate, format_size

if TYPE_CHECKING:
    from tierd.client import OnProgress, Progress

_EVERY_S = 10.0
POLL_S = 0.5
"""Seconds between two looks: often enough for a bar that moves."""


@contextmanager
def shown(*, is_quiet: bool = False) -> Iterator[OnProgress]:
    """A place to tell progress to, of one transfer or of several, while the context lasts."""
    if is_quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        with _bars() as tell:
            yield tell
    else:
        yield Lines()


class Lines:
    """Progress as lines of text: at each new step or trouble, and every ten seconds."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[str, str | None]] = {}
        self._next_at: dict[int, float] = {}

    def __call__(self, progress: Progress) -> None:
        number, what, now = progress.transfer_id, (progress.step, progress.trouble), time.monotonic()
        if what == self._last.get(number) and now < self._next_at[number]:
            return
        self._last[number], self._next_at[number] = what, now + _EVERY_S
        say(f"{progress.ref}: {describe(progress)}")


def describe(progress: Progress) -> str:
    """Progress in words: the step, bytes, rate, time left, and what keeps it from going on."""
    parts = [progress.step]
    if progress.bytes_total:
        share = min(1.0, progress.bytes_done / progress.bytes_total)
        done, total = format_size(progress.bytes_done), format_size(progress.bytes_total)
        parts.append(f"{share:.0%}, {done} of {total}")
    parts.append(pace(progress))
    if progress.trouble:
        parts.append(progress.trouble)
    return ", ".join(part for part in parts if part)


def pace(progress: Progress) -> str:
    """Rate and time left, as far as they are known."""
    rate = "" if progress.rate_bytes_per_s is None else format_rate(progress.rate_bytes_per_s)
    left = "" if progress.eta_s is None else f"{format_duration(max(1, round(progress.eta_s)))} left"
    return ", ".join(part for part in (rate, left) if part)


@contextmanager
def _bars() -> Iterator[OnProgress]:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True, highlight=False)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[words]}", markup=False),
    )
    tasks: dict[int, TaskID] = {}
    with Bars(*columns, console=console, transient=True) as bars:

        def tell(progress: Progress) -> None:
            if progress.transfer_id not in tasks:
                tasks[progress.transfer_id] = bars.add_task(escape(progress.ref), total=None, words="")
            amount = f"{format_size(progress.bytes_done)} of {format_size(progress.bytes_total)}"
            words = [progress.step, amount if progress.bytes_total else "", pace(progress), progress.trouble or ""]
            bars.update(
                tasks[progress.transfer_id],
                total=progress.bytes_total or None,
                completed=progress.bytes_done,
                words=escape(" · ".join(word for word in words if word)),
            )

        yield tell
