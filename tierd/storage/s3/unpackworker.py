"""What runs in each unpacking process: check what was fetched into a slot of shared memory, and write it.

A job: (slot, key of the object, offset in it of the slot's first byte, [item (see `fetch.Item`)…]).
The answer is the slot. An error leaves what was written; whoever resumes writes it again.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass

from tierd.fs.walk import open_directory, show, translate
from tierd.storage.manifest import Entry
from tierd.storage.posix.crew import Answer, Job
from tierd.storage.posix.limits import Board
from tierd.storage.posix.metadata import write_refused
from tierd.storage.posix.writing import Attributes, keep_attributes, write_all
from tierd.storage.s3.fetch import LENGTH, OFFSET, SEGMENTS, Item
from tierd.storage.s3.index import Segments, unpack_segments
from tierd.storage.s3.proof import check_file

_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, kw_only=True)
class Places:
    """Open directories that every process inherits."""

    tree: int
    dropped: int


class UnpackWorker:
    """One unpacking process."""

    def __init__(self, number: int, places: Places, memory: mmap.mmap, board: Board) -> None:
        self._number, self._places, self._board = number, places, board
        self._memory = memoryview(memory)
        self._ids = (os.geteuid(), os.getegid())
        self._at: tuple[bytes, int] | None = None

    def handle(self, job: Job) -> Answer:
        slot, key, start, items = job
        for item in items:
            self._board.check()
            self._file(slot - start, key, item)
        return slot

    def _file(self, base: int, key: str, item: Item) -> None:
        entry = Entry(*item[:OFFSET])
        at, length, segments = base + item[OFFSET], item[LENGTH], unpack_segments(item[SEGMENTS])
        data = self._memory[at : at + length]
        check_file(data, entry, segments, key)
        parent, _, name = entry.path.rpartition(b"/")
        try:
            directory, mode = self._enter(parent), entry.mode & 0o777
            try:
                fd = os.open(name, _WRITE, mode, dir_fd=directory)
            except FileExistsError:
                clear(directory, name, self._places.dropped)
                fd = os.open(name, _WRITE, mode, dir_fd=directory)
            try:
                if segments is not None:
                    write_segments(fd, data, segments)
                    os.ftruncate(fd, entry.size)
                elif length:
                    write_all(fd, data, 0)
                keep_attributes(fd, attributes(entry), entry.xattrs, ids=self._ids, created_mode=mode)
            finally:
                os.close(fd)
        except OSError as error:
            raise write_refused(error, show(entry.path)) from error
        self._board.count(self._number, entry.size, 1)

    def _enter(self, path: bytes) -> int:
        """The directory, open; the last one stays open."""
        if self._at is not None:
            if self._at[0] == path:
                return self._at[1]
            os.close(self._at[1])
            self._at = None
        try:
            fd = open_directory(self._places.tree, path)
        except OSError as error:
            raise translate(error, show(path)) from error
        self._at = (path, fd)
        return fd


def attributes(entry: Entry) -> Attributes:
    """What an entry's manifest says it shall have."""
    return Attributes(entry.mode, entry.uid, entry.gid, entry.atime_ns, entry.mtime_ns)


def clear(dir_fd: int, name: bytes, dropped: int) -> None:
    """Take a name of the staged tree away; a directory is set aside for deletion."""
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        os.rename(name, b"%d-%d" % (os.getpid(), st.st_ino), src_dir_fd=dir_fd, dst_dir_fd=dropped)


def write_segments(fd: int, data: memoryview, segments: Segments) -> None:
    """Write the data of a sparse file, which lies back to back, where it belongs."""
    used = 0
    for start, stop in segments:
        write_all(fd, data[used : used + stop - start], start)
        used += stop - start
