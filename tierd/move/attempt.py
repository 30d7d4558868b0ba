"""One running worker process, seen from the daemon: a thread that starts it, answers it and files its end."""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from typing import Any

from tierd.catalog import Catalog
from tierd.errors import Interrupted, TierdError
from tierd.model.tier import Tier
from tierd.model.transfer import TransferState
from tierd.move.job import Job
from tierd.move.messages import Advance, Asked, Ended, LetGo, Message, Pace, Report, Request, Wait
from tierd.move.standby import Worker, start_worker

log = logging.getLogger(__name__)

_SAVE_INTERVAL_S = 2.0
_RATE_WINDOW_S = 10.0
_LOOK_AT_LEAST, _LOOK_AT_MOST = timedelta(seconds=1), timedelta(minutes=15)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an attempt ended: in which state of the transfer, with which error; a crash has neither message nor error."""

    state: TransferState
    error: TierdError | None = None
    is_crash: bool = False


def look_again_at(now: datetime, until: datetime | None) -> datetime:
    """When to see whether what should be readable at `until` (None: nobody can say) can be read.

    The nearer that is, the sooner: who waits minutes loses seconds, who waits days loses a quarter of an hour.
    """
    left = _LOOK_AT_MOST if until is None else (until - now) / 10
    return now + min(max(left, _LOOK_AT_LEAST), _LOOK_AT_MOST)


class Attempt:
    """A worker process and the thread that attends to it.

    Args:
        on_end: called in that thread once the process is gone.
        ready: a process that was started ahead; None starts one.

    Attributes:
        transfer: as it stood at the last report.
        bytes_per_s: what the worker is told at its next report; was_slowed: whether it was less than its tiers allow.
    """

    def __init__(
        self,
        job: Job,
        catalog: Catalog,
        clock: Callable[[], datetime],
        on_end: Callable[[Attempt, Outcome], None],
        ready: Worker | None = None,
    ) -> None:
        self.job = job
        self.bytes_done = 0
        self.files_done = 0
        self.step = "starting"
        self.copied_bytes = 0
        self.copied_files = 0
        self._began_at = 0.0
        self.asked: Asked = {}
        self.transfer = job.transfer
        self.bytes_per_s = job.bytes_per_s
        self.was_slowed = False
        self._catalog = catalog
        self._clock = clock
        self._on_end = on_end
        self._ready = ready
        self._state = job.transfer.state
        self._process: subprocess.Popen[bytes] | None = None
        self._wish_to_stop = threading.Event()
        self._thread = threading.Thread(target=self._attend, name=f"transfer-{job.transfer.id}", daemon=True)
        self._samples: list[tuple[float, int]] = []
        self._saved_at = 0.0

    def start(self) -> None:
        self._began_at = time.monotonic()
        self._thread.start()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began_at

    @property
    def is_whole(self) -> bool:
        """Whether this attempt copied everything: not one that went on from another, and not one without a copy."""
        transfer = self.job.transfer
        return transfer.attempt == 1 and not transfer.bytes_done and self.copied_bytes >= transfer.bytes_total > 0

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def ask_to_stop(self) -> None:
        """At its next report the worker is told to stop and leave everything resumable."""
        self._wish_to_stop.set()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    # -- the thread -------------------------------------------------------------------------------------

    def _attend(self) -> None:
        outcome = Outcome(state=self._state, is_crash=True)
        connection: Connection[Any, Any] | None = None
        try:
            worker = self._begin()
            self._process, connection = worker.process, worker.connection
            outcome = self._serve(connection) or Outcome(state=self._state, is_crash=True)
        except (EOFError, OSError) as error:
            log.warning("transfer %s: the worker is gone: %s", self.job.transfer.id, error)
            outcome = Outcome(state=self._state, is_crash=True)
        finally:
            if connection is not None:
                connection.close()
            if self._process is not None:
                self._process.wait()
            self._on_end(self, outcome)

    def _begin(self) -> Worker:
        """A worker that has its order."""
        if self._ready is not None:
            try:
                self._ready.connection.send(self.job)
            except OSError:  # it died before it had anything to do
                self._ready.end()
            else:
                return self._ready
        worker = start_worker(self._catalog.lock_fd)
        self._process = worker.process
        worker.connection.send(self.job)
        return worker

    def _serve(self, connection: Connection[Any, Any]) -> Outcome | None:
        while True:
            message: Message = connection.recv()
            if isinstance(message, Ended):
                connection.send(None)
                self.asked = message.asked
                return Outcome(state=message.state, error=message.error)
            try:
                self._answer(message)
            except TierdError as error:
                connection.send(error)
            else:
                connection.send(Pace(bytes_per_s=self.bytes_per_s) if isinstance(message, Report) else None)

    def _answer(self, message: Request) -> None:
        transfer = self.job.transfer
        match message:
            case Advance():
                self._notice_release(message)
                if message.expected is TransferState.COPYING:
                    self._catalog.set_progress(transfer.id, self.copied_bytes, self.copied_files)
                self._catalog.advance(
                    transfer.id,
                    message.expected,
                    message.new,
                    now=self._clock(),
                    message=message.message,
                    effects=message.effects,
                )
                self._state = message.new
            case Wait():
                self._wait(message)
            case LetGo():
                self._catalog.let_go(transfer.id, now=self._clock())
            case Report():
                self._note(message)
                self._pass_on_wishes()

    def _wait(self, message: Wait) -> None:
        waiting, now = message.waiting, self._clock()
        self._catalog.wait_for_restore(
            self.job.transfer.id,
            message.expected,
            message=waiting.message,
            until=waiting.until,
            not_before=look_again_at(now, waiting.until),
            now=now,
        )
        self._state = TransferState.RESTORING

    def _notice_release(self, message: Advance) -> None:
        """A release ordered after this attempt began: the next attempt, which knows of it, ends the transfer."""
        transfer = self.job.transfer
        if message.new is TransferState.DONE and not transfer.release and self._catalog.transfer(transfer.id).release:
            raise Interrupted("stop")

    def _pass_on_wishes(self) -> None:
        if self._wish_to_stop.is_set():
            raise Interrupted("stop")
        now = self._catalog.transfer(self.job.transfer.id)
        if now.cancel_requested:
            raise Interrupted("cancel")
        if now.is_paused or self._catalog.all_paused:
            raise Interrupted("pause")
        self.transfer = now

    def _note(self, report: Report) -> None:
        at = time.monotonic()
        self.asked = report.asked
        if report.step != self.step:
            self._samples.clear()
        self.step, self.bytes_done, self.files_done = report.step, report.bytes_done, report.files_done
        self._samples.append((at, report.bytes_done))
        while at - self._samples[0][0] > _RATE_WINDOW_S:
            self._samples.pop(0)
        if report.step.startswith("copy"):
            self.copied_bytes, self.copied_files = report.bytes_done, report.files_done
            if at - self._saved_at > _SAVE_INTERVAL_S:
                self._saved_at = at
                self._catalog.set_progress(self.job.transfer.id, report.bytes_done, report.files_done)

    # -- asked by others -----------------------------------------------------------------------------------

    @property
    def ends(self) -> tuple[Tier, Tier]:
        """The tiers it reads from and writes to."""
        return self.job.source.tier, self.job.destination.tier

    def rate(self) -> float | None:
        """Bytes/s over the last seconds of this step; None until there are two samples."""
        samples = list(self._samples)
        if len(samples) < 2 or samples[-1][0] <= samples[0][0]:
            return None
        return (samples[-1][1] - samples[0][1]) / (samples[-1][0] - samples[0][0])

    def eta_s(self) -> float | None:
        """Seconds until the copy is made and verified, at the present rate."""
        rate = self.rate()
        if not rate or self.step.partition(":")[0] not in ("copy", "verify"):
            return None
        total = self.job.transfer.bytes_total
        left = max(0, total - self.bytes_done)
        if self.step.startswith("copy") and self.job.verify == "read":
            left += total
        return left / rate
