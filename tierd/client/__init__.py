"""The client for training scripts: light to import, and safe to leave alone.

    from tierd.client import Tierd

    with Tierd().warm("imagenet/v3", lease="8h") as path:
        train(path)

The block begins when the snapshot is wholly on flash. Its lease is renewed in the background, also across a restart
of the daemon, and ends with the block. What fails raises a class of `tierd.errors`.

unix, connection: one HTTP exchange · shapes: what the daemon answers · rest: the calls · waiting: for a transfer's
end · keeping: the lease · warm: the handle that a warm gives · caller: who asks.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

from tierd.client.caller import holder_of_this_process
from tierd.client.connection import DEFAULT_URL, TOKEN_VARIABLE, URL_VARIABLE
from tierd.client.rest import CALLER, Duration, Ref, Rest, Tie, parse_ref, span
from tierd.client.shapes import (
    Advice,
    Announcement,
    Dataset,
    Episode,
    Event,
    Events,
    Explanation,
    Lease,
    Overview,
    Plan,
    Ranked,
    Receipt,
    Row,
    Rows,
    Schedule,
    Snapshot,
    Span,
    Status,
    Tier,
    Transfer,
    WarmAnswer,
    Webhook,
    WebhookTest,
)
from tierd.client.waiting import OnProgress, Progress
from tierd.client.warm import Warm, WarmWish, ask, find_cold
from tierd.errors import DaemonUnreachable, NotFound, TierdError
from tierd.model.units import parse_moment

__all__ = [
    "CALLER",
    "DEFAULT_URL",
    "TOKEN_VARIABLE",
    "URL_VARIABLE",
    "Advice",
    "Announcement",
    "Dataset",
    "Episode",
    "Event",
    "Events",
    "Explanation",
    "Lease",
    "OnProgress",
    "Overview",
    "Plan",
    "Progress",
    "Ranked",
    "Receipt",
    "Row",
    "Rows",
    "Schedule",
    "Snapshot",
    "Span",
    "Status",
    "Tie",
    "Tier",
    "Tierd",
    "Transfer",
    "Warm",
    "WarmAnswer",
    "Webhook",
    "WebhookTest",
]


class Tierd(Rest):
    """The daemon. Thread-safe, and cheap: nothing is opened before a call, nothing stays open after it."""

    def warm(
        self,
        ref: Ref,
        *,
        lease: Duration = "1h",
        wait: bool = True,
        timeout: Duration | None = None,
        on_progress: OnProgress | None = None,
        fallback: bool = False,
        holder: str | None = None,
        note: str | None = None,
        request_key: str | None = None,
        restore: bool = False,
        first: Sequence[str] = (),
        only: Sequence[str] = (),
        by: datetime | str | None = None,
        urgency: int = 0,
        tie: Tie | None = CALLER,
    ) -> Warm:
        """Have a snapshot on flash and hold it there.

        Args:
            lease: how long it is held; renewed in the background while the handle lives.
            wait: return only when it is there. Otherwise the handle's `wait` does that.
            timeout: wait for so long at most.
            on_progress: told about once a second how far the copy is, and why it does not move on.
            fallback: give the path of the cold copy, with the reason, where the warm fails and one can be read.
            holder: who holds it, for people; this process by default.
            note: what for, for people.
            request_key: repetitions with one key share one lease. Leave it out where several processes warm the same
                snapshot: each needs a lease of its own, the copy is made once all the same.
            restore: have an archived copy restored first. Without it RestoreNeeded says how many hours that takes and
                what it costs, and nothing is begun.
            first: patterns of files ("index/*") that are brought from a bucket before the others.
            only: patterns of the files that are needed ("val/*", "labels.csv"; a directory stands for all in it).
                They alone come to flash, at the handle's `path` and under their own names, and stay while the snapshot
                is held. Where the whole snapshot is on flash, `path` is its own.
            by: when it must be there: a time, or text ("2h" from now, "09:00", "2026-03-01 12:00"). It is promised, or
                refused at once with the earliest time it could be.
            tie: what the lease ends with, however it ends: this process by default (over the Unix socket), another
                one or a Slurm job (`Tie(job="991")`); None: only its time.
            urgency: -5 to 5; among wishes without a time, the larger comes first.

        Raises:
            Refused: flash cannot hold it, or no copy can be reached; the message says why.
            TooLate: it cannot be there by then; nothing was begun.
            RestoreNeeded: its copy is archived, and `restore` is not set.
            TimeoutError: it takes longer than `timeout`; the copy goes on, the lease is given back.
            TierdError: the copy failed (the class of its error), or was cancelled (Interrupted).
        """
        wish = WarmWish(
            ref=parse_ref(ref),
            ttl=span(lease),
            request_key=request_key or uuid.uuid4().hex,
            holder=holder or holder_of_this_process(),
            note=note,
            restore=restore,
            first=tuple(first),
            only=tuple(only),
            by=parse_moment(by, datetime.now(UTC)) if isinstance(by, str) else by,
            urgency=urgency,
            tie=None if tie == CALLER and self.connection.address.socket is None else tie,
        )
        handle = self._ask(wish, fallback=fallback)
        if wait:
            try:
                handle.wait(timeout, on_progress=on_progress)
            except BaseException:  # also Ctrl-C: nobody is left to whom the lease is of use
                handle.end()
                raise
        return handle

    def _ask(self, wish: WarmWish, *, fallback: bool) -> Warm:
        try:
            answer = ask(self, wish)
        except (DaemonUnreachable, NotFound):  # nobody can tell a path
            raise
        except TierdError as e:
            cold = find_cold(self, wish.ref, e) if fallback else None
            if cold is None:
                raise
            return Warm(self, wish, None, cold=cold, may_fall_back=True)
        return Warm(self, wish, answer, may_fall_back=fallback)
