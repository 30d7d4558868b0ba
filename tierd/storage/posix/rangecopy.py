"""Copy one large file in 4 MiB chunks: several threads, past the page cache, hashing as it goes, resumable.

Every thread takes the next chunk, reads it with O_DIRECT, hashes it and writes it with O_DIRECT into space that was
reserved before; reading, hashing and writing all let the other threads run. Where O_DIRECT is refused (tmpfs,
odd block sizes) the same loop goes through the page cache and drops what it put there.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from blake3 import blake3

from tierd.errors import SourceChanged, TierdError
from tierd.fs.linux import allocate
from tierd.fs.walk import show, translate
from tierd.storage.manifest import CHUNK
from tierd.storage.posix.limits import Board
from tierd.storage.posix.metadata import write_refused
from tierd.storage.posix.parts import Parts

_ALIGN = 4096
_DROP_EVERY = 16
"""Chunks between two flushes of a destination that had to be written through the page cache."""


def round_up(size: int) -> int:
    """The next multiple of what O_DIRECT accepts everywhere."""
    return -(-size // _ALIGN) * _ALIGN


def is_sparse(st: os.stat_result) -> bool:
    """Whether a file may have holes (st_blocks counts 512 bytes)."""
    return st.st_blocks * 512 < st.st_size


def data_segments(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of [start, end) that are not holes."""
    at = start
    while at < end:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole up to the end
                return
            raise
        if at >= end:
            return
        stop = min(os.lseek(fd, at, os.SEEK_HOLE), end)
        yield at, stop
        at = stop


def go_direct(fd: int) -> bool:
    """Switch a descriptor to O_DIRECT; False where the file system refuses."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
    except OSError:
        return False
    return True


def go_buffered(fd: int) -> None:
    """Switch a descriptor back to the page cache."""
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) & ~os.O_DIRECT)


def read_chunk(fd: int, view: memoryview, offset: int, length: int) -> int:
    """Read up to `length` bytes and notice one more; returns how many there were.

    Falls back to the page cache for good when O_DIRECT turns out not to work on this file.
    """
    wanted, got = min(round_up(length + 1), len(view)), 0
    while got < wanted:
        try:
            n = os.preadv(fd, [view[got:wanted]], offset + got)
        except OSError as error:
            if error.errno != errno.EINVAL or not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
                raise
            go_buffered(fd)
            continue
        if n == 0:
            break
        got += n
        if got % _ALIGN:  # the end of the file; O_DIRECT cannot go on from here anyway
            break
    return got


def write_chunk(fd: int, view: memoryview, offset: int, length: int) -> None:
    """Write `length` bytes, zero-padded to what O_DIRECT wants: the caller cuts the file at the end."""
    padded = round_up(length)
    if padded != length:
        view[length:padded] = bytes(padded - length)
    at = 0
    while at < padded:
        try:
            at += os.pwrite(fd, view[at:padded], offset + at)
        except OSError as error:
            if error.errno != errno.EINVAL or not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
                raise
            go_buffered(fd)


@dataclass(kw_only=True)
class _Work:
    """One file while its chunks are copied."""

    source: int
    destination: int
    status: os.stat_result
    path: bytes
    parts: Parts
    was_cached: bool
    next_chunk: int = 0
    error: BaseException | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def count(self) -> int:
        return -(-self.status.st_size // CHUNK)


class RangeCopier:
    """The threads and buffers of one process for large files; made once, used for one file at a time."""

    def __init__(self, board: Board, worker: int, threads: int) -> None:
        self._board = board
        self._worker = worker
        self._buffers = [memoryview(mmap.mmap(-1, CHUNK + _ALIGN)) for _ in range(threads)]
        self._zeros = blake3(bytes(CHUNK)).digest()

    def copy(self, source: int, destination: int, st: os.stat_result, path: bytes, parts: Parts, cached: bool) -> bytes:
        """Copy the bytes; returns the chunk digests, one after the other.

        Raises:
            SourceChanged: the file is shorter or longer than `st` says.
            TierFull, StorageError, Interrupted
        """
        work = _Work(source=source, destination=destination, status=st, path=path, parts=parts, was_cached=cached)
        self._reserve(work)
        is_direct = go_direct(source) and go_direct(destination)
        if not is_direct:
            go_buffered(source)
            go_buffered(destination)
        threads = [
            threading.Thread(target=self._run, args=(work, buffer), daemon=True)
            for buffer in self._buffers[1 : work.count]
        ]
        for thread in threads:
            thread.start()
        self._run(work, self._buffers[0])
        for thread in threads:
            thread.join()
        if work.error is not None:
            raise work.error
        try:
            os.ftruncate(destination, st.st_size)  # the last chunk was padded
        except OSError as error:
            raise write_refused(error, show(path)) from error
        return parts.digests(work.count)

    def _reserve(self, work: _Work) -> None:
        try:
            if is_sparse(work.status):
                os.ftruncate(work.destination, work.status.st_size)
            elif os.fstat(work.destination).st_size < work.status.st_size:
                try:
                    allocate(work.destination, work.status.st_size)
                except OSError as error:
                    if error.errno != errno.EOPNOTSUPP:
                        raise
                    os.ftruncate(work.destination, work.status.st_size)
        except OSError as error:
            raise write_refused(error, show(work.path)) from error

    def _run(self, work: _Work, buffer: memoryview) -> None:
        """One thread: take chunks until there are none or somebody failed."""
        try:
            while work.error is None:
                with work.lock:
                    index = work.next_chunk
                    work.next_chunk += 1
                if index >= work.count:
                    return
                length = min(CHUNK, work.status.st_size - index * CHUNK)
                if work.parts.has(index):
                    moved = 0
                else:
                    self._board.throttle(length)
                    work.parts.record(index, self._chunk(work, buffer, index, length))
                    moved = length
                with work.lock:
                    self._board.count(self._worker, length, 0, moved=moved)
                self._board.check()
        except (TierdError, OSError) as error:
            work.error = error

    def _chunk(self, work: _Work, buffer: memoryview, index: int, length: int) -> bytes:
        """Copy one chunk and return its digest."""
        offset = index * CHUNK
        segments = None
        try:
            if is_sparse(work.status):
                segments = list(data_segments(work.source, offset, offset + length))
                if not segments:
                    return self._zeros if length == CHUNK else blake3(bytes(length)).digest()
            got = read_chunk(work.source, buffer, offset, length)
        except OSError as error:
            raise translate(error, show(work.path)) from error
        if got < length or (got > length and length < CHUNK):
            raise SourceChanged(f"{show(work.path)} changed its size while it was read")
        digest: bytes = blake3(buffer[:length]).digest()
        try:
            if segments is None:
                write_chunk(work.destination, buffer, offset, length)
            else:
                _write_segments(work.destination, buffer, offset, length, segments)
            self._forget_pages(work, index, offset, length)
        except OSError as error:
            raise write_refused(error, show(work.path)) from error
        return digest

    def _forget_pages(self, work: _Work, index: int, offset: int, length: int) -> None:
        """Drop what the fallback put into the page cache; nothing to do under O_DIRECT."""
        if not fcntl.fcntl(work.source, fcntl.F_GETFL) & os.O_DIRECT and not work.was_cached:
            os.posix_fadvise(work.source, offset, length, os.POSIX_FADV_DONTNEED)
        if index % _DROP_EVERY == 0 and not fcntl.fcntl(work.destination, fcntl.F_GETFL) & os.O_DIRECT:
            os.fdatasync(work.destination)  # dirty pages cannot be dropped
            os.posix_fadvise(work.destination, 0, 0, os.POSIX_FADV_DONTNEED)


def _write_segments(fd: int, buffer: memoryview, offset: int, length: int, segments: list[tuple[int, int]]) -> None:
    """Write only what is data, widened to whole blocks (what is read between is zeros either way)."""
    end = round_up(length)
    buffer[length:end] = bytes(end - length)
    for start, stop in segments:
        at = (start - offset) // _ALIGN * _ALIGN
        to = min(round_up(stop - offset), end)
        while at < to:
            try:
                at += os.pwrite(fd, buffer[at:to], offset + at)
            except OSError as error:
                if error.errno != errno.EINVAL or not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
                    raise
                go_buffered(fd)
