"""Transfers: the persisted jobs that move bytes, their states and the only transitions allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import NewType

from tierd.model.dataset import SnapshotId
from tierd.model.tier import TierName

TransferId = NewType("TransferId", int)

POLICY = "policy"
"""Who asked for what nobody asked for: the planner."""


class TransferKind(StrEnum):
    MIGRATE = "migrate"
    """Down: make a verified cold copy, and release the flash copy when `release` is set."""
    RECALL = "recall"
    """Up: make a flash copy and let the path lead to it. The cold copy stays."""
    REMOVE = "remove"
    """Delete the copy on `source` (which is `destination` too) of a snapshot that its owner deleted long ago."""


class TransferState(StrEnum):
    QUEUED = "queued"
    """Waiting for a worker, for room, or for its back-off to end."""
    RESTORING = "restoring"
    """A recall waits for an archive class to make the objects readable; nothing runs meanwhile."""
    COPYING = "copying"
    """Bytes go into the destination's staging area."""
    VERIFYING = "verifying"
    """The copy is durable; it is read back from the device and the source is proven unchanged."""
    COMMITTED = "committed"
    """The copy is in place and named in the catalog. A recall now switches the path."""
    RELEASING = "releasing"
    """The path is switched to the cold copy, the flash copy proven unchanged once more, then deleted."""
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


LIVE: frozenset[TransferState] = frozenset(
    {
        TransferState.QUEUED,
        TransferState.RESTORING,
        TransferState.COPYING,
        TransferState.VERIFYING,
        TransferState.COMMITTED,
        TransferState.RELEASING,
    }
)
"""States in which a transfer owns its snapshot: at most one such transfer exists per snapshot."""

_S = TransferState
TRANSITIONS: Mapping[TransferState, frozenset[TransferState]] = MappingProxyType(
    {
        # queued → releasing: a verified, unchanged cold copy exists already, nothing is copied.
        _S.QUEUED: frozenset({_S.RESTORING, _S.COPYING, _S.RELEASING, _S.DONE, _S.FAILED, _S.CANCELLED}),
        _S.RESTORING: frozenset({_S.COPYING, _S.QUEUED, _S.FAILED, _S.CANCELLED}),
        _S.COPYING: frozenset({_S.VERIFYING, _S.QUEUED, _S.FAILED, _S.CANCELLED}),
        _S.VERIFYING: frozenset({_S.COMMITTED, _S.QUEUED, _S.FAILED, _S.CANCELLED}),
        # committed → queued: the path could not be switched (busy); the copy is kept.
        _S.COMMITTED: frozenset({_S.RELEASING, _S.DONE, _S.QUEUED, _S.FAILED, _S.CANCELLED}),
        # releasing → queued: the snapshot was in use or changed; the path leads to the flash copy again.
        _S.RELEASING: frozenset({_S.DONE, _S.QUEUED, _S.FAILED, _S.CANCELLED}),
        _S.DONE: frozenset(),
        _S.FAILED: frozenset(),
        _S.CANCELLED: frozenset(),
    }
)


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """A transfer as the catalog records it; live progress comes from the mover.

    Attributes:
        source, destination: tiers. For a migrate with `release`, the source's copy goes in the end.
        release: migrate only: release the source's copy once the cold copy is verified.
        reason: why it was proposed, as a sentence for people.
        attempt: 1 for the first.
        not_before: back-off: not claimed earlier.
        error, error_code: of the latest attempt.
        bytes_total, files_total: as scanned when queued; bytes_done, files_done: as last reported.
        first: of a recall from a bucket: patterns of the files that are brought before the others.
        only: of a recall of a part: patterns of its files; the path does not lead there. Empty: the whole.
        restore_cost: of a recall from an archive class: what it was estimated to cost, in the currency of the
            source's prices; None where nothing is restored or no price is configured.
        waits_for: while it is restoring: what it waits for, in words; expected_at: when that should be there.
        due_at: when somebody was promised that it will be there; None: nobody asked for a time.
        cancel_requested, is_paused: wishes that the mover honours at the next safe point.
    """

    id: TransferId
    key: str
    snapshot_id: SnapshotId
    kind: TransferKind
    state: TransferState
    source: TierName
    destination: TierName
    release: bool = False
    priority: int = 0
    reason: str = ""
    requested_by: str = POLICY
    attempt: int = 1
    not_before: datetime | None = None
    error: str | None = None
    error_code: str | None = None
    bytes_total: int = 0
    bytes_done: int = 0
    files_total: int = 0
    files_done: int = 0
    first: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    restore_cost: float | None = None
    waits_for: str | None = None
    expected_at: datetime | None = None
    is_paused: bool = False
    cancel_requested: bool = False
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    due_at: datetime | None = None

    @property
    def is_live(self) -> bool:
        return self.state in LIVE

    @property
    def brings_whole(self) -> bool:
        """Whether it is a recall after which the path leads to flash."""
        return self.kind is TransferKind.RECALL and not self.only


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Live progress of a transfer that a worker carries out, or that waits for something the mover knows.

    Attributes:
        bytes_done, files_done: of the present step, in this attempt.
        rate_bytes_per_s: over the last seconds; None while nothing can be said.
        eta_s: until the copy is made and verified; None while nothing can be said.
        step: what is being done or waited for, a few words.
    """

    bytes_done: int
    files_done: int
    rate_bytes_per_s: float | None = None
    eta_s: float | None = None
    step: str = ""
