"""What runs in each copying process: batches of entries of one directory, large files, hard-link groups.

Jobs (tuples):
    ("files", directory path, its inode, [(inode, name, kind)…], {name: known stamp})
    ("large", directory path, its inode, inode, name)
    ("group", [path…], names that the file had, {path: known stamp})
A known stamp is (type, inode, size, mtime_ns, ctime_ns) of the source as an earlier attempt recorded it.
The answer is a dict: `rows` (manifest entries without the attempt), `same` (paths that were copied before and are
unchanged), `links` ((inode, path, names) of entries with several names), `large` (jobs to be given out alone),
`chunks` ((path, digests, name of its record)).
"""

from __future__ import annotations

import os
import stat
from typing import Any

from tierd.errors import Interrupted, SourceChanged
from tierd.fs.linux import is_cached
from tierd.fs.walk import show, translate
from tierd.storage.manifest import CHUNK
from tierd.storage.posix.copyfile import EntryCopier, Places, split
from tierd.storage.posix.crew import Answer, Job
from tierd.storage.posix.limits import Board
from tierd.storage.posix.metadata import write_refused
from tierd.storage.posix.parts import part_name
from tierd.storage.posix.reading import entry_type

Stamp = tuple[str, int, int, int, int]


class CopyWorker:
    """One copying process."""

    def __init__(self, number: int, places: Places, board: Board) -> None:
        self._number = number
        self._board = board
        self._copier = EntryCopier(number, places, board)
        self._out: dict[str, list[Any]] = {}

    def handle(self, job: Job) -> Answer:
        self._out = {"rows": [], "same": [], "links": [], "large": [], "chunks": []}
        try:
            if job[0] == "files":
                self._files(*job[1:])
            elif job[0] == "large":
                self._copier.enter(job[1], job[2])
                self._alone(job[4], job[3], None)
            else:
                self._group(*job[1:])
        except Interrupted:
            if not self._out["rows"] and not self._out["same"]:
                raise
        return self._out

    # -- batches -----------------------------------------------------------------------------------------

    def _files(self, path: bytes, inode: int, entries: list[tuple[int, bytes, str]], known: dict[bytes, Stamp]) -> None:
        """Open everything and ask the kernel to read ahead, then copy one by one."""
        copier, out = self._copier, self._out
        copier.enter(path, inode)
        opened: list[tuple[bytes, int, os.stat_result, bool]] = []
        try:
            for number, name, kind in entries:
                if name in known and self._is_done(name, known[name]):
                    continue
                if kind != "f":
                    self._other(name, number)
                    continue
                fd, st = copier.open(name, number)
                if st.st_nlink > 1 or st.st_size > CHUNK:
                    os.close(fd)
                    if st.st_nlink > 1:
                        out["links"].append((st.st_ino, copier.full(name), st.st_nlink))
                    else:
                        out["large"].append(("large", path, inode, number, name))
                    continue
                cached = is_cached(fd) is not False
                if not cached:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
                opened.append((name, fd, st, cached))
            for name, fd, st, cached in opened:
                row, _ = copier.regular(name, fd, st, group=None, cached=cached)
                out["rows"].append(row)
        finally:
            for _, fd, _, _ in opened:
                os.close(fd)

    def _other(self, name: bytes, inode: int) -> None:
        done = self._copier.special(name, inode)
        if isinstance(done, os.stat_result):
            self._out["links"].append((done.st_ino, self._copier.full(name), done.st_nlink))
        else:
            self._out["rows"].append(done)

    def _alone(self, name: bytes, inode: int, group: bytes | None) -> None:
        """One regular file by itself."""
        fd, st = self._copier.open(name, inode)
        try:
            cached = is_cached(fd) is not False
            row, digests = self._copier.regular(name, fd, st, group=group, cached=cached)
        finally:
            os.close(fd)
        self._out["rows"].append(row)
        if digests is not None:
            self._out["chunks"].append((self._copier.full(name), digests, part_name(st)))

    def _is_done(self, name: bytes, known: Stamp) -> bool:
        """Whether an earlier attempt copied this entry, it has not changed since, and its copy is still there."""
        try:
            st = os.stat(name, dir_fd=self._copier.source, follow_symlinks=False)
            copy = os.stat(name, dir_fd=self._copier.destination, follow_symlinks=False)
        except FileNotFoundError:
            return False
        size = st.st_size if known[0] in "fl" else 0
        if st.st_nlink > 1 or known != (entry_type(st), st.st_ino, size, st.st_mtime_ns, st.st_ctime_ns):
            return False
        if (copy.st_mode, copy.st_size, copy.st_mtime_ns) != (st.st_mode, st.st_size, st.st_mtime_ns):
            return False
        self._out["same"].append(self._copier.full(name))
        self._board.count(self._number, st.st_size if known[0] == "f" else 0, int(known[0] == "f"), moved=0)
        return True

    # -- hard links --------------------------------------------------------------------------------------

    def _group(self, paths: list[bytes], count: int, known: dict[bytes, Stamp]) -> None:
        """Copy the first name of a group and link the others to it; `paths` in path order.

        Args:
            count: of names that the file had when they were found.
        """
        leader = paths[0]
        path, name = split(leader)
        copier = self._copier
        copier.enter(path)
        try:
            st = os.stat(name, dir_fd=copier.source, follow_symlinks=False)
        except OSError as error:
            raise translate(error, show(leader)) from error
        if st.st_nlink != count:
            raise SourceChanged(f"the hard links of {show(leader)} changed while the tree was read")
        if not self._is_leader_done(leader, st, known):
            if stat.S_ISREG(st.st_mode):
                self._alone(name, st.st_ino, leader)
            else:
                self._out["rows"].append(copier.special(name, st.st_ino, group=leader))
        fresh = self._out["rows"][-1] if self._out["rows"] else None
        anchor = os.dup(copier.destination)
        try:
            copy = os.stat(name, dir_fd=anchor, follow_symlinks=False)
            for other in paths[1:]:
                self._link(anchor, name, copy.st_ino, other, st.st_ino)
                if fresh is None:
                    self._out["same"].append(other)
                else:
                    self._out["rows"].append((other, *fresh[1:]))
                if stat.S_ISREG(st.st_mode):
                    self._board.count(self._number, 0, 1, moved=0)
        finally:
            os.close(anchor)

    def _is_leader_done(self, leader: bytes, st: os.stat_result, known: dict[bytes, Stamp]) -> bool:
        """As `_is_done`, for a group whose members were all recorded before."""
        stamp = (entry_type(st), st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns)
        if not known or any(value != stamp for value in known.values()):
            return False
        try:
            copy = os.stat(split(leader)[1], dir_fd=self._copier.destination, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if (copy.st_mode, copy.st_size, copy.st_mtime_ns) != (st.st_mode, st.st_size, st.st_mtime_ns):
            return False
        self._out["same"].append(leader)
        self._board.count(self._number, st.st_size, 1, moved=0)
        return True

    def _link(self, anchor: int, name: bytes, inode: int, other: bytes, source_inode: int) -> None:
        path, own = split(other)
        copier = self._copier
        copier.enter(path)
        try:
            found = os.stat(own, dir_fd=copier.source, follow_symlinks=False).st_ino
        except OSError as error:
            raise translate(error, show(other)) from error
        if found != source_inode:
            raise SourceChanged(f"{show(other)} was replaced while the tree was read")
        try:
            try:
                if os.stat(own, dir_fd=copier.destination, follow_symlinks=False).st_ino == inode:
                    return
                copier.clear(own)
            except FileNotFoundError:
                pass
            os.link(name, own, src_dir_fd=anchor, dst_dir_fd=copier.destination, follow_symlinks=False)
        except OSError as error:
            raise write_refused(error, show(other)) from error
