"""Ends a piece of work in the middle, as a kill does: in a child process, which ends without any cleaning up."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

FILE_SYSTEM = ("open", "os.", "shutil.", "sqlite3.")
_DEAD, _FAILED = 9, 1


def dies_before(step: int, work: Callable[[], object], at: tuple[str, ...] = FILE_SYSTEM) -> bool:
    """Do `work`, but die before its `step`th touch (from 1) of the file system. False when it came to its end first.

    Args:
        at: how the audit events that count begin.
    """
    child = os.fork()
    if child == 0:
        _die_in(step, work, at)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, _DEAD), f"it failed before its step {step}: {code}"
    return code == _DEAD


def _die_in(step: int, work: Callable[[], object], at: tuple[str, ...]) -> None:
    left = step

    def look(event: str, _: tuple[object, ...]) -> None:
        nonlocal left
        if event.startswith(at):
            left -= 1
            if left <= 0:
                os._exit(_DEAD)

    try:
        sys.addaudithook(look)
        work()
        os._exit(0)
    finally:  # whatever it raised: this child must not go on as a second test run
        left = sys.maxsize
        traceback.print_exc()
        os._exit(_FAILED)
