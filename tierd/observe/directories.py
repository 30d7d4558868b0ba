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
from tierd.fs.fanotify import open_by_handle
from tierd.fs.walk import open_root
from tierd.observe.ledger import Tally
from tierd.observe.tracker import Watch

Inode = tuple[int, int]
_MOST = 100_000
"""Directories remembered, some 200 bytes each."""
_DEEPEST = 512
_UP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(eq=False)
class Tree:
    """A watched tree. `root`: its inode, None while nothing is at its path, or something else than a directory."""

    watch: Watch
    tally: Tally
    root: Inode | None = None


@dataclass(eq=False)
class Owner:
    """What a directory means: the tree it lies in, datasets whose top level it is, trees whose parent it is."""

    tree: Tree | None = None
    datasets: frozenset[str] = frozenset()
    children: tuple[Tree, ...] = ()

    @property
    def is_somebodys(self) -> bool:
        return self.tree is not None or bool(self.datasets) or bool(self.children)


NOBODY = Owner()


def inode_at(path: bytes) -> Inode | None:
    """Of the directory at `path`, which no link leads to."""
    try:
        fd = open_root(path)
    except (OSError, TierdError):
        return None
    try:
        st = os.fstat(fd)
        return st.st_dev, st.st_ino
    finally:
        os.close(fd)


@dataclass(eq=False)
class Directories:
    """The directories of one file system. Used by one thread.

    Attributes:
        anchors: paths on this file system, one of each of its mounts that carries a watch.
    """

    anchors: list[bytes] = field(default_factory=list)
    _trees: dict[Inode, Tree] = field(default_factory=dict)
    _tops: dict[Inode, set[str]] = field(default_factory=dict)
    _parents: dict[Inode, list[Tree]] = field(default_factory=dict)
    _known: dict[bytes, Owner] = field(default_factory=dict)
    _mounts: list[int] = field(default_factory=list)

    @property
    def trees(self) -> list[Tree]:
        return list(self._trees.values())

    @property
    def datasets(self) -> set[str]:
        return {name for names in self._tops.values() for name in names}

    def place(self, trees: Iterable[tuple[Tree, Inode | None]], tops: Iterable[tuple[Inode, str]]) -> None:
        """Set what is watched: trees with their parents' inodes, and top levels of datasets."""
        self._trees, self._tops, self._parents = {}, {}, {}
        for tree, parent in trees:
            if tree.root is not None:
                self._trees[tree.root] = tree
            if parent is not None:
                self._parents.setdefault(parent, []).append(tree)
        for inode, dataset in tops:
            self._tops.setdefault(inode, set()).add(dataset)
        self._known.clear()

    def owner(self, handle: bytes) -> Owner:
        """Whose directory this is; `NOBODY` also when it is gone by now."""
        known = self._known.get(handle)
        if known is None:
            known = self._look_up(handle)
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[handle] = known
        return known

    def forget(self) -> None:
        """A directory has moved to another owner, perhaps with many below it."""
        self._known.clear()

    def look_again(self, trees: Iterable[Tree]) -> None:
        """Something changed in the parent of these trees: is each of them still at its path?

        One that was only moved away is still the same snapshot, until its owner is told where it is now; where
        something else took its place, what goes on in the old tree does not concern the snapshot any more.
        """
        for tree in trees:
            path = os.fsencode(tree.watch.path)
            now = inode_at(path)
            if now is None and not os.path.lexists(path):
                continue
            if now != tree.root:
                if tree.root is not None and self._trees.get(tree.root) is tree:
                    del self._trees[tree.root]
                tree.root = now
                if now is not None:
                    self._trees[now] = tree
                self._known.clear()

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        """While it lasts handles can be opened. No longer than needed: an open directory keeps a mount from ending."""
        try:
            yield
        finally:
            while self._mounts:
                os.close(self._mounts.pop())

    def _open_mounts(self) -> list[int]:
        if not self._mounts:
            for path in self.anchors:
                with contextlib.suppress(OSError, TierdError):
                    self._mounts.append(open_root(path))
        return self._mounts

    def _look_up(self, handle: bytes) -> Owner:
        for mount in self._open_mounts():
            with contextlib.suppress(OSError):  # gone by now, or not below this mount's root: another may do
                return self._go_up(open_by_handle(mount, handle))
        return NOBODY

    def _go_up(self, fd: int) -> Owner:
        """The owner of an open directory, which is closed."""
        try:
            st = os.fstat(fd)
            here = st.st_dev, st.st_ino
            datasets, children = frozenset(self._tops.get(here, ())), tuple(self._parents.get(here, ()))
            tree = self._trees.get(here)
            for _ in range(_DEEPEST):
                if tree is not None:
                    break
                above = os.open("..", _UP, dir_fd=fd)
                os.close(fd)
                fd = above
                st = os.fstat(fd)
                if (st.st_dev, st.st_ino) == here:
                    break  # the root of everything
                here = st.st_dev, st.st_ino
                tree = self._trees.get(here)
        finally:
            os.close(fd)
        return Owner(tree, datasets, children) if tree is not None or datasets or children else NOBODY
