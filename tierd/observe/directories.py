"""Whose is the directory that an event names? Its handle leads to the snapshot that it lies in.

A directory is looked up once, by going up from it until a snapshot's root is met: through inodes and not through
names, so that neither bind mounts nor containers nor a rename on the way matter. What was found is remembered until a
directory moves between owners.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tierd.errors import TierdError
from tierd.fs.fanotify import handle_of, open_by_handle
from tierd.fs.walk import open_root
from tierd.observe.ledger import Tally
from tierd.observe.tracker import Watch

Inode = tuple[int, int]
_MOST = 100_000
"""Directories remembered, some 200 bytes each."""
_DEEPEST = 512
_UP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(eq=False)
class Place:
    """A watched path, and what lies there.

    Attributes:
        tally: of the snapshot; None for the top level of a dataset.
        root: the inode of the directory at the path; None while there is none.
        handle: of that directory, which tells it from a later one with the same inode.
    """

    watch: Watch
    tally: Tally | None = None
    root: Inode | None = None
    handle: bytes | None = None

    @property
    def path(self) -> bytes:
        return os.fsencode(self.watch.path)

    def look(self) -> bool:
        """See what lies there now; returns whether it is another directory than before, or none."""
        before, self.root, self.handle = self.root, None, None
        with contextlib.suppress(OSError, TierdError):
            fd = open_root(self.path)
            try:
                st = os.fstat(fd)
                self.root = st.st_dev, st.st_ino
                self.handle = handle_of(fd)
            finally:
                os.close(fd)
        return self.root != before


@dataclass(eq=False)
class Owner:
    """What a directory means: the snapshot it lies in, datasets whose top level it is, and places that a change of
    names in it may concern: snapshots right below it, datasets anywhere below."""

    place: Place | None = None
    datasets: frozenset[str] = frozenset()
    below: tuple[Place, ...] = ()

    @property
    def is_somebodys(self) -> bool:
        return self.place is not None or bool(self.datasets) or bool(self.below)


NOBODY = Owner()


@dataclass(eq=False)
class Directories:
    """The directories of one file system. Used by one thread."""

    _anchors: list[tuple[bytes, int]] = field(default_factory=list)
    _roots: dict[Inode, Place] = field(default_factory=dict)
    _tops: dict[Inode, set[str]] = field(default_factory=dict)
    _above: dict[Inode, list[Place]] = field(default_factory=dict)
    _known: dict[bytes, Owner] = field(default_factory=dict)
    _mounts: list[int] = field(default_factory=list)

    @property
    def places(self) -> list[Place]:
        return list(self._roots.values())

    @property
    def datasets(self) -> set[str]:
        return {name for names in self._tops.values() for name in names}

    def set_up(
        self, places: Iterable[Place], above: Iterable[tuple[Inode, Place]], anchors: Iterable[tuple[bytes, int]]
    ) -> None:
        """Set what is watched.

        Args:
            above: directories in which a change of names may concern a place.
            anchors: paths with the device numbers found there, one of each mount of this file system.
        """
        self._roots, self._tops, self._above = {}, {}, {}
        for place in places:
            if place.root is not None and place.tally is not None:
                self._roots[place.root] = place
            elif place.root is not None:
                self._tops.setdefault(place.root, set()).add(place.watch.dataset)
        for inode, place in above:
            self._above.setdefault(inode, []).append(place)
        self._anchors = list(anchors)
        self._known.clear()

    def known(self, handle: bytes) -> Owner | None:
        """Whose directory this is; None: it has to be looked up."""
        return self._known.get(handle)

    def look_up(self, handle: bytes) -> Owner:
        """Whose directory this is; `NOBODY` also when it is gone by now. Some 20 µs."""
        found = self._look_up(handle)
        if found is None:
            return NOBODY  # no mount could be asked: next time perhaps
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[handle] = found
        return found

    def forget(self) -> None:
        """A directory has moved to another owner, perhaps with many below it."""
        self._known.clear()

    def look_again(self, place: Place) -> bool:
        """A name changed above a place: is it still there? Returns whether something else is at its path, or nothing.

        A snapshot that was only moved away is still the same snapshot, until the tracker is told where it is now.
        Where something else took its place, what goes on in the old tree does not concern the snapshot any more.
        """
        root, handle = place.root, place.handle
        if not place.look():
            return False
        if root is not None and place.root is None and self._is_alive(handle) and not os.path.lexists(place.path):
            place.root, place.handle = root, handle
            return True
        if root is not None and self._roots.get(root) is place:
            del self._roots[root]
        if place.root is not None and place.tally is not None:
            self._roots[place.root] = place
        self._known.clear()
        return True

    def _is_alive(self, handle: bytes | None) -> bool:
        if handle is None:
            return False
        for mount in self._open_mounts():
            with contextlib.suppress(OSError):
                os.close(open_by_handle(mount, handle))
                return True
        return False

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        """While it lasts handles can be opened. No longer than needed: an open directory keeps a mount from ending."""
        try:
            yield
        finally:
            while self._mounts:
                os.close(self._mounts.pop())

    def open_anchor(self) -> int:
        """A directory on this file system, open.

        Raises:
            OSError: there is none any more.
        """
        for path, device in self._anchors:
            fd = _open_above(path, device)
            if fd is not None:
                return fd
        raise OSError("no mount of the file system is left")

    def _open_mounts(self) -> list[int]:
        if not self._mounts:
            opened = (_open_above(path, device) for path, device in self._anchors)
            self._mounts += [fd for fd in opened if fd is not None]
        return self._mounts

    def _look_up(self, handle: bytes) -> Owner | None:
        mounts = self._open_mounts()
        for mount in mounts:
            with contextlib.suppress(OSError):  # gone by now, or not below this mount's root: another may do
                return self._go_up(open_by_handle(mount, handle))
        return NOBODY if mounts else None

    def _go_up(self, fd: int) -> Owner:
        """The owner of an open directory, which is closed."""
        try:
            st = os.fstat(fd)
            here = st.st_dev, st.st_ino
            datasets, below = frozenset(self._tops.get(here, ())), tuple(self._above.get(here, ()))
            place = self._roots.get(here)
            for _ in range(_DEEPEST):
                if place is not None:
                    break
                above = os.open("..", _UP, dir_fd=fd)
                os.close(fd)
                fd = above
                st = os.fstat(fd)
                if (st.st_dev, st.st_ino) == here:
                    break  # the root of everything
                here = st.st_dev, st.st_ino
                place = self._roots.get(here)
        finally:
            os.close(fd)
        return Owner(place, datasets, below) if place is not None or datasets or below else NOBODY


def _open_above(path: bytes, device: int) -> int | None:
    """Open a directory, or the nearest one above it, if it is on this device: its names may have changed."""
    while True:
        try:
            fd = open_root(path)
        except (OSError, TierdError):
            if len(path) <= 1:
                return None
            path = os.path.dirname(path)
            continue
        if os.fstat(fd).st_dev == device:
            return fd
        os.close(fd)
        return None
