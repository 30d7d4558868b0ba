"""Who has files of watched trees open or mapped right now.

A process that opened its files before tierd listened, or long ago, makes no events any more and still reads: a mapped
file for weeks, after its descriptor is closed. This finds such readers in /proc, a little at each call.

Nothing here asks the file system of a file before it is known to carry a watched tree: a dead network mount would
answer never. So a descriptor's mount is read from its fdinfo first, a mapping's device from maps. Then the file's own
path leads to the tree, if it is the same file from here; or its handle does, where the process sees it elsewhere: in a
container, through a bind mount.

Not found are files that have no name in the tree any more, files below a mount that was unmounted lazily, and files on
an overlay over a tree. Of a file that is linked into several trees any one may be told.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tierd.fs.fanotify import handle_of, open_by_handle
from tierd.fs.linux import RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2
from tierd.model.dataset import SnapshotId
from tierd.model.observation import Reader
from tierd.observe import mountinfo
from tierd.observe.who import Who

_LINES_AT_ONCE = 256
_MOST_REMEMBERED = 10_000
_AT_FDCWD = -100
_CHANGED = (OSError, ValueError, LookupError)
"""What comes of processes that end while they are asked."""
_T = TypeVar("_T")

_Hit = tuple[SnapshotId, int]


@dataclass(eq=False)
class _Trees:
    """The watched trees, under the paths by which the kernel names them.

    Attributes:
        mounts: those on which trees lie, by number, as this process sees them.
        devices: of their file systems; mapped_devices: the same as `maps` writes them.
    """

    by_path: dict[bytes, SnapshotId] = field(default_factory=dict)
    mounts: dict[int, mountinfo.Mount] = field(default_factory=dict)
    devices: frozenset[bytes] = frozenset()
    mapped_devices: frozenset[bytes] = frozenset()

    @classmethod
    def look(cls, trees: Sequence[tuple[SnapshotId, bytes]]) -> _Trees:
        points = {mount.point: mount for mount in mountinfo.mounts(_read(b"/proc/self/mountinfo"))}
        parents: dict[bytes, bytes] = {}
        found = cls()
        for snapshot_id, path in trees:
            above, name = os.path.split(path.rstrip(b"/"))
            if above not in parents:
                parents[above] = os.path.realpath(above)
                found._lies_on(_upwards(parents[above], points))
            real = os.path.join(parents[above], name)
            found.by_path[real] = snapshot_id
            found._lies_on(points.get(real))
        found.devices = frozenset(mount.device for mount in found.mounts.values())
        numbers = (map(int, device.split(b":")) for device in found.devices)
        found.mapped_devices = frozenset(b"%02x:%02x" % tuple(each) for each in numbers)
        return found

    def _lies_on(self, mount: mountinfo.Mount | None) -> None:
        if mount is not None:
            self.mounts[mount.number] = mount

    def at(self, path: bytes, st: os.stat_result) -> SnapshotId | None:
        """The tree that has this very file at this path."""
        tree = _upwards(path, self.by_path)
        if tree is None:
            return None
        try:
            fd = openat2(
                _AT_FDCWD, path, os.O_PATH | os.O_NOFOLLOW, resolve=RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
            )
        except OSError:
            return None
        try:
            return tree if os.path.samestat(st, os.fstat(fd)) else None
        finally:
            os.close(fd)


@dataclass(eq=False)
class Holders:
    """Used by one thread, that of `who`.

    Attributes:
        rounds: how often all processes have been looked through.
    """

    who: Who
    rounds: int = 0
    _trees: _Trees = field(default_factory=_Trees)
    _asked_for: list[tuple[SnapshotId, bytes]] = field(default_factory=list)
    _round: Iterator[_Hit | None] | None = None
    # Only while a call lasts: mount numbers are given out anew, and an open directory keeps a mount from ending.
    _devices: dict[int, bytes] = field(default_factory=dict)
    _opened: dict[int, int] = field(default_factory=dict)
    _answers: dict[tuple[object, ...], SnapshotId | None] = field(default_factory=dict)

    def scan(self, trees: Sequence[tuple[SnapshotId, bytes]], budget_s: float) -> dict[SnapshotId, list[Reader]]:
        """Look through some processes; never raises.

        Each call goes on where the last one ended, for about `budget_s`, and ends with a round at the latest. What it
        found is told, so that everybody who holds something all the time is told once a round. tierd's own processes
        and ignored ones are not.

        Args:
            trees: snapshots and where their bytes lie now.
        """
        if not trees:
            return {}
        deadline = time.monotonic() + budget_s
        found: dict[SnapshotId, dict[Reader, None]] = {}
        try:
            if self._round is None or self._asked_for != list(trees):
                self._asked_for = list(trees)
                self._trees = _Trees.look(trees)
            if self._round is None:
                self._round = self._walk()
            while True:
                try:
                    hit = next(self._round)
                except StopIteration:
                    self.rounds += 1
                    self._round = None
                    break
                if hit is not None:
                    self._note(*hit, found)
                if time.monotonic() >= deadline:
                    break
        except _CHANGED:
            self._round = None  # no /proc, or no descriptor is left: the next call begins anew
        finally:
            self._forget()
        return {snapshot_id: list(readers) for snapshot_id, readers in found.items()}

    def _note(self, tree: SnapshotId, pid: int, found: dict[SnapshotId, dict[Reader, None]]) -> None:
        process = self.who.look(pid)
        # It lives, so "gone" means that there was no time to ask: it may be one of ours. The next round tells.
        if not (process.is_ours or process.is_ignored or process.is_gone):
            found.setdefault(tree, {})[process.reader] = None

    def _forget(self) -> None:
        while self._opened:
            os.close(self._opened.popitem()[1])
        self._devices.clear()
        self._answers.clear()

    # One round. Yields often, so that a call can end; between two calls only files of /proc stay open.

    def _walk(self) -> Iterator[_Hit | None]:
        yield None
        for pid in sorted(int(name) for name in os.listdir(b"/proc") if name.isdigit()):
            if pid == self.who.ours:
                continue
            yield None
            held: set[SnapshotId] = set()
            for search in (self._open_files, self._mapped_files):
                with contextlib.suppress(*_CHANGED):
                    for tree in search(pid):
                        if tree is None or tree in held:
                            yield None
                        else:
                            held.add(tree)
                            yield tree, pid

    def _open_files(self, pid: int) -> Iterator[SnapshotId | None]:
        with os.scandir(b"/proc/%d/fd" % pid) as entries:
            for entry in entries:
                tree = None
                with contextlib.suppress(*_CHANGED):
                    tree = self._open_file(pid, entry.name)
                yield tree

    def _open_file(self, pid: int, number: bytes) -> SnapshotId | None:
        link = b"/proc/%d/fd/%s" % (pid, number)
        path = os.readlink(link)
        if not path.startswith(b"/"):
            return None  # a socket, a pipe
        flags, mount = _fdinfo(b"/proc/%d/fdinfo/%s" % (pid, number))
        if flags & os.O_PATH or self._device(pid, mount) not in self._trees.devices:
            return None
        return self._remembered((mount, path), link)

    def _mapped_files(self, pid: int) -> Iterator[SnapshotId | None]:
        with open(b"/proc/%d/maps" % pid, "rb") as lines:  # noqa: PTH123  of every process
            for count, line in enumerate(lines):
                # address permissions offset device inode path
                fields = line.rstrip(b"\n").split(None, 5)
                if len(fields) < 6 or fields[3] not in self._trees.mapped_devices:
                    if count % _LINES_AT_ONCE == 0:
                        yield None
                    continue
                link = b"/proc/%d/map_files/%s" % (pid, _range(fields[0]))
                tree = None
                with contextlib.suppress(*_CHANGED):
                    tree = self._remembered((fields[3], fields[4], fields[5]), link)
                yield tree

    # One file, of which it is known that its file system carries a watched tree

    def _remembered(self, key: tuple[object, ...], link: bytes) -> SnapshotId | None:
        """Many processes have the same files open: each is looked at once a call."""
        if key not in self._answers:
            if len(self._answers) >= _MOST_REMEMBERED:
                self._answers.clear()
            self._answers[key] = self._whose(link)
        return self._answers[key]

    def _whose(self, link: bytes) -> SnapshotId | None:
        fd = os.open(link, os.O_PATH | os.O_CLOEXEC)
        try:
            st = os.fstat(fd)
            if not stat.S_ISREG(st.st_mode):
                return None  # looking at directories is no use
            tree = self._trees.at(os.readlink(b"/proc/self/fd/%d" % fd), st)
            _, mount = _fdinfo(b"/proc/self/fdinfo/%d" % fd)
            if tree is not None or mount in self._trees.mounts:
                return tree  # on the mount of the trees a file has no other path
            return self._by_handle(fd, st)
        finally:
            os.close(fd)

    def _by_handle(self, fd: int, st: os.stat_result) -> SnapshotId | None:
        """Find the file on the mounts of the trees, and so the path that it has there."""
        handle = handle_of(fd)
        for mount in self._trees.mounts.values():
            with contextlib.suppress(OSError):  # the handle is of another file system
                here = open_by_handle(self._directory(mount), handle)
                try:
                    path = os.readlink(b"/proc/self/fd/%d" % here)
                finally:
                    os.close(here)
                tree = self._trees.at(path, st)
                if tree is not None:
                    return tree
        return None

    def _directory(self, mount: mountinfo.Mount) -> int:
        if mount.number not in self._opened:
            self._opened[mount.number] = os.open(mount.point, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return self._opened[mount.number]

    def _device(self, pid: int, mount: int) -> bytes:
        """Of the file system that a process has at this mount; mount numbers are unique among all namespaces."""
        if mount not in self._devices:
            for each in mountinfo.mounts(_read(b"/proc/%d/mountinfo" % pid)):
                self._devices[each.number] = each.device
        return self._devices.setdefault(mount, b"")


def _upwards(path: bytes, known: Mapping[bytes, _T]) -> _T | None:
    """What is known of a path, or of the nearest directory above it."""
    while path not in known and path not in (b"/", b""):
        path = os.path.dirname(path)
    return known.get(path)


def _read(path: bytes) -> bytes:
    with open(path, "rb") as file:  # noqa: PTH123  this is asked thousands of times
        return file.read()


def _fdinfo(path: bytes) -> tuple[int, int]:
    """Flags and mount number of a descriptor, see proc_pid_fdinfo(5)."""
    values = dict(line.split(b":", 1) for line in _read(path).split(b"\n")[:4] if b":" in line)
    return int(values[b"flags"], 8), int(values[b"mnt_id"])


def _range(addresses: bytes) -> bytes:
    """A range of addresses as `map_files` writes it: without the zeros that `maps` puts before."""
    return b"%x-%x" % tuple(int(each, 16) for each in addresses.split(b"-"))
