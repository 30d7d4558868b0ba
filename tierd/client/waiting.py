"""Waits for a transfer to end: long-polls, through restarts of the daemon and through failed attempts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, TypeVar

from tierd.client.shapes import Transfer
from tierd.errors import DaemonUnreachable, Interrupted, TierdError, by_code

_POLL_S = 30.0
_RETRY_S = 0.5
_MIN_ROUND_S = 0.05

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a transfer is.

    Attributes:
        state: a `TransferState`.
        step: what is being done, a few words.
        rate_bytes_per_s, eta_s: None while nothing can be said.
        trouble: why it does not move on right now: the error of the last attempt, a pause, a daemon that is away.
    """

    ref: str
    transfer_id: int
    state: str
    step: str
    bytes_done: int
    bytes_total: int
    files_done: int
    files_total: int
    rate_bytes_per_s: float | None
    eta_s: float | None
    trouble: str | None = None


class Poll(Protocol):
    """Asks for a transfer, and waits for its end for so many seconds at most."""

    def __call__(self, transfer_id: int, *, wait_s: float) -> Transfer: ...


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """How to wait.

    Attributes:
        timeout: for so long at most; None is without end.
        patience: how long the daemon may be away.
        on_progress: is told about every poll.
        poll_s: seconds between two polls while there is something to tell, or a part is waited for.
        until: what is there is enough for the caller, although more is to come.
    """

    timeout: timedelta | None = None
    patience: timedelta = timedelta(minutes=5)
    on_progress: OnProgress | None = None
    poll_s: float = 1.0
    until: Callable[[Progress], bool] | None = None


class Patience:
    """Allows for a daemon that is away for a while; a successful call refills it."""

    def __init__(self, patience: timedelta, deadline: float | None) -> None:
        self._patience_s, self._deadline = patience.total_seconds(), deadline
        self._away_since: float | None = None

    def answered(self) -> None:
        self._away_since = None

    def failed(self, error: DaemonUnreachable) -> None:
        """Rest a little before the next try, or give up by raising the error."""
        now = time.monotonic()
        self._away_since = self._away_since or now
        if now - self._away_since > self._patience_s or (self._deadline is not None and now >= self._deadline):
            raise error
        time.sleep(_RETRY_S)


def patiently(call: Callable[[], _T], how: Waiting) -> _T:
    """Make a call that may be repeated, again and again while the daemon is away."""
    patience = Patience(how.patience, None)
    while True:
        try:
            return call()
        except DaemonUnreachable as e:
            patience.failed(e)


def await_end(poll: Poll, transfer: Transfer, how: Waiting) -> Transfer:
    """Wait until a transfer has ended as done, or until what is there is enough (`how.until`).

    Args:
        transfer: as last seen.

    Raises:
        TimeoutError: it takes longer than allowed; it goes on nevertheless.
        DaemonUnreachable: the daemon was away for longer than `patience`.
        TierdError: the transfer failed (the class of its error), or was cancelled (Interrupted).
    """
    deadline = None if how.timeout is None else time.monotonic() + how.timeout.total_seconds()
    patience = Patience(how.patience, deadline)
    is_end_all = how.on_progress is None and how.until is None  # the daemon answers by itself at the end, not before
    interval_s = _POLL_S if is_end_all else how.poll_s
    while True:
        _tell(how, progress_of(transfer))
        if transfer.is_finished:
            return _ended(transfer)
        if how.until is not None and how.until(progress_of(transfer)):
            return transfer
        left_s = None if deadline is None else deadline - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise TimeoutError(f"{transfer.ref} is not ready in time; transfer {transfer.id} goes on")
        asked_at, wait_s = time.monotonic(), interval_s if left_s is None else min(interval_s, left_s)
        try:
            transfer = poll(transfer.id, wait_s=wait_s)
        except DaemonUnreachable as e:
            _tell(how, progress_of(transfer, trouble=f"{e.message}; trying again"))
            patience.failed(e)
            continue
        patience.answered()
        # A daemon that is stopping answers at once: never turn that into a busy loop.
        if not transfer.is_finished and (early_s := min(wait_s, _MIN_ROUND_S) - (time.monotonic() - asked_at)) > 0:
            time.sleep(early_s)


def progress_of(transfer: Transfer, *, trouble: str | None = None) -> Progress:
    """The progress that a transfer shows."""
    return Progress(
        ref=transfer.ref,
        transfer_id=transfer.id,
        state=transfer.state,
        step=transfer.step or transfer.state,
        bytes_done=transfer.bytes_done,
        bytes_total=transfer.bytes_total,
        files_done=transfer.files_done,
        files_total=transfer.files_total,
        rate_bytes_per_s=transfer.rate_bytes_per_s,
        eta_s=transfer.eta_s,
        trouble=trouble or _trouble(transfer),
    )


def _trouble(transfer: Transfer) -> str | None:
    if transfer.is_paused:
        return f"paused; `tierd resume {transfer.id}` lets it go on"
    if transfer.state != "queued" or transfer.error is None:
        return None
    again = "" if transfer.not_before is None else f", next attempt at {transfer.not_before.astimezone():%H:%M:%S}"
    return f"attempt {transfer.attempt}{again}, because of: {transfer.error}"


def _tell(how: Waiting, progress: Progress) -> None:
    if how.on_progress is not None:
        how.on_progress(progress)


def _ended(transfer: Transfer) -> Transfer:
    if transfer.state == "done":
        return transfer
    if transfer.state == "cancelled":
        hint = f"`tierd explain {transfer.ref}` shows where the snapshot is now."
        raise Interrupted(f"transfer {transfer.id} of {transfer.ref} was cancelled", hint=hint)
    cls = by_code(transfer.error_code or TierdError.code)
    raise cls(
        f"transfer {transfer.id} of {transfer.ref} failed: {transfer.error or 'no reason was recorded'}",
        hint=f"`tierd explain {transfer.ref}` shows where the snapshot is now and what happened to it.",
    )
