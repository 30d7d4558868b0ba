"""What runs in each verifying process: compare entries of a copy with what the manifest expects.

Jobs (tuples), an expectation being the first 13 fields of a manifest entry and the number of names it must have:
    ("entries", directory path, [expectation…])
    ("large", expectation, chunk digests)
The answer: ([(inode, ctime_ns, path)…] of what is equal, [(is a directory, path, what differs)…]).
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import threading
from typing import Any

from blake3 import blake3

from tierd.errors import TierdError
from tierd.fs.walk import open_directory, show, translate
from tierd.storage.manifest import CHUNK
from tierd.storage.posix.crew import Answer, Job
from tierd.storage.posix.limits import Board
from tierd.storage.posix.metadata import beside, read_xattrs
from tierd.storage.posix.rangecopy import go_direct, read_chunk

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_TYPES = {
    stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l", stat.S_IFIFO: "p", stat.S_IFCHR: "c", stat.S_IFBLK: "b",
}  # fmt: skip
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_UNREADABLE = (errno.EIO, errno.EUCLEAN, errno.EBADMSG)

Expected = tuple[Any, ...]


class CompareWorker:
    """One verifying process."""

    def __init__(self, tree_fd: int, reads: bool, threads: int, board: Board) -> None:
        self._tree = tree_fd
        self._reads = reads
        self._threads = threads
        self._board = board
        self._buffer = memoryview(bytearray(CHUNK + 1))
        self._chunk_buffers: list[memoryview] = []

    def handle(self, job: Job) -> Answer:
        self._stamps: list[tuple[int, int, bytes]] = []
        self._bad: list[tuple[bool, bytes, str]] = []
        if job[0] == "entries":
            self._entries(job[1], job[2])
        else:
            self._large(job[1], job[2])
        return self._stamps, self._bad

    # -- one directory -------------------------------------------------------------------------------------

    def _entries(self, directory: bytes, expected: list[Expected]) -> None:
        try:
            at = open_directory(self._tree, directory)
        except OSError as error:
            if error.errno not in _GONE:
                raise translate(error, show(directory)) from error
            self._bad += [(e[1] == "d", e[0], "its directory is missing") for e in expected]
            return
        opened: list[tuple[Expected, int, os.stat_result]] = []
        try:
            for entry in expected:
                if entry[1] != "f":
                    self._other(at, entry)
                    continue
                fd = self._open(at, entry)
                if fd >= 0:
                    opened.append((entry, fd, os.fstat(fd)))
                    if self._reads:  # drop what is cached, then have the kernel fetch all of the batch
                        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
            for entry, fd, st in opened:
                self._board.throttle(min(st.st_size, CHUNK) if self._reads else 0)
                self._file(entry, fd, st)
        finally:
            for _, fd, _ in opened:
                os.close(fd)
            os.close(at)

    def _open(self, at: int, entry: Expected) -> int:
        """Open a file that should be there; -1 after noting that it is not."""
        name = entry[0].rpartition(b"/")[2]
        try:
            try:
                return os.open(name, _READ | os.O_NOATIME, dir_fd=at)
            except PermissionError as error:
                if error.errno != errno.EPERM:
                    raise
                return os.open(name, _READ, dir_fd=at)
        except OSError as error:
            if error.errno not in (*_GONE, *_UNREADABLE, errno.ENXIO):
                raise translate(error, show(entry[0])) from error
            self._bad.append((entry[1] == "d", entry[0], f"it cannot be opened ({error.strerror})"))
            return -1

    def _file(self, entry: Expected, fd: int, st: os.stat_result) -> None:
        try:
            wrong = _differs(entry, st) or _xattrs_differ(entry, read_xattrs(fd))
            if wrong is None and self._reads and self._digest(fd, st.st_size) != entry[12]:
                wrong = "its bytes are not those that were written (chunk 0)"
            if self._reads:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise translate(error, show(entry[0])) from error
            wrong = f"the device cannot read it back ({error.strerror})"
        self._note(entry, st, wrong)

    def _digest(self, fd: int, size: int) -> bytes:
        got = 0
        while got <= size:
            n = os.preadv(fd, [self._buffer[got : size + 1]], got)
            if n == 0:
                break
            got += n
        digest: bytes = blake3(self._buffer[:got]).digest()
        return digest

    def _other(self, at: int, entry: Expected) -> None:
        name = entry[0].rpartition(b"/")[2] or b"."
        try:
            st = os.stat(name, dir_fd=at, follow_symlinks=False)
            wrong = _differs(entry, st)
            if wrong is None and entry[1] == "l" and os.readlink(name, dir_fd=at) != entry[10]:
                wrong = "it leads elsewhere"
            wrong = wrong or _xattrs_differ(entry, read_xattrs(beside(at, name)))
        except OSError as error:
            if error.errno not in (*_GONE, *_UNREADABLE, errno.EINVAL):  # EINVAL: it was a link a moment ago
                raise translate(error, show(entry[0])) from error
            self._bad.append((entry[1] == "d", entry[0], f"it is missing ({error.strerror})"))
            return
        self._note(entry, st, wrong)

    def _note(self, entry: Expected, st: os.stat_result, wrong: str | None) -> None:
        if wrong is None:
            self._stamps.append((st.st_ino, st.st_ctime_ns, entry[0]))
        else:
            self._bad.append((entry[1] == "d", entry[0], wrong))

    # -- large files -----------------------------------------------------------------------------------------

    def _large(self, entry: Expected, digests: bytes) -> None:
        directory = entry[0].rpartition(b"/")[0]
        try:
            at = open_directory(self._tree, directory)
        except OSError as error:
            if error.errno not in _GONE:
                raise translate(error, show(directory)) from error
            self._bad.append((entry[1] == "d", entry[0], "its directory is missing"))
            return
        try:
            fd = self._open(at, entry)
        finally:
            os.close(at)
        if fd < 0:
            return
        try:
            st = os.fstat(fd)
            wrong = _differs(entry, st) or _xattrs_differ(entry, read_xattrs(fd))
            if wrong is None and blake3(digests).digest() != entry[12]:
                wrong = "its record of chunks is damaged"
            if wrong is None and self._reads:
                wrong = self._chunks(fd, entry, digests)
        finally:
            os.close(fd)
        self._note(entry, st, wrong)

    def _chunks(self, fd: int, entry: Expected, digests: bytes) -> str | None:
        """Compare all chunks with several threads; says which is wrong."""
        while len(self._chunk_buffers) < self._threads:
            self._chunk_buffers.append(memoryview(mmap.mmap(-1, CHUNK + 4096)))
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        is_direct = go_direct(fd)
        size: int = entry[2]
        count = -(-size // CHUNK)
        lock, position = threading.Lock(), iter(range(count))
        wrong: list[tuple[int, str]] = []
        failures: list[BaseException] = []

        def run(buffer: memoryview) -> None:
            try:
                while not wrong and not failures:
                    with lock:
                        index = next(position, None)
                    if index is None:
                        return
                    self._board.throttle(min(CHUNK, size - index * CHUNK))
                    problem = _chunk_differs(fd, buffer, index, size, digests)
                    if problem is not None:
                        wrong.append((index, problem))
                    if not is_direct:
                        os.posix_fadvise(fd, index * CHUNK, CHUNK, os.POSIX_FADV_DONTNEED)
            except (OSError, TierdError) as error:
                failures.append(error)

        threads = [threading.Thread(target=run, args=(b,), daemon=True) for b in self._chunk_buffers[1:count]]
        for thread in threads:
            thread.start()
        run(self._chunk_buffers[0])
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return min(wrong)[1] if wrong else None


def _chunk_differs(fd: int, buffer: memoryview, index: int, size: int, digests: bytes) -> str | None:
    length = min(CHUNK, size - index * CHUNK)
    try:
        got = read_chunk(fd, buffer, index * CHUNK, length)
    except OSError as error:
        if error.errno not in _UNREADABLE:
            raise
        return f"the device cannot read chunk {index} back ({error.strerror})"
    if got < length or blake3(buffer[:length]).digest() != digests[index * 32 : index * 32 + 32]:
        return f"its bytes are not those that were written (chunk {index})"
    return None


def _differs(entry: Expected, st: os.stat_result) -> str | None:
    """What of a copy's status is not as expected."""
    _, kind, size, mode, uid, gid, mtime_ns, _, rdev, *_, names = entry
    if _TYPES.get(stat.S_IFMT(st.st_mode)) != kind:
        return "it is of another type"
    if kind in "fl" and st.st_size != size:
        return f"it has {st.st_size} bytes instead of {size}"
    if kind != "l" and st.st_mode & 0o7777 != mode:
        return f"its mode is {st.st_mode & 0o7777:04o} instead of {mode:04o}"
    if (st.st_uid, st.st_gid) != (uid, gid):
        return f"its owner is {st.st_uid}:{st.st_gid} instead of {uid}:{gid}"
    if st.st_mtime_ns != mtime_ns:
        return "its modification time was not kept"
    if kind in "cb" and st.st_rdev != rdev:
        return "it is another device"
    if kind != "d" and st.st_nlink != names:
        return f"it has {st.st_nlink} names instead of {names}"
    return None


def _xattrs_differ(entry: Expected, found: bytes | None) -> str | None:
    return None if found == entry[9] else "its extended attributes or ACLs were not kept"
