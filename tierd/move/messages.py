"""What a worker sends to the daemon. In a module of their own: what is defined in a process's `__main__` has another
name in every other process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tierd.errors import TierdError
from tierd.model.effect import Effect
from tierd.model.s3 import Counts
from tierd.model.tier import TierName
from tierd.model.transfer import TransferState
from tierd.storage.base import Waiting

Asked = Mapping[TierName, Mapping[str, Counts]]
"""Requests made of each store in this attempt so far, by operation."""


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
    asked: Asked = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """The answer to a report: bytes/s that the transfer may move from now on; None is no limit."""

    bytes_per_s: int | None


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
    asked: Asked = field(default_factory=dict)


Request = Advance | LetGo | Report | Wait
Message = Request | Ended
