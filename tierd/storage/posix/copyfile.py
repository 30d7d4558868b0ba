"""Copy one entry of a directory with everything it has: files, links, FIFOs, devices.

Nothing of the source is followed, waited for or written; what is in the way in the destination goes.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from blake3 import blake3

from tierd.errors import SourceChanged
from tierd.fs.walk import open_directory, show, translate
from tierd.storage.manifest import CHUNK
from tierd.storage.posix.limits import Board
from tierd.storage.posix.metadata import read_xattrs, write_refused
from tierd.storage.posix.parts import Parts
from tierd.storage.posix.rangecopy import RangeCopier, data_segments, is_sparse
from tierd.storage.posix.reading import (
    Row,
    WriterCheck,
    entry_row,
    entry_type,
    look_at_special,
    open_file,
    read_special,
    settled,
)
from tierd.storage.posix.writing import attributes_of, keep_attributes, make_special, write_all

_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FRESH_READ = 128 << 10
"""Up to here a new bytes object is cheaper than slicing the big buffer (above, malloc maps pages anew each time)."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Open directories that every copying process inherits."""

    source: int
    tree: int
    parts: int
    dropped: int
    threads: int


class EntryCopier:
    """Copies entries of the directory it has entered; one per process."""

    def __init__(self, number: int, places: Places, board: Board) -> None:
        self._number = number
        self._places = places
        self._board = board
        self._device = os.fstat(places.source).st_dev
        self._ids = (os.geteuid(), os.getegid())
        self._at: tuple[bytes, int] | None = None
        self.source = -1
        """The directory entered, in the source; `destination` is its copy."""
        self.destination = -1
        self._buffer = memoryview(bytearray(CHUNK + 1))
        self._ranges: RangeCopier | None = None
        self._dropped = 0
        self._writers = WriterCheck()

    def enter(self, path: bytes, inode: int | None = None) -> None:
        """Open a directory on both sides (the last one stays open); with `inode`, it must be that one."""
        if self._at is not None:
            if self._at[0] == path and inode in (None, self._at[1]):
                return
            os.close(self.source)
            os.close(self.destination)
            self._at = None
        try:
            source = open_directory(self._places.source, path)
        except OSError as error:
            raise translate(error, show(path)) from error
        found = os.fstat(source).st_ino
        if inode is not None and found != inode:
            os.close(source)
            raise SourceChanged(f"{show(path)} was replaced while it was read")
        try:
            self.destination = open_directory(self._places.tree, path)
        except OSError as error:
            os.close(source)
            raise write_refused(error, show(path)) from error
        self.source = source
        self._at = (path, found)

    @property
    def path(self) -> bytes:
        """Of the directory entered."""
        return self._at[0] if self._at is not None else b""

    def full(self, name: bytes) -> bytes:
        """The path of an entry of the directory entered."""
        return join(self.path, name)

    def open(self, name: bytes, inode: int) -> tuple[int, os.stat_result]:
        """Open a regular file of the source; never waits for a FIFO, never follows a link."""
        return open_file(self.source, name, inode, self._device, self.full(name))

    # -- regular files -----------------------------------------------------------------------------------

    def regular(
        self, name: bytes, fd: int, st: os.stat_result, *, group: bytes | None, cached: bool
    ) -> tuple[Row, bytes | None]:
        """Copy an open file; returns its row, and the chunk digests of a large one.

        Args:
            group: the first path of its hard-link group, if it has one.
            cached: it was in the page cache before tierd touched it, so it stays there.
        """
        full = self.full(name)
        st = settled(fd, st, full)
        self._writers.refuse(fd, full)  # after the stamp that counts was taken
        try:
            xattrs = read_xattrs(fd)
        except OSError as error:
            raise translate(error, show(full)) from error
        digests = None
        if st.st_size > CHUNK:
            digests = self._large(name, fd, st, full, xattrs, cached)
            digest = blake3(digests).digest()
            self._board.count(self._number, 0, 1)
        else:
            self._board.throttle(st.st_size)
            digest = self._small(name, fd, st, full, xattrs)
            self._board.count(self._number, st.st_size, 1)
            if not cached:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return entry_row(full, "f", st, st.st_size, xattrs, group=group, digest=digest), digests

    def _small(self, name: bytes, fd: int, st: os.stat_result, full: bytes, xattrs: bytes | None) -> bytes:
        try:
            data = self._read(fd, st.st_size, full)
        except OSError as error:
            raise translate(error, show(full)) from error
        try:
            target = self._create(name, st.st_mode & 0o777)
            try:
                if is_sparse(st):
                    for start, stop in data_segments(fd, 0, st.st_size):
                        write_all(target, memoryview(data)[start:stop], start)
                    os.ftruncate(target, st.st_size)
                elif st.st_size:
                    write_all(target, data, 0)
                self._keep(target, st, xattrs, created_mode=st.st_mode & 0o777)
            finally:
                os.close(target)
        except OSError as error:
            raise write_refused(error, show(full)) from error
        digest: bytes = blake3(data).digest()
        return digest

    def _read(self, fd: int, size: int, full: bytes) -> bytes | memoryview:
        """The whole file, which must be as long as it said."""
        data: bytes | memoryview
        if size <= _FRESH_READ:
            data = os.read(fd, size + 1)
            if len(data) == size:
                return data
        got = 0
        while got <= size:
            n = os.preadv(fd, [self._buffer[got : size + 1]], got)
            if n == 0:
                break
            got += n
        if got != size:
            raise SourceChanged(f"{show(full)} changed its size while it was read")
        return self._buffer[:size]

    def _large(
        self, name: bytes, fd: int, st: os.stat_result, full: bytes, xattrs: bytes | None, cached: bool
    ) -> bytes:
        """Copy a file of several chunks; returns their digests."""
        if self._ranges is None:
            self._ranges = RangeCopier(self._board, self._number, self._places.threads)
        try:
            target, parts = self._target_with_parts(name, st, full)
        except OSError as error:
            raise write_refused(error, show(full)) from error
        try:
            digests = self._ranges.copy(fd, target, st, full, parts, cached)
            after = os.fstat(fd)
            if (after.st_size, after.st_mtime_ns, after.st_ctime_ns) != (st.st_size, st.st_mtime_ns, st.st_ctime_ns):
                raise SourceChanged(f"{show(full)} was changed while it was read")
            try:
                self._keep(target, st, xattrs, created_mode=None)
            except OSError as error:
                raise write_refused(error, show(full)) from error
        finally:
            parts.close()
            os.close(target)
        return digests

    def _target_with_parts(self, name: bytes, st: os.stat_result, full: bytes) -> tuple[int, Parts]:
        """The destination of a large file: what an earlier attempt left if it fits, else a new one."""
        try:
            before = os.stat(name, dir_fd=self.destination, follow_symlinks=False)
        except FileNotFoundError:
            before = None
        if before is not None and stat.S_ISREG(before.st_mode):
            parts = Parts.open(self._places.parts, st, full, before)
            if parts is not None:
                try:
                    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                    return os.open(name, flags, dir_fd=self.destination), parts
                except PermissionError:  # unprivileged, and it has its final mode already
                    parts.close()
        target = self._create(name, 0o600)
        return target, Parts.create(self._places.parts, st, full, os.fstat(target))

    def _create(self, name: bytes, mode: int) -> int:
        """A new file in the destination; whatever an earlier attempt left there goes."""
        try:
            return os.open(name, _WRITE, mode, dir_fd=self.destination)
        except FileExistsError:
            self.clear(name)
            return os.open(name, _WRITE, mode, dir_fd=self.destination)

    def clear(self, name: bytes) -> None:
        """Take a name of the staged tree away; directories are set aside for the parent to delete."""
        try:
            os.unlink(name, dir_fd=self.destination)
        except FileNotFoundError:
            pass
        except (IsADirectoryError, PermissionError):
            self._dropped += 1
            aside = b"%d-%d" % (os.getpid(), self._dropped)
            if self._ids[0] != 0:  # to move a directory is to write its ".."
                os.chmod(name, 0o700, dir_fd=self.destination)
            os.rename(name, aside, src_dir_fd=self.destination, dst_dir_fd=self._places.dropped)

    def _keep(self, target: int, st: os.stat_result, xattrs: bytes | None, *, created_mode: int | None) -> None:
        keep_attributes(target, attributes_of(st), xattrs, ids=self._ids, created_mode=created_mode)

    # -- everything else ---------------------------------------------------------------------------------

    def special(self, name: bytes, inode: int, *, group: bytes | None = None) -> Row | os.stat_result:
        """Copy a link, FIFO or device; returns its row, or its status when it has other names (and no `group`)."""
        source, full = self.source, self.full(name)
        st = look_at_special(source, name, inode, full)
        if st.st_nlink > 1 and group is None:
            return st
        target, xattrs = read_special(source, name, st, full)
        try:
            self._make_special(name, st, target, xattrs)
        except OSError as error:
            raise write_refused(error, show(full)) from error
        size = 0 if target is None else len(target)
        return entry_row(full, entry_type(st) or "", st, size, xattrs, group=group, target=target)

    def _make_special(self, name: bytes, st: os.stat_result, target: bytes | None, xattrs: bytes | None) -> None:
        self.clear(name)
        kind = stat.S_IFMT(st.st_mode)
        make_special(self.destination, name, kind, attributes_of(st), st.st_rdev, target, xattrs, ids=self._ids)


def join(path: bytes, name: bytes) -> bytes:
    """The path of an entry of a directory; the root's is b""."""
    return path + b"/" + name if path else name


def split(path: bytes) -> tuple[bytes, bytes]:
    """The directory and the name."""
    parent, _, name = path.rpartition(b"/")
    return parent, name
