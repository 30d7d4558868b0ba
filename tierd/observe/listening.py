"""Take events out of the queues of file systems, and decide whether opens are listened for; see `duty`.

Used by the tracker's thread alone. Nothing here looks at what the events mean.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tierd.fs.fanotify import OPEN, Event
from tierd.observe.duty import CONFIRM_S, PROBE_S, WINDOW_S
from tierd.observe.filesystems import Filesystem


@dataclass(frozen=True)
class Listener:
    """`wake`: a descriptor that can be read when the thread is wanted elsewhere; rests end then."""

    wake: int

    def attend(self, system: Filesystem) -> list[Event]:
        """What is in a file system's queue; opens are listened for from now on, or not.

        While opens are many they are not listened for when events are worked on: that takes its time.
        """
        events = _gather(system)
        if not system.duty.is_sparing:
            events += self._watch_rate(system, _opens(events))
        elif time.monotonic() >= system.duty.window_due:
            events += self._open_window(system)
        system.gathered_at = time.monotonic()
        return events

    def _watch_rate(self, system: Filesystem, opens: int) -> list[Event]:
        """While it is listened all the time: are there too many opens for that?"""
        duty, now = system.duty, time.monotonic()
        duty.gathered(now, opens, now - system.gathered_at)
        events = _probe(system) if opens and duty.wants_probe(now) else []
        if duty.is_suspicious:  # in the time of a rest the queue may overflow
            ready([self.wake], timeout_s=CONFIRM_S)
            events += _gather(system) + _probe(system)
        if duty.is_sparing:
            system.listen(is_on=False)
            events += _gather(system)
        return events

    def _open_window(self, system: Filesystem) -> list[Event]:
        """Listen for a moment; what comes is only gathered."""
        duty = system.duty
        system.listen(is_on=True)
        if duty.wants_probe(time.monotonic()):
            events = _probe(system)
        else:
            began = time.monotonic()
            ready([self.wake], timeout_s=WINDOW_S)
            duty.windowed(time.monotonic(), time.monotonic() - began)
            events = []
        if duty.is_sparing:
            system.listen(is_on=False)
        return events + _gather(system)


def _probe(system: Filesystem) -> list[Event]:
    """Count opens at the rate at which they are made; see `duty`."""
    began = now = time.monotonic()
    events: list[Event] = []
    while (left := began + PROBE_S - now) > 0:
        some = system.group.read()
        events += some
        if not some:
            ready([system.group.fd], timeout_s=left)
        now = time.monotonic()
    system.duty.probed(now, _opens(events), now - began)
    return events


def _gather(system: Filesystem) -> list[Event]:
    """Everything that is in the queue."""
    events: list[Event] = []
    while some := system.group.read():
        events += some
    return events


def _opens(events: Sequence[Event]) -> int:
    """How many are opens by others, of files or directories: reporting either costs the same, and fills the queue."""
    own = os.getpid()
    return sum(1 for mask, pid, _ in events if mask & OPEN and pid != own)


def ready(fds: Sequence[int], *, timeout_s: float, mounts: int | None = None) -> set[int]:
    """Which descriptors can be read; `mounts`, always readable, is ready when the mount table has changed."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    if mounts is not None:
        poll.register(mounts, select.POLLPRI)
    return {fd for fd, _ in poll.poll(timeout_s * 1000)}
