"""The thread that gets trees watched, directory by directory.

Walking takes as long as it takes, so nobody waits for it. Directories are opened through descriptors and watched
through them: nothing outside a tree is ever watched, whatever its owner swaps in.

Whatever is uncertain (a directory moved away, events were lost, the root is not where it was) is settled by walking
the tree again: directories that are not met any more lose their watch.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from tierd.errors import TierdError
from tierd.fs.walk import open_directory, open_root
from tierd.observe.forest import Forest, Tree
from tierd.observe.ledger import Ledger
from tierd.observe.tracker import Watch

_MAX_ADDS = 100_000
"""New directories waiting to be watched; with more of them their trees are walked as a whole."""
_REST = 9.0
"""After a walk a tree is left alone for so many times as long: a hostile owner costs at most a tenth of a core."""
_NO_ROOM = (errno.ENOSPC, errno.ENOMEM)


class Planter:
    """Plants trees into the forest, and keeps them planted.

    Args:
        ledger: its lock guards the forest as well, so that an event never meets a half-made entry.
        retry_s: seconds between looks for missing roots.
        on_limited: told, by this thread, which watches the limit does not allow whenever that changes.
    """

    def __init__(
        self, forest: Forest, ledger: Ledger, *, retry_s: float, on_limited: Callable[[list[Watch]], None]
    ) -> None:
        self._forest = forest
        self._ledger = ledger
        self._retry_s = retry_s
        self._on_limited = on_limited
        self._limited: frozenset[Watch] = frozenset()
        self._changed = threading.Condition(ledger.lock)
        self._trees: dict[Watch, Tree] = {}
        self._dropped: deque[Tree] = deque()
        self._adds: deque[tuple[int, bytes]] = deque()
        self._last_doubt = float("-inf")
        self._is_busy = False
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="tierd-planter", daemon=True)

    # What others ask for; none of it walks.

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def plant(self, watches: Iterable[Watch]) -> None:
        """Watch these and nothing else."""
        wanted = set(watches)
        with self._changed:
            for watch in [w for w in self._trees if w not in wanted]:
                tree = self._trees.pop(watch)
                tree.is_displaced = True  # its events stop counting now; the watches go in the background
                self._dropped.append(tree)
            for watch in wanted:
                tree_or_none = self._trees.get(watch)
                if tree_or_none is None:
                    tally = None if watch.snapshot_id is None else self._ledger.tally(watch.snapshot_id)
                    self._trees[watch] = Tree(watch, tally)
                elif tree_or_none.is_limited or tree_or_none.is_missing:
                    tree_or_none.wants_walk = True
            self._changed.notify_all()

    def add(self, parent: int, name: bytes) -> None:
        """A directory appeared in a watched one."""
        with self._changed:
            node = self._forest.nodes.get(parent)
            if len(self._adds) < _MAX_ADDS:
                self._adds.append((parent, name))
            elif node is not None:
                node.tree.wants_walk = True
            self._changed.notify_all()

    def doubt(self, tree: Tree) -> None:
        """Directories of the tree may have moved: walk it again."""
        with self._changed:
            tree.wants_walk = True
            self._changed.notify_all()

    def displaced(self, tree: Tree) -> None:
        """The root of the tree left its place: count nothing until it is found there again."""
        with self._changed:
            tree.displacements += 1
            tree.is_displaced = True
            tree.wants_walk = True
            if tree.tally is None:
                # What lies below a dataset's directory went with it, without an event of its own.
                for one in self._trees.values():
                    one.wants_walk = one.wants_walk or one.watch.path.is_relative_to(tree.watch.path)
            tree.lose_sight()
            self._changed.notify_all()

    def doubt_all(self, *, rest_s: float) -> None:
        """Events were lost, anything may have happened: walk all trees, but not more often than every `rest_s`."""
        with self._changed:
            not_before = self._last_doubt + rest_s
            for tree in self._trees.values():
                if tree.tally is None:
                    self._ledger.dirty_datasets.add(tree.watch.dataset)
                else:
                    tree.tally.is_blind = True
                tree.wants_walk = True
                tree.rests_until = max(tree.rests_until, not_before)
            self._last_doubt = max(time.monotonic(), not_before)
            self._changed.notify_all()

    def forget(self, wd: int) -> None:
        """The kernel dropped a watch."""
        with self._changed:
            for tree in self._forest.forget(wd):
                self.displaced(tree)

    def wait_idle(self, deadline: float) -> bool:
        """Wait until nothing is left to walk, missing roots apart; False at the deadline, or without a thread."""
        with self._changed:
            self._changed.wait_for(
                lambda: not (self._is_pending() and self.is_alive), max(0.0, deadline - time.monotonic())
            )
            return self.is_alive and not self._is_pending()

    def counts(self) -> tuple[int, int, bool]:
        """Trees limited, trees missing, and whether something is left to walk."""
        with self._changed:
            trees = self._trees.values()
            return sum(t.is_limited for t in trees), sum(t.is_missing for t in trees), self._is_pending()

    # The thread.

    def _is_pending(self) -> bool:
        is_wanted = any(t.wants_walk and not t.is_missing for t in self._trees.values())
        return self._is_busy or bool(self._adds or self._dropped) or is_wanted

    def _run(self) -> None:
        retry_at = 0.0
        while True:
            with self._changed:
                self._is_busy = False
                now = time.monotonic()
                if now >= retry_at:
                    retry_at = now + self._retry_s
                    for tree in self._trees.values():
                        tree.wants_walk = tree.wants_walk or tree.is_missing
                due = [t for t in self._trees.values() if t.wants_walk and t.rests_until <= now]
                if self._is_stopping:
                    return
                if not (due or self._adds or self._dropped):
                    self._changed.notify_all()
                    self._changed.wait(self._pause(now, retry_at))
                    continue
                self._is_busy = True
            self._drop_trees()
            self._serve_adds()
            for tree in due:
                self._walk(tree)
            self._report_limited()

    def _pause(self, now: float, retry_at: float) -> float | None:
        waits = [t.rests_until - now for t in self._trees.values() if t.wants_walk]
        if any(t.is_missing for t in self._trees.values()):
            waits.append(retry_at - now)
        return max(0.0, min(waits)) if waits else None

    def _drop_trees(self) -> None:
        while self._dropped:
            tree = self._dropped.popleft()
            with self._changed:
                self._forest.drop_top(tree)
            while tree.wds:
                with self._changed:  # in parts: events of others must not wait for a tree of a million directories
                    self._forest.drop(list(tree.wds)[:1000])

    def _walk(self, tree: Tree) -> None:
        began = time.monotonic()
        with self._changed:
            if self._trees.get(tree.watch) is not tree:
                return
            tree.wants_walk = tree.is_limited = False
            tree.generation += 1
            displacements, was_away = tree.displacements, tree.is_missing or tree.is_displaced
        is_complete = self._plant_root(tree)
        with self._changed:
            if tree.is_missing:
                self._forest.drop_top(tree)
            elif tree.displacements == displacements:
                tree.is_displaced = False
            if is_complete:
                self._forest.drop_unmet(tree)
                if not tree.is_missing:
                    self._see_again(tree, was_away=was_away)
            now = time.monotonic()
            tree.rests_until = max(tree.rests_until, now + _REST * (now - began))
            self._changed.notify_all()

    def _see_again(self, tree: Tree, *, was_away: bool) -> None:
        if tree.tally is None:
            if was_away:
                self._ledger.dirty_datasets.add(tree.watch.dataset)
        elif tree.tally.is_blind:
            tree.tally.is_blind, tree.tally.is_dirty = False, True

    def _plant_root(self, tree: Tree) -> bool:
        """Walk the whole tree; False when it could not be watched to its end."""
        try:
            root = open_root(os.fsencode(tree.watch.path))
        except TierdError:
            with self._changed:
                # It was there, and no event of its own told that it went: moved together with a directory above it.
                if tree.root_wd >= 0 and not tree.is_displaced:
                    tree.lose_sight()
                tree.is_missing = True
            return True
        try:
            tree.is_missing = False
            if tree.tally is not None:
                return self._plant(tree, root, b"", -1, b"")
            with self._changed:
                self._forest.add_top(tree, root)
        except OSError:
            tree.is_limited = True
        finally:
            os.close(root)
        return not tree.is_limited

    def _plant(self, tree: Tree, root: int, path: bytes, parent: int, name: bytes) -> bool:
        """Watch the directory at `path` and all below it; False when that was not possible."""
        todo = [(path, parent, name)]
        while todo and not self._is_stopping:
            path, parent, name = todo.pop()
            try:
                fd = open_directory(root, path)
            except OSError:
                continue  # moved, swapped for a link, a mount point, or not readable: none of it is ours to watch
            try:
                with self._changed:
                    wd = self._forest.add(tree, fd, parent=parent, name=name, is_root=not path)
                # Listed after it is watched: what appears in between is seen twice, and never missed.
                with os.scandir(fd) as entries:
                    names = [os.fsencode(e.name) for e in entries if e.is_dir(follow_symlinks=False)]
                todo += [(os.path.join(path, n), wd, n) for n in names]
            except OSError as error:
                if error.errno in _NO_ROOM:
                    tree.is_limited = True
                    return False
            finally:
                os.close(fd)
        return not self._is_stopping

    def _serve_adds(self) -> None:
        while self._adds and not self._is_stopping:
            with self._changed:
                parent, name = self._adds.popleft()
                node = self._forest.nodes.get(parent)
                if node is None or node.tree.is_displaced:
                    continue
                path = self._forest.path(parent)
                if path is None:
                    node.tree.wants_walk = True
                    continue
            try:
                root = open_root(os.fsencode(node.tree.watch.path))
            except TierdError:
                continue  # the root's own event says the same
            try:
                self._plant(node.tree, root, os.path.join(path, name), parent, name)
            finally:
                os.close(root)

    def _report_limited(self) -> None:
        with self._changed:
            limited = frozenset(w for w, t in self._trees.items() if t.is_limited)
            if limited == self._limited:
                return
            self._limited = limited
        self._on_limited(sorted(limited, key=lambda w: w.path))
