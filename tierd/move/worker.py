"""The worker process: carries out one transfer, talking to the daemon over one inherited socket.

Started as `python -m tierd.move.worker FD [KIND…]`, maybe before there is an order (`Standby`): it loads the drivers
of these kinds of tiers. It receives one Job, then sends requests and waits for each answer, so that the daemon has
committed every state change before the worker goes on. When the daemon dies the socket closes and the kernel kills
the worker (PR_SET_PDEATHSIG); the transfer goes on after the next start.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from typing import Any

from tierd.config import MoverConfig
from tierd.errors import Held, Interrupted, TierdError
from tierd.fs.linux import die_with_parent, set_io_class
from tierd.fs.walk import translate
from tierd.model.effect import Effect
from tierd.model.tier import TierKind
from tierd.model.transfer import TransferState
from tierd.move.job import Job
from tierd.move.messages import Advance, Asked, Ended, LetGo, Message, Pace, Report, Wait
from tierd.move.steps import Carrier
from tierd.move.switch import load_driver
from tierd.storage.base import Waiting

_COLLECT_AFTER = (20_000, 20, 20)
"""New objects before the collector of cycles looks at the young, the older, all: rows of manifests are no cycles."""


class DaemonGone(BaseException):
    """The daemon closed the socket: stop at once, leave everything as it is."""


class RemoteDesk:
    """The daemon's desk at the other end of the socket."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        self.asked: Callable[[], Asked] = dict

    def _ask(self, message: Message) -> Pace | None:
        try:
            self._connection.send(message)
            answer: TierdError | Pace | None = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise DaemonGone from error
        if isinstance(answer, TierdError):
            raise answer
        return answer

    def advance(
        self,
        expected: TransferState,
        new: TransferState,
        *,
        effects: tuple[Effect, ...] = (),
        message: str = "",
    ) -> None:
        self._ask(Advance(expected=expected, new=new, effects=effects, message=message))

    def wait(self, expected: TransferState, waiting: Waiting) -> None:
        self._ask(Wait(expected=expected, waiting=waiting))

    def let_go(self) -> None:
        self._ask(LetGo())

    def report(self, step: str, *, bytes_done: int, files_done: int) -> int | None:
        pace = self._ask(Report(step=step, bytes_done=bytes_done, files_done=files_done, asked=self.asked()))
        return None if pace is None else pace.bytes_per_s

    def end(self, state: TransferState, error: TierdError | None) -> None:
        self._ask(Ended(state=state, error=error, asked=self.asked()))


def lower_priority(settings: MoverConfig) -> None:
    """Training comes first: be nice with the processor and the disks."""
    os.nice(settings.nice)
    set_io_class(settings.io_class)


def carry(job: Job, desk: RemoteDesk) -> None:
    """Run one attempt and tell the desk how it ended."""
    carrier = Carrier(job, desk, lambda: datetime.now(UTC))
    desk.asked = carrier.asked
    error: TierdError | None = None
    try:
        carrier.run()
    except TierdError as failure:
        error = failure
    except OSError as failure:
        error = translate(failure, f"{job.snapshot.ref}: {os.fsdecode(failure.filename or '')}")
    if error is not None and _is_last_word(job, error):
        carrier.undo()
    desk.end(carrier.state, error)


def _is_last_word(job: Job, error: TierdError) -> bool:
    """Whether the transfer ends with this error, so that an unfinished copy is of no use to anybody."""
    if isinstance(error, Interrupted):
        return error.message == "cancel"
    return error.is_permanent or isinstance(error, Held) or job.transfer.attempt >= job.settings.max_attempts


def preload(kinds: Iterable[str]) -> None:
    """Load what transfers with such tiers need, so that none has to wait for it."""
    for kind in kinds:
        load_driver(TierKind(kind))
    gc.collect()
    gc.freeze()  # what was loaded stays: the collector need not look through it again and again
    gc.set_threshold(*_COLLECT_AFTER)


def main() -> None:
    die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at a terminal: the daemon decides what stops, and when
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    preload(sys.argv[2:])
    try:
        job = connection.recv()
    except (EOFError, ConnectionError):  # never had an order
        return
    os.umask(0)
    lower_priority(job.settings)
    try:
        carry(job, RemoteDesk(connection))
    except DaemonGone:
        os._exit(1)


if __name__ == "__main__":
    main()
