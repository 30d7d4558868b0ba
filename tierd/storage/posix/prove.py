"""Prove that a tree is still what its manifest says, without reading a byte of it.

An entry whose inode, type, size, mtime and ctime are those that were recorded was not changed: every way to change
contents or metadata sets the ctime, and nobody can set it back. A lease on each file finds who could still do it
unseen, through a descriptor or a mapping that is open.

Source: fcntl(2), "Leases"; a write lease is granted only while nobody else has the file open or mapped, a read
lease while nobody has it open for writing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tierd.errors import SourceBusy, SourceChanged
from tierd.fs.walk import open_directory, scan, show, translate, translated
from tierd.storage.control import Control
from tierd.storage.manifest import Entry, Manifest, Side
from tierd.storage.posix.crew import Answer, Crew, Job
from tierd.storage.posix.leases import NO_LEASES
from tierd.storage.posix.limits import Board
from tierd.storage.posix.metadata import read_xattrs

_BATCH = 256
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LEASES = {"all": fcntl.F_WRLCK, "writers": fcntl.F_RDLCK}
_PATIENCE_S = (0.001, 0.005, 0.02)
"""Pauses before a file counts as busy: another snapshot has it as well and is under test, or a scanner looks at it."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """That a tree is unchanged.

    Attributes:
        entries: compared, the root included.
        newest_access_ns: newest atime of its regular files; 0 when there are none.
        leases_checked: leases were asked for and every file took one; False where the file system or the caller's
            rights do not allow leases.
    """

    entries: int
    newest_access_ns: int
    leases_checked: bool


def prove_unchanged(
    tree_fd: int,
    manifest: Manifest,
    *,
    stamps: Side,
    leases: str | bool | None = None,
    processes: int = 2,
    control: Control,
) -> Proof:
    """Walk the tree and compare every entry with the manifest's stamps of that side.

    The root's ctime is not compared (renaming the tree sets it); its mode, owner, mtime and attributes are.

    Args:
        leases: "all" (or True), "writers", or None for no check of who has files open.

    Raises:
        SourceChanged: an entry is new, missing or different; the message names it.
        SourceBusy: a process has a file open in a way that `leases` forbids.
        Interrupted
    """
    kind = "all" if leases is True else leases or None
    root = manifest.find(b"")
    if root is None:
        raise SourceChanged("the manifest is empty")
    _compare_root(tree_fd, root, stamps)
    walk = _Walk(tree_fd, manifest, stamps)
    board = Board(processes, None)
    with Crew(processes, board, lambda number: ProveWorker(tree_fd, kind, board)) as crew:
        crew.run(walk.jobs(), walk.take, control)
    if walk.entries != manifest.totals().entries:
        raise SourceChanged(f"{_missing(tree_fd, manifest, control)} is not there any more")
    checked = kind is not None and walk.leases_checked
    return Proof(entries=walk.entries, newest_access_ns=walk.newest_access_ns, leases_checked=checked)


class _Walk:
    """The parent's side: names from the tree, stamps from the manifest, results from the crew."""

    def __init__(self, tree_fd: int, manifest: Manifest, side: Side) -> None:
        self._tree = tree_fd
        self._manifest = manifest
        is_first = "link_group IS NULL OR link_group = path"
        self._columns = f"path, type, size, mtime_ns, {side}_inode, {side}_ctime_ns, {is_first}"
        self.entries = 1
        self.newest_access_ns = 0
        self.leases_checked = True

    def jobs(self) -> Iterator[Job]:
        for names in scan(self._tree):
            prefix = names.path + b"/" if names.path else b""
            for at in range(0, len(names.entries), _BATCH):
                paths = [prefix + name for _, name, _ in names.entries[at : at + _BATCH]]
                marks = ", ".join("?" * len(paths))
                rows = self._manifest.execute(f"SELECT {self._columns} FROM entry WHERE path IN ({marks})", paths)
                if len(rows) != len(paths):
                    known = {row[0] for row in rows}
                    raise SourceChanged(f"{show(next(p for p in paths if p not in known))} is new")
                self.entries += len(rows)
                yield (names.path, len(prefix), rows)

    def take(self, answer: Answer) -> None:
        newest, leases_checked = answer
        self.newest_access_ns = max(self.newest_access_ns, newest)
        self.leases_checked = self.leases_checked and leases_checked


class ProveWorker:
    """One proving process. Jobs: (directory path, length of the prefix, [(path, type, size, mtime, inode, ctime, is
    first name)…]). A lease is asked for by a file's first name alone: two processes with one file open at the same
    time would take each other for a user of it.
    """

    def __init__(self, tree_fd: int, leases: str | None, board: Board) -> None:
        self._tree = tree_fd
        self._lease = None if leases is None else _LEASES[leases]
        self._board = board

    def handle(self, job: Job) -> Answer:
        directory, skip, rows = job
        self._board.check()
        try:
            at = open_directory(self._tree, directory)
        except OSError as error:
            raise translate(error, show(directory)) from error
        newest, checked = 0, True
        try:
            for path, kind, size, mtime_ns, inode, ctime_ns, is_first in rows:
                name = path[skip:]
                try:
                    st = os.stat(name, dir_fd=at, follow_symlinks=False)
                except OSError as error:
                    raise translate(error, show(path)) from error
                if (st.st_ino, st.st_mtime_ns, st.st_ctime_ns) != (inode, mtime_ns, ctime_ns):
                    raise SourceChanged(f"{show(path)} was changed")
                if kind == "f":
                    if not stat.S_ISREG(st.st_mode) or st.st_size != size:
                        raise SourceChanged(f"{show(path)} was changed")
                    newest = max(newest, st.st_atime_ns)
                    if self._lease is not None and checked and is_first:
                        checked = _try_lease(at, name, path, st, self._lease)
                elif _kind(st) != kind:
                    raise SourceChanged(f"{show(path)} was replaced")
        finally:
            os.close(at)
        return newest, checked


def _try_lease(at: int, name: bytes, path: bytes, st: os.stat_result, lease: int) -> bool:
    """Take a lease on a file and give it back; False where that is not possible here.

    Raises:
        SourceBusy: somebody has it open.
    """
    for pause in (*_PATIENCE_S, None):
        try:
            fd = _open(at, name)
        except BlockingIOError:  # another lease on it is being broken
            fd = -1
        except OSError as error:
            if error.errno in NO_LEASES:
                return False
            raise translate(error, show(path)) from error
        if fd >= 0:
            try:
                if os.fstat(fd).st_ino != st.st_ino:
                    raise SourceChanged(f"{show(path)} was replaced")
                fcntl.fcntl(fd, fcntl.F_SETLEASE, lease)
                fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
                return True
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    if error.errno in NO_LEASES:
                        return False
                    raise translate(error, show(path)) from error
            finally:
                os.close(fd)
        if pause is not None:
            time.sleep(pause)
    what = "open" if lease == fcntl.F_WRLCK else "open for writing"
    raise SourceBusy(f"a process has {show(path)} {what}", hint="It is tried again later, when the file is closed.")


def _open(at: int, name: bytes) -> int:
    try:
        return os.open(name, _READ | os.O_NOATIME, dir_fd=at)
    except PermissionError as error:
        if error.errno != errno.EPERM:
            raise
        return os.open(name, _READ, dir_fd=at)


def _kind(st: os.stat_result) -> str:
    if stat.S_ISDIR(st.st_mode):
        return "d"
    if stat.S_ISLNK(st.st_mode):
        return "l"
    if stat.S_ISFIFO(st.st_mode):
        return "p"
    return "c" if stat.S_ISCHR(st.st_mode) else "b"


def _compare_root(tree_fd: int, root: Entry, side: Side) -> None:
    st = os.fstat(tree_fd)
    inode = root.source_inode if side == "source" else root.copy_inode
    found = (st.st_ino, st.st_mode & 0o7777, st.st_uid, st.st_gid, st.st_mtime_ns)
    if found != (inode, root.mode, root.uid, root.gid, root.mtime_ns):
        raise SourceChanged("the snapshot's own directory was changed")
    with translated("the snapshot's directory"):
        if read_xattrs(tree_fd) != root.xattrs:
            raise SourceChanged("the attributes of the snapshot's own directory were changed")


def _missing(tree_fd: int, manifest: Manifest, control: Control) -> str:
    """Name an entry of the manifest that is not in the tree (only asked when there is one)."""
    for entry in manifest.entries():
        control.checkpoint()
        parent, _, name = entry.path.rpartition(b"/")
        try:
            fd = open_directory(tree_fd, parent)
        except OSError:
            return show(parent)
        try:
            os.stat(name or b".", dir_fd=fd, follow_symlinks=False)
        except OSError:
            return show(entry.path)
        finally:
            os.close(fd)
    return "an entry"
