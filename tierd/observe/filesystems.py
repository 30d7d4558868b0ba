"""The file systems that carry watches, each with a mark of its own; those that cannot have one are named."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tierd.errors import TierdError
from tierd.fs.fanotify import CHANGES, ONDIR, OPEN, Group
from tierd.fs.linux import open_btrfs_top
from tierd.fs.walk import open_root
from tierd.observe.directories import Directories, Inode, Tree
from tierd.observe.duty import Duty
from tierd.observe.tracker import Watch

_MOUNTS = Path("/proc/self/mountinfo")
_CANNOT = {errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL, errno.EXDEV, errno.ENOSYS}
Placed = tuple[Watch, Inode | None, Inode | None]
"""A watch, the inode at its path (None: nothing is there), and that of the directory above."""


@dataclass(frozen=True)
class Mount:
    """A line of mountinfo, see proc_pid_mountinfo(5). `device`: of the file system, the same for all its mounts."""

    device: str
    kind: str = field(compare=False)
    source: str = field(compare=False)


@dataclass(eq=False)
class Filesystem:
    """One file system with its mark.

    Attributes:
        where: the path of a watch on it.
        has_spared: opens were not listened for all the time since this was last reset.
    """

    group: Group
    mount: Mount
    where: bytes
    duty: Duty
    directories: Directories = field(default_factory=Directories)
    has_spared: bool = False

    def listen(self, *, is_on: bool) -> None:
        """Have opens reported, or not. A file system that is just going away is left to the next look at mounts."""
        self.has_spared |= not is_on
        for path in self.directories.anchors:
            with contextlib.suppress(OSError, TierdError), _markable(path, self.mount) as fd:
                (self.group.mark if is_on else self.group.unmark)(fd, OPEN)
                return


@contextlib.contextmanager
def _markable(path: bytes, mount: Mount) -> Iterator[int]:
    """A descriptor through which the file system at `path` can be marked."""
    fd = open_btrfs_top(mount.source) if mount.kind == "btrfs" else open_root(path)
    try:
        yield fd
    finally:
        os.close(fd)


class Filesystems:
    """All of them. Changed by one thread; `all` may be called by others.

    Attributes:
        refused: paths on file systems without fanotify, and why; `refused_watches`: the watches there.
    """

    def __init__(self) -> None:
        self._by_device: dict[str, Filesystem] = {}
        self._mounts: dict[int, Mount | None] = {}
        self.refused: dict[bytes, str] = {}
        self.refused_watches: list[Watch] = []

    def all(self) -> list[Filesystem]:
        return list(self._by_device.values())

    def close(self) -> None:
        for system in self.all():
            system.group.close()
        self._by_device = {}

    def place(
        self, found: Sequence[Placed], trees: Mapping[Watch, Tree], *, is_remounted: bool
    ) -> tuple[list[Filesystem], list[Filesystem]]:
        """Mark what carries watches now, and nothing else.

        Returns:
            The file systems that were marked anew, and those that are no more.
        """
        gone: list[Filesystem] = []
        if is_remounted:
            self._mounts = {}
            gone = [system for system in self.all() if not system.group.has_mark]
        by_mount: dict[Mount, list[Placed]] = {}
        for watch, inode, above in found:
            here = inode or above
            mount = None if here is None else self._mount(watch, here)
            if mount is not None:
                by_mount.setdefault(mount, []).append((watch, inode, above))
        gone += [s for s in self.all() if s not in gone and s.mount not in by_mount]
        for system in gone:
            del self._by_device[system.mount.device]
            system.group.close()
        refused: dict[bytes, str] = {}
        refused_watches: list[Watch] = []
        fresh: list[Filesystem] = []
        for mount, placed in by_mount.items():
            known = self._by_device.get(mount.device)
            where = next((os.fsencode(w.path) for w, inode, _ in placed if inode is not None), None)
            if known is None:
                if where is None:
                    continue  # nothing is there yet; the next look tells
                try:
                    known = self._mark(where, mount)
                except OSError as error:
                    refused[where] = f"{mount.kind}: {error.strerror}"
                    refused_watches += [w for w, _, _ in placed]
                    continue
                self._by_device[mount.device] = known
                fresh.append(known)
            _fill(known.directories, placed, trees)
        self.refused, self.refused_watches = refused, refused_watches
        return fresh, gone

    def _mount(self, watch: Watch, inode: Inode) -> Mount | None:
        """What is mounted where this inode is: asked once per device number, as several subvolumes have several."""
        device = inode[0]
        if device not in self._mounts:
            path = os.fsencode(watch.path)
            self._mounts[device] = _mount_at(path) or _mount_at(os.path.dirname(path))
        return self._mounts[device]

    def _mark(self, where: bytes, mount: Mount) -> Filesystem:
        group = Group()
        try:
            try:
                with _markable(where, mount) as fd:
                    group.mark(fd, CHANGES | OPEN | ONDIR)
            except TierdError as error:
                raise OSError(errno.ENODEV, error.message) from error
        except BaseException:
            group.close()
            raise
        return Filesystem(group, mount, where, Duty(time.monotonic()))


def _fill(directories: Directories, placed: Sequence[Placed], trees: Mapping[Watch, Tree]) -> None:
    tops: list[tuple[Inode, str]] = []
    at: list[tuple[Tree, Inode | None]] = []
    anchors: dict[str, bytes] = {}
    looked: set[bytes] = set()
    for watch, inode, above in placed:
        tree = trees.get(watch)
        path = os.fsencode(watch.path)
        if tree is None:
            tops += [(inode, watch.dataset)] if inode is not None else [(above, watch.dataset)] if above else []
        else:
            tree.root = inode
            at.append((tree, above))
            path = os.path.dirname(path)
        if path not in looked and inode is not None:
            looked.add(path)
            anchors.setdefault(_mount_id(path) or "", path)
    directories.anchors = list(anchors.values())
    directories.place(at, tops)


def _mount_id(path: bytes) -> str | None:
    try:
        fd = open_root(path)
    except (OSError, TierdError):
        return None
    try:
        info = Path(f"/proc/self/fdinfo/{fd}").read_text()
    finally:
        os.close(fd)
    return next((line.split()[1] for line in info.splitlines() if line.startswith("mnt_id:")), None)


def _mount_at(path: bytes) -> Mount | None:
    number = _mount_id(path)
    if number is None:
        return None
    with _MOUNTS.open(errors="surrogateescape") as file:
        for line in file:
            fields = line.split(" ")
            if fields[0] == number:
                kind, source = fields[fields.index("-") + 1 :][:2]
                return Mount(device=fields[2], kind=kind, source=source)
    return None
