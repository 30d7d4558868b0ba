"""Ends leases with what they are tied to, and lets them go on while that lives.

A process is watched through a pidfd: its end is seen at the next look, however soon its number is given out again. One
that was there before this daemon started is the same only if it began at the same moment of the same boot. Jobs are
asked for in a thread of its own, because a batch system may take its time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime, timedelta

from tierd.catalog import Catalog
from tierd.daemon.slurm import Jobs
from tierd.fs.process import began, boot_id
from tierd.model.hold import Hold, HoldId, Tie

log = logging.getLogger(__name__)

_Process = tuple[int, int]
"""Its number, and the moment at which it began, in clock ticks after the boot."""


def tie_to(pid: int) -> Tie | None:
    """A tie to a process of this machine; None where it does not live."""
    started = began(pid)
    return None if started is None else Tie(pid=pid, pid_started=started, boot_id=boot_id())


class Living:
    """Looks after all tied leases. Used by one thread, the control loop.

    Args:
        jobs: tells which jobs are over.
    """

    def __init__(self, catalog: Catalog, clock: Callable[[], datetime], jobs: Jobs | None = None) -> None:
        self._catalog, self._clock = catalog, clock
        self._jobs = jobs or Jobs()
        self._boot_id = boot_id()
        self._watched: dict[_Process, int] = {}

    def look(self) -> None:
        """End what is over, and let the others go on. Cheap where nothing happened."""
        now = self._clock()
        by_process: defaultdict[_Process, list[Hold]] = defaultdict(list)
        by_job: defaultdict[str, list[Hold]] = defaultdict(list)
        for h in self._catalog.tied_leases():
            tie = h.tie
            if tie is None:
                continue
            if tie.job is not None:
                by_job[tie.job].append(h)
            elif tie.pid is not None and tie.pid_started is not None:
                is_here = tie.boot_id == self._boot_id
                by_process[(tie.pid, tie.pid_started) if is_here else (0, 0)].append(h)
        self._end(by_process.pop((0, 0), []), now, "the machine was booted since")
        gone = self._look_at(set(by_process))
        for process, leases in by_process.items():
            if process in gone:
                self._end(leases, now, f"process {process[0]} ended")
            else:
                self._extend(leases, now)
        states = self._jobs.states(set(by_job))
        for job, leases in by_job.items():
            is_alive = states.get(job)
            if is_alive:
                self._extend(leases, now)
            elif is_alive is not None:
                self._end(leases, now, f"job {job} is over")

    def _look_at(self, wanted: set[_Process]) -> set[_Process]:
        """Those of these processes that ended."""
        for process in self._watched.keys() - wanted:
            os.close(self._watched.pop(process))
        gone = {process for process in wanted - self._watched.keys() if not self._watch(process)}
        poll = select.poll()
        by_fd = {fd: process for process, fd in self._watched.items()}
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        for fd, _ in poll.poll(0) if by_fd else ():
            process = by_fd[fd]
            gone.add(process)
            os.close(self._watched.pop(process))
        return gone

    def _watch(self, process: _Process) -> bool:
        """Begin to watch a process; False where it is surely not there any more."""
        pid, started = process
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        except OSError as error:  # too many descriptors: nothing is known, so nothing ends
            log.warning("process %s cannot be watched now: %s", pid, error.strerror)
            return True
        # After the pidfd: what began then is what the pidfd is of, or it has ended, which the pidfd tells.
        try:
            is_same = began(pid) == started
        except OSError as error:
            log.warning("process %s cannot be watched now: %s", pid, error.strerror)
            os.close(fd)
            return True
        if not is_same:
            os.close(fd)
            return False
        self._watched[process] = fd
        return True

    def _end(self, leases: list[Hold], now: datetime, message: str) -> None:
        if leases:
            self._catalog.end_tied(leases, now, message)

    def _extend(self, leases: list[Hold], now: datetime) -> None:
        due = [h for h in leases if h.expires_at is not None and _is_half_over(h, now)]
        if due:
            self._catalog.extend_tied(_ids(due), now)

    def stop(self) -> None:
        self._jobs.stop()
        while self._watched:
            with contextlib.suppress(OSError):
                os.close(self._watched.popitem()[1])


def _ids(leases: list[Hold]) -> list[HoldId]:
    return [h.id for h in leases]


def _is_half_over(h: Hold, now: datetime) -> bool:
    if h.expires_at is None or h.renewed_at is None:
        return False
    return h.expires_at - now < max((h.expires_at - h.renewed_at) / 2, timedelta(0))
