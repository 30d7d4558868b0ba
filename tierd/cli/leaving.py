"""Leaving in an orderly way when asked to."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

BY_SIGNAL = 128
"""Added to a signal's number, this is the exit code of what it ended."""


@contextmanager
def ends_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the command like Ctrl-C does, so that what it holds is given back."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(BY_SIGNAL + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
