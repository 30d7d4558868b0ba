"""The watched directories: which watch descriptor belongs to which tree.

Directories are known by their parent's descriptor and their name, which keeps a rename O(1) and memory at a few
hundred bytes per directory. Every method here expects its caller to hold the lock of the ledger.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from tierd.observe.inotify import InotifyQueue
from tierd.observe.ledger import Tally
from tierd.observe.tracker import Watch

_MAX_DEPTH = 10_000


@dataclass(eq=False, slots=True)
class Tree:
    """A watch and what has become of it.

    Attributes:
        tally: None where only the top level of a dataset is watched.
        root_wd: descriptor of the root, -1 while it is not watched.
        generation: of the last walk; directories of an older one were not met by it.
        displacements: grows each time the root is moved away or deleted; `is_displaced` until a walk finds it again.
        is_limited: the limit of watches did not allow all of it.
        is_missing: nothing is at its path; looked for again from time to time.
        wants_walk, rests_until: it is to be walked, but not before that monotonic time.
    """

    watch: Watch
    tally: Tally | None
    wds: set[int] = field(default_factory=set)
    root_wd: int = -1
    generation: int = 0
    displacements: int = 0
    is_displaced: bool = False
    is_limited: bool = False
    is_missing: bool = False
    wants_walk: bool = True
    rests_until: float = 0.0

    def lose_sight(self) -> None:
        """Something may happen to the tree unseen. In a reading of tierd's own it is tierd that moves it."""
        if self.tally is not None and not self.tally.suppressions:
            self.tally.is_blind = True


@dataclass(eq=False, slots=True)
class Node:
    """One watched directory of a tree."""

    tree: Tree
    parent: int
    name: bytes
    generation: int


class Forest:
    """All watched directories of one inotify queue.

    Args:
        max_watches: directories watched at most; None leaves it to the kernel.
    """

    def __init__(self, queue: InotifyQueue, *, max_watches: int | None) -> None:
        self._queue = queue
        self._max_watches = max_watches
        self.nodes: dict[int, Node] = {}
        self.tops: dict[int, set[Tree]] = {}

    def __len__(self) -> int:
        return len(self.nodes.keys() | self.tops.keys())

    def add(self, tree: Tree, fd: int, *, parent: int, name: bytes, is_root: bool) -> int:
        """Watch an open directory of a tree; one that is watched already gets its new place.

        Raises:
            OSError: ENOSPC at the limit of watches.
        """
        wd = self._watch(fd)
        old = self.nodes.get(wd)
        if old is not None:
            old.tree.wds.discard(wd)
        self.nodes[wd] = Node(tree, parent, name, tree.generation)
        tree.wds.add(wd)
        if is_root:
            tree.root_wd = wd
        return wd

    def add_top(self, tree: Tree, fd: int) -> None:
        """Watch an open directory of which only the top level matters.

        Raises:
            OSError: ENOSPC at the limit of watches.
        """
        wd = self._watch(fd)
        if tree.root_wd != wd:
            self.drop_top(tree)
        self.tops.setdefault(wd, set()).add(tree)
        tree.root_wd = wd

    def drop_top(self, tree: Tree) -> None:
        wd, tree.root_wd = tree.root_wd, -1
        trees = self.tops.get(wd, set())
        if tree in trees:
            trees.discard(tree)
            if not trees:
                del self.tops[wd]
                if wd not in self.nodes:
                    self._queue.remove(wd)

    def drop(self, wds: Iterable[int]) -> None:
        """Stop watching directories of trees."""
        for wd in list(wds):
            node = self.nodes.pop(wd)
            node.tree.wds.discard(wd)
            if wd == node.tree.root_wd:
                node.tree.root_wd = -1
            if wd not in self.tops:
                self._queue.remove(wd)

    def drop_unmet(self, tree: Tree) -> None:
        """Stop watching what the last walk over the tree did not meet."""
        self.drop([wd for wd in tree.wds if self.nodes[wd].generation != tree.generation])

    def forget(self, wd: int) -> list[Tree]:
        """The kernel dropped a watch; the trees whose root it was."""
        roots = list(self.tops.pop(wd, ()))
        node = self.nodes.pop(wd, None)
        if node is not None:
            node.tree.wds.discard(wd)
            if wd == node.tree.root_wd:
                roots.append(node.tree)
        for tree in roots:
            tree.root_wd = -1
        return roots

    def path(self, wd: int) -> bytes | None:
        """Relative path of a watched directory; None when its chain of parents is broken or stale."""
        names: list[bytes] = []
        while len(names) < _MAX_DEPTH:
            node = self.nodes.get(wd)
            if node is None:
                return None
            if wd == node.tree.root_wd:
                return b"/".join(reversed(names))
            names.append(node.name)
            wd = node.parent
        return None

    def _watch(self, fd: int) -> int:
        if self._max_watches is not None and len(self.nodes) + len(self.tops) >= self._max_watches:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._queue.add(fd)
