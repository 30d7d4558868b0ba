"""The file systems that carry watches, each with a mark of its own; those that cannot have one are named."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tierd.errors import TierdError
from tierd.fs.fanotify import CHANGES, ONDIR, OPEN, Group, open_btrfs_top
from tierd.fs.walk import open_root
from tierd.observe import mountinfo
from tierd.observe.directories import Directories, Inode, Place
from tierd.observe.duty import Duty
from tierd.observe.mountinfo import Mount
from tierd.observe.tracker import Watch

_MOUNTS = Path("/proc/self/mountinfo")


@dataclass(eq=False)
class Filesystem:
    """One file system with its mark.

    Attributes:
        mount: one of its mounts. where: the path of a watch on it.
        has_spared: opens were not listened for all the time since this was last reset.
        gathered_at: when its queue was last empty.
    """

    group: Group
    mount: Mount
    where: bytes
    duty: Duty
    directories: Directories = field(default_factory=Directories)
    has_spared: bool = False
    gathered_at: float = 0.0

    def listen(self, *, is_on: bool) -> None:
        """Have opens reported, or not. A file system that is just going away is left to the next look at mounts."""
        self.has_spared |= not is_on
        with contextlib.suppress(OSError):
            anchor = self.directories.open_anchor()
            try:
                with _markable(anchor, self.mount) as fd:
                    (self.group.mark if is_on else self.group.unmark)(fd, OPEN)
            finally:
                os.close(anchor)


@contextlib.contextmanager
def _markable(anchor: int, mount: Mount) -> Iterator[int]:
    """A descriptor through which the file system of an open directory can be marked."""
    if mount.kind != b"btrfs":
        yield anchor
        return
    fd = open_btrfs_top(anchor)  # a subvolume cannot be marked
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
        self._by_device: dict[bytes, Filesystem] = {}
        self._mounts: dict[int, Mount | None] = {}
        self.refused: dict[bytes, str] = {}
        self.refused_watches: list[Watch] = []

    def all(self) -> list[Filesystem]:
        return list(self._by_device.values())

    def describe(self) -> list[str]:
        """What is seen, for people."""
        count, now = len(self._by_device), time.monotonic()
        return [
            f"opens and changes on {count} file {'system' if count == 1 else 'systems'} (fanotify)",
            *(
                f"{os.fsdecode(system.where)} is so busy that opens are listened for only "
                f"{system.duty.coverage(now):.0%} of the time; access times tell the rest, where the mount keeps them"
                for system in self.all()
                if system.duty.is_sparing
            ),
        ]

    def close(self) -> None:
        for system in self.all():
            system.group.close()
        self._by_device = {}

    def set_up(self, places: Sequence[Place], *, is_remounted: bool) -> tuple[list[Filesystem], list[Filesystem]]:
        """Mark what carries watches now, and nothing else.

        Returns:
            The file systems that were marked anew, and those that are no more.
        """
        gone: list[Filesystem] = []
        if is_remounted:
            self._mounts = {}
            gone = [system for system in self.all() if not system.group.has_mark]
        inodes = _Inodes()
        by_device: dict[bytes, tuple[Mount, list[Place]]] = {}
        for place in places:
            here = place.root or inodes.at(os.path.dirname(place.path))
            mount = None if here is None else self._mount(place.path, here[0])
            if mount is not None:
                by_device.setdefault(mount.device, (mount, []))[1].append(place)
        gone += [s for s in self.all() if s not in gone and s.mount.device not in by_device]
        for system in gone:
            del self._by_device[system.mount.device]
            system.group.close()
        refused: dict[bytes, str] = {}
        refused_watches: list[Watch] = []
        fresh: list[Filesystem] = []
        for mount, placed in by_device.values():
            known = self._by_device.get(mount.device)
            if known is None:
                where = next((place for place in placed if place.root is not None), None)
                if where is None:
                    continue  # nothing is there yet; the next look tells
                try:
                    known = _marked(where.path, mount)
                except OSError as error:
                    refused[where.path] = f"{os.fsdecode(mount.kind)}: {error.strerror}"
                    refused_watches += [place.watch for place in placed]
                    continue
                self._by_device[mount.device] = known
                fresh.append(known)
            known.directories.set_up(placed, inodes.above(placed), _anchors(placed))
        self.refused, self.refused_watches = refused, refused_watches
        return fresh, gone

    def _mount(self, path: bytes, device: int) -> Mount | None:
        """What is mounted at a path: asked once per device number, of which one file system may have several."""
        if device not in self._mounts:
            self._mounts[device] = _mount_at(path) or _mount_at(os.path.dirname(path))
        return self._mounts[device]


class _Inodes:
    """Inodes of directories, each asked for once."""

    def __init__(self) -> None:
        self._known: dict[bytes, Inode | None] = {}

    def at(self, path: bytes) -> Inode | None:
        if path not in self._known:
            try:
                st = os.stat(path, follow_symlinks=False)
                self._known[path] = st.st_dev, st.st_ino
            except OSError:
                self._known[path] = None
        return self._known[path]

    def above(self, places: Sequence[Place]) -> Iterator[tuple[Inode, Place]]:
        """The directory that holds each snapshot, and all that hold a dataset, up to the root of its file system."""
        for place in places:
            path = place.path
            while path != b"/":
                path = os.path.dirname(path)
                inode = self.at(path)
                if inode is not None:
                    yield inode, place
                if place.tally is not None:
                    break


def _marked(path: bytes, mount: Mount) -> Filesystem:
    group = Group()
    try:
        anchor = open_root(path)
        try:
            with _markable(anchor, mount) as fd:
                group.mark(fd, CHANGES | OPEN | ONDIR)
        finally:
            os.close(anchor)
    except TierdError as error:
        group.close()
        raise OSError(errno.ENOENT, error.message) from error
    except BaseException:
        group.close()
        raise
    now = time.monotonic()
    return Filesystem(group, mount, path, Duty(now), gathered_at=now)


def _anchors(places: Sequence[Place]) -> list[tuple[bytes, int]]:
    """A path on each mount (of a file system that may have several) on which something is watched."""
    found: dict[int | None, tuple[bytes, int]] = {}
    looked: set[tuple[bytes, int]] = set()
    for place in places:
        if place.root is None:
            continue
        # The trees of a dataset lie beside each other: one of them stands for all on the same device.
        beside = os.path.dirname(place.path), place.root[0]
        if beside not in looked:
            looked.add(beside)
            found.setdefault(_mount_number(place.path), (place.path, place.root[0]))
    return list(found.values())


def _mount_number(path: bytes) -> int | None:
    try:
        fd = open_root(path)
    except (OSError, TierdError):
        return None
    try:
        info = Path(f"/proc/self/fdinfo/{fd}").read_text()
    finally:
        os.close(fd)
    return next((int(line.split()[1]) for line in info.splitlines() if line.startswith("mnt_id:")), None)


def _mount_at(path: bytes) -> Mount | None:
    number = _mount_number(path)
    mounts = mountinfo.mounts(_MOUNTS.read_bytes()) if number is not None else []
    return next((mount for mount in mounts if mount.number == number), None)
