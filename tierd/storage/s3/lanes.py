"""Threads that talk to the store while the caller's thread reads or records, and the memory they share.

The caller's thread takes buffers, fills them and hands them over with a job; it is the one that waits, counts and
may be told to stop. What a job raises is raised in the caller's thread at its next call.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from tierd.errors import Interrupted
from tierd.storage.control import Control

_POLL_S = 0.1

Job = Callable[[], None]


class Patience:
    """What whoever waits calls: the caller's own thread may be told to stop by its control, all others by `stop`."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.stop = threading.Event()
        self._owner = threading.get_ident()

    def __call__(self) -> None:
        if threading.get_ident() == self._owner:
            self.control.checkpoint()
        elif self.stop.is_set():
            raise Interrupted("asked to stop")


class Lanes:
    """A crew of threads for one upload or download.

    Args:
        threads: jobs at the same time.
        memory: bytes of all buffers together, or up to twice as many where less than four fit into it; a larger one is
            given out when no job is left that holds another.
        on_message: called in a lane after each message and each failure.
    """

    def __init__(
        self, threads: int, memory: int, patience: Patience, on_message: Callable[[], None] = lambda: None
    ) -> None:
        self._on_message = on_message
        self._patience = patience
        self._stop = patience.stop
        self._memory = memory
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._used = 0
        self._free: dict[int, list[bytearray]] = {}
        self._open = 0
        self._failure: BaseException | None = None
        self._messages: list[object] = []
        self._threads = [threading.Thread(target=self._work, name=f"lane-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._stop.clear()  # the same patience may serve another crew

    # -- the caller's thread ---------------------------------------------------------------------------

    def buffer(self, size: int) -> bytearray:
        """A buffer of at least `size` bytes; waits for one to come back.

        Raises:
            Interrupted, and what a job raised.
        """
        size = -(-size // 4096) * 4096
        # With no job left nobody gives a buffer back: those in use are the caller's own, half filled.
        most = max(self._memory, min(4 * size, 2 * self._memory))
        self._wait(lambda: self._used + size <= most or self._open == 0)
        with self._changed:
            self._used += size
            ready = self._free.get(size)
            if ready:
                return ready.pop()
            self._free.clear()  # buffers of another size are not needed any more
        return bytearray(size)

    def run(self, job: Job) -> None:
        """Have a job done by the next free thread."""
        with self._changed:
            self._open += 1
        self._jobs.put(job)

    def drain(self) -> None:
        """Wait until every job is done."""
        self._wait(lambda: self._open == 0)

    def wait(self) -> None:
        """Wait until something happens: a job ended, a buffer came back, or a moment passed."""
        with self._changed:
            self._changed.wait(_POLL_S)
        self.look()

    def messages(self) -> list[object]:
        """What jobs have told since the last call."""
        with self._changed:
            told, self._messages = self._messages, []
        return told

    @property
    def is_idle(self) -> bool:
        """Whether no job is left."""
        return self._open == 0

    def _wait(self, is_met: Callable[[], bool]) -> None:
        self.look()
        with self._changed:
            while not is_met():
                self._changed.wait(_POLL_S)
                self._changed.release()
                try:
                    self.look()
                finally:
                    self._changed.acquire()

    def look(self) -> None:
        """Raises what a job raised, or what the caller's control says."""
        if self._failure is not None:
            raise self._failure
        self._patience()

    # -- the jobs' threads -------------------------------------------------------------------------------

    def give_back(self, buffer: bytearray) -> None:
        """A buffer is not needed any more."""
        with self._changed:
            self._used -= len(buffer)
            self._free.setdefault(len(buffer), []).append(buffer)
            self._changed.notify_all()

    def tell(self, message: object) -> None:
        """Leave a message for the caller's thread."""
        with self._changed:
            self._messages.append(message)
            self._changed.notify_all()
        self._on_message()

    def check(self) -> None:
        """Raises Interrupted when the work is given up; called by jobs in between."""
        self._patience()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                if not self._stop.is_set():
                    job()
            except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
                if self._failure is None:
                    self._failure = error
                self._stop.set()
                self._on_message()
            finally:
                with self._changed:
                    self._open -= 1
                    self._changed.notify_all()
