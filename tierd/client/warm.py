"""A snapshot that was asked to be on flash: its path, its lease, its progress, its receipt."""

from __future__ import annotations

import atexit
import logging
import os
import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType

from tierd.client.keeping import Keeper
from tierd.client.rest import CALLER, Duration, Rest, Tie, span
from tierd.client.shapes import Lease, Receipt, Transfer, WarmAnswer
from tierd.client.waiting import OnProgress, Progress, Waiting, await_end, patiently, progress_of
from tierd.errors import Conflict, DaemonUnreachable, InvalidRequest, TierdError
from tierd.model.dataset import SnapshotRef
from tierd.model.placement import PlacementState
from tierd.model.tier import TierKind

log = logging.getLogger(__name__)

_END_PATIENCE = timedelta(seconds=5)
_MOST_ROUNDS = 20
_PART_POLL_S = 0.5
_COPIED = ("verifying", "committed", "done")


@dataclass(frozen=True, kw_only=True)
class WarmWish:
    """What is asked for. `request_key` makes every repetition mean the same lease; `restore`: an archived copy may be
    restored for it; `by`: when it must be there; `urgency`: among wishes without a time, larger first.
    """

    ref: SnapshotRef
    ttl: timedelta
    request_key: str
    holder: str | None = None
    note: str | None = None
    restore: bool = False
    first: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    by: datetime | None = None
    urgency: int = 0
    tie: Tie | None = None


@dataclass(frozen=True, kw_only=True)
class Cold:
    """The path of a snapshot that could not be warmed, and why not."""

    path: Path
    reason: str


class Warm:
    """A warm that was granted. As a context manager it gives the path, and ends the lease at the end.

    The path can be read at any time, wherever the bytes are; once `is_ready` they are on flash. The lease is renewed
    in the background until `end` or the end of the process; `keep` leaves it to its expiry.
    """

    def __init__(
        self,
        calls: Rest,
        wish: WarmWish,
        answer: WarmAnswer | None,
        *,
        cold: Cold | None = None,
        may_fall_back: bool = False,
    ) -> None:
        self._calls, self._wish, self._answer, self._cold = calls, wish, answer, cold
        self._may_fall_back = may_fall_back
        self._keeper: Keeper | None = None
        if answer is not None:
            self._keeper = Keeper(calls, answer.lease, wish.ttl, lambda: self._ask_again().lease)
            self._keeper.start()
            # A script without a `with` block still gives the lease back when it ends.
            atexit.register(self.end)

    # ------------------------------------------------------------------ what is known

    @property
    def ref(self) -> SnapshotRef:
        return self._wish.ref

    @property
    def path(self) -> Path:
        """Where the snapshot is read; it never changes. Of a part: where its files are once `is_ready`."""
        if self._cold is not None:
            return self._cold.path
        assert self._answer is not None
        return Path(self._answer.path)

    @property
    def answer(self) -> WarmAnswer | None:
        """What the daemon answered last; None when it refused."""
        return self._answer

    @property
    def reason(self) -> str:
        """Why it was granted like this, or why there is only the cold path."""
        if self._cold is not None:
            return self._cold.reason
        assert self._answer is not None
        return self._answer.reason

    @property
    def is_fallback(self) -> bool:
        """Whether the warm failed and the path leads to the cold copy; `reason` says why."""
        return self._cold is not None

    @property
    def is_ready(self) -> bool:
        """Whether the snapshot was seen wholly on flash, under this lease."""
        return self.receipt is not None

    @property
    def receipt(self) -> Receipt | None:
        """Proof that it is wholly on flash, once it is."""
        return None if self._answer is None or self.is_fallback else self._answer.receipt

    @property
    def transfer(self) -> Transfer | None:
        """The transfer that brings it, as last seen; None when nothing had to be done."""
        return None if self._answer is None else self._answer.transfer

    @property
    def lease(self) -> Lease | None:
        """The lease as last renewed; None for a fallback."""
        return None if self._keeper is None else self._keeper.lease

    @property
    def trouble(self) -> str | None:
        """Why the lease could not be renewed the last time; None while all is well."""
        return None if self._keeper is None else self._keeper.trouble

    def progress(self) -> Progress | None:
        """How far the transfer is now; None when there is none to wait for."""
        transfer = self.transfer
        if transfer is None or self.is_ready or self.is_fallback:
            return None
        return progress_of(self._calls.transfer(transfer.id))

    # ------------------------------------------------------------------ waiting

    def wait(
        self, timeout: Duration | None = None, *, on_progress: OnProgress | None = None, poll_s: float = 1.0
    ) -> Receipt | None:
        """Wait until the snapshot is wholly on flash.

        A transfer that fails an attempt is waited for further; `on_progress` is told why.

        Returns:
            The receipt; None where `fallback` was asked for and only the cold path is left.

        Raises:
            TimeoutError: it takes longer; the transfer goes on and the lease stays.
            TierdError: the transfer failed (the class of its error), or was cancelled (Interrupted).
        """
        how = Waiting(
            timeout=None if timeout is None else span(timeout),
            patience=self._calls.patience,
            on_progress=on_progress,
            poll_s=poll_s,
        )
        try:
            self._await_receipt(how)
        except TimeoutError as e:
            if not self._may_fall_back:
                raise
            self._cold = Cold(path=self.path, reason=str(e))
        except TierdError as e:
            self._fall_back(e)
        return self.receipt

    def wait_until(
        self,
        *,
        share: float | None = None,
        file: str | None = None,
        timeout: Duration | None = None,
        on_progress: OnProgress | None = None,
        poll_s: float = 1.0,
    ) -> None:
        """Wait for a part: a job may begin to set up, or to read a first file, while the rest comes.

        Args:
            share: of the bytes, 0 to 1, that must be on flash (not verified yet: `path` leads there at the end).
            file: a path within the snapshot that must be readable at `path`; at once where that leads to a cold copy
                of files meanwhile, with the whole where the copy is in a bucket. Use `first` to order what comes.

        Raises:
            As `wait`.
        """
        if share is not None and not 0 <= share <= 1:
            raise InvalidRequest(f"{share} is not a share", hint="Write a number from 0 to 1, like 0.25.")

        def is_enough(seen: Progress) -> bool:
            has_share = share is None or seen.state in _COPIED or seen.bytes_done >= share * seen.bytes_total
            return has_share and (file is None or os.path.lexists(self.path / file))

        transfer = self.transfer
        if transfer is None or self.is_ready or self.is_fallback:
            return
        how = Waiting(
            timeout=None if timeout is None else span(timeout),
            patience=self._calls.patience,
            on_progress=on_progress,
            poll_s=min(poll_s, _PART_POLL_S),
            until=is_enough,
        )
        if await_end(self._calls.transfer, transfer, how).is_finished:
            self.wait(timeout)

    def _await_receipt(self, how: Waiting) -> None:
        deadline = None if how.timeout is None else time.monotonic() + how.timeout.total_seconds()
        for _ in range(_MOST_ROUNDS):
            if self.is_ready or self.is_fallback:
                return
            transfer = self.transfer
            if transfer is not None:
                left = None if deadline is None else timedelta(seconds=max(0.0, deadline - time.monotonic()))
                await_end(self._calls.transfer, transfer, replace(how, timeout=left))
            # The answer to the same wish, asked again, carries the receipt, and gives the lease its full time.
            answer = patiently(self._ask_again, how)
            if self._keeper is not None:
                self._keeper.granted(answer.lease)
        raise Conflict(f"{self.ref} leaves flash as often as it arrives", hint=f"`tierd explain {self.ref}` says why.")

    def _ask_again(self) -> WarmAnswer:
        wish = self._wish
        self._answer = ask(self._calls, wish)
        return self._answer

    def _fall_back(self, error: TierdError) -> None:
        cold = find_cold(self._calls, self.ref, error, known=self.path) if self._may_fall_back else None
        if cold is None:
            raise error
        self._cold = cold
        self.end()

    # ------------------------------------------------------------------ the lease

    def keep(self) -> Lease | None:
        """Stop renewing and leave the lease to its expiry, whatever becomes of this process; return it."""
        atexit.unregister(self.end)
        keeper = self._keeper
        if keeper is not None:
            keeper.stop()
            if self._wish.tie == CALLER:
                try:
                    kept = self._calls.hand_over(keeper.lease.id, self._wish.ttl, holder=keeper.lease.holder)
                except TierdError as e:
                    log.warning("lease %s stays tied to this process: %s", keeper.lease.id, e)
                else:
                    keeper.granted(kept)
        return self.lease

    def end(self) -> None:
        """End the lease. Idempotent; a daemon that is away does not matter, the lease then ends at its expiry."""
        atexit.unregister(self.end)
        if self._keeper is not None:
            self._keeper.end(_END_PATIENCE)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def __repr__(self) -> str:
        state = "cold" if self.is_fallback else "ready" if self.is_ready else "on its way"
        return f"<Warm {self.ref} {state} at {self.path}>"


def ask(calls: Rest, wish: WarmWish) -> WarmAnswer:
    """Ask the daemon for what is wished; again as often as wanted (the errors of `Rest.ask_warm`)."""
    return calls.ask_warm(
        wish.ref,
        lease=wish.ttl,
        holder=wish.holder,
        request_key=wish.request_key,
        note=wish.note,
        restore=wish.restore,
        first=wish.first,
        only=wish.only,
        by=wish.by,
        urgency=wish.urgency,
        tie=wish.tie,
    )


def find_cold(calls: Rest, ref: SnapshotRef, error: TierdError, *, known: Path | None = None) -> Cold | None:
    """The path at which a snapshot can be read although the warm failed; None when no copy can be reached.

    Args:
        known: the path, if the daemon told it before: it is still good when the daemon is away now.
    """
    try:
        snapshot, tiers = calls.snapshot(ref), calls.tiers()
    except DaemonUnreachable:
        return None if known is None else Cold(path=known, reason=error.message)
    # What is in a bucket is no tree: its path leads nowhere until it is recalled.
    online = {t.name for t in tiers if t.is_online and t.kind == TierKind.POSIX}
    if not any(p.state == PlacementState.VERIFIED and p.tier in online for p in snapshot.placements):
        return None
    return Cold(path=Path(snapshot.path), reason=error.message)
