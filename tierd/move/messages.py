"""What a worker sends to the daemon. In a module of their own: what is defined in a process's `__main__` has another
name in every other process.
"""

from __future__ import annotations

from dataclasses import dataclass

from tierd.errors import TierdError
from tierd.model.effect import Effect
from tierd.model.transfer import TransferState
from tierd.storage.base import Waiting


@dataclass(frozen=True, kw_only=True)
class Advance:
    expected: TransferState
    new: TransferState
    effects: tuple[Effect, ...]
    message: str


@dataclass(frozen=True)
class LetGo:
    pass


@dataclass(frozen=True, kw_only=True)
class Report:
    step: str
    bytes_done: int
    files_done: int


@dataclass(frozen=True, kw_only=True)
class Wait:
    """The source cannot be read yet; the worker ends."""

    expected: TransferState
    waiting: Waiting


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The last message. `error` is None when the transfer reached its end, or waits."""

    state: TransferState
    error: TierdError | None


Request = Advance | LetGo | Report | Wait
Message = Request | Ended
