"""The kernel's inotify queue, through the watchdog library's bindings.

The library's observers are not used: they keep one thread per watched tree and every event in unbounded queues,
walk trees by path (a directory swapped for a link leads them out of the tree), and hide it when a directory inside
could not be watched. Here one descriptor serves all trees, and a directory is watched through its open descriptor.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
from functools import reduce
from operator import or_
from pathlib import Path

from watchdog.observers.inotify_c import InotifyConstants as In
from watchdog.observers.inotify_c import WatchDescriptor, inotify_add_watch, inotify_init, inotify_rm_watch

READS = In.IN_OPEN | In.IN_CLOSE_NOWRITE
CONTENT = In.IN_MODIFY | In.IN_CLOSE_WRITE
NAMES = In.IN_CREATE | In.IN_DELETE | In.IN_MOVED_FROM | In.IN_MOVED_TO
CHANGES = CONTENT | NAMES | In.IN_ATTRIB
ROOT_LEFT = In.IN_DELETE_SELF | In.IN_MOVE_SELF | In.IN_UNMOUNT
ARRIVALS = In.IN_CREATE | In.IN_MOVED_TO
MASK: int = reduce(or_, (READS, CHANGES, In.IN_DELETE_SELF, In.IN_MOVE_SELF, In.IN_ONLYDIR, In.IN_EXCL_UNLINK))

_HEAD = struct.Struct("=iIII")
_BUFFER_BYTES = 256 * 1024
_SYSCTLS = Path("/proc/sys")
_WATCH_LIMITS = ("fs.inotify.max_user_watches", "user.max_inotify_watches")

Event = tuple[int, int, bytes]
"""Watch descriptor, mask, name (empty for the directory itself)."""


def sysctl(name: str) -> int | None:
    """One of the kernel's limits (`fs.inotify.max_queued_events` …), None where it cannot be read."""
    try:
        return int((_SYSCTLS / name.replace(".", "/")).read_text())
    except (OSError, ValueError):
        return None


def watch_limit() -> tuple[str, int | None]:
    """The sysctl that limits the watches of this user, and its value: in a container it may be the namespace's own."""
    values = [(value, name) for name in _WATCH_LIMITS if (value := sysctl(name)) is not None]
    value, name = min(values, key=lambda v: v[0], default=(None, _WATCH_LIMITS[0]))
    return name, value


class InotifyQueue:
    """One inotify instance: watches go in, events come out in the order in which they happened.

    Raises:
        OSError: EMFILE when the user has too many instances, ENOSPC when too many watches; ENOSYS without inotify.
    """

    def __init__(self) -> None:
        self._fd = inotify_init()
        if self._fd < 0:
            _fail()
        os.set_inheritable(self._fd, False)
        os.set_blocking(self._fd, False)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._anonymous = os.memfd_create("tierd-barrier", os.MFD_CLOEXEC)
        try:
            # A watch kept for the next mark, so that marks work at the limit of watches too.
            self._spare: int | None = self._add(self._anonymous, In.IN_MODIFY)
        except OSError:
            self.close()
            raise
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)

    def add(self, directory_fd: int) -> int:
        """Watch an open directory; the same directory gives the same descriptor.

        Raises:
            OSError: ENOSPC at the limit of watches.
        """
        return self._add(directory_fd, MASK)

    def remove(self, wd: int) -> None:
        """Stop watching; a watch that the kernel dropped already is fine."""
        inotify_rm_watch(self._fd, WatchDescriptor(wd))

    def mark(self) -> int:
        """Put a mark at the end of the queue: an event with IN_IGNORED and the descriptor returned here.

        Raises:
            OSError: ENOSPC at the limit of watches.
        """
        wd = self._spare if self._spare is not None else self._add(self._anonymous, In.IN_MODIFY)
        self.remove(wd)  # the kernel confirms each removal by an event, in order with all others
        try:
            self._spare = self._add(self._anonymous, In.IN_MODIFY)
        except OSError:  # somebody else took the watch that became free
            self._spare = None
        return wd

    def read(self, timeout_s: float | None) -> list[Event]:
        """Wait for events; an empty list after `wake` or when the time is up."""
        self._poll.poll(None if timeout_s is None else timeout_s * 1000)
        try:
            buffer = os.read(self._fd, _BUFFER_BYTES)
        except BlockingIOError:
            return []
        return _parse(buffer)

    def wake(self) -> None:
        """Make a `read` that waits return, now and from now on."""
        os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        for fd in (self._fd, self._wake, self._anonymous):
            os.close(fd)

    def _add(self, fd: int, mask: int) -> int:
        wd = inotify_add_watch(self._fd, b"/proc/self/fd/%d" % fd, mask)
        if wd < 0:
            _fail()
        return wd


def _fail() -> None:
    number = ctypes.get_errno() or errno.EIO
    raise OSError(number, os.strerror(number))


def _parse(buffer: bytes) -> list[Event]:
    events: list[Event] = []
    at, end, unpack, head = 0, len(buffer), _HEAD.unpack_from, _HEAD.size
    while at < end:
        wd, mask, _, length = unpack(buffer, at)
        at += head
        events.append((wd, mask, buffer[at : at + length].rstrip(b"\0") if length else b""))
        at += length
    return events
