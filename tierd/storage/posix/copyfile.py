"""What runs in each copying process: batches of entries of one directory, large files, hard-link groups.

Jobs (tuples):
    ("files", directory path, its inode, [(inode, name, kind)…], {name: known stamp})
    ("large", directory path, its inode, inode, name)
    ("group", [path…], {path: known stamp})
A known stamp is (type, inode, size, mtime_ns, ctime_ns) of the source as an earlier attempt recorded it.
The answer is a dict: `rows` (manifest entries without the attempt), `same` (paths that were copied before and are
unchanged), `links` ((inode, path, names) of entries with several names), `large` (jobs to be given out alone),
`chunks` ((path, digests, name of its record)).
"""

from __future__ import annotations

import errno
import os
import stat
import time
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from tierd.errors import Interrupted, SourceChanged, Unsupported
from tierd.fs.linux import is_cached
from tierd.fs.walk import open_directory, show, translate
from tierd.storage.manifest import CHUNK
from tierd.storage.posix.crew import Answer, Job
from tierd.storage.posix.limits import Board
from tierd.storage.posix.metadata import beside, read_xattrs, unpack_xattrs, write_refused, write_xattrs
from tierd.storage.posix.parts import Parts, part_name
from tierd.storage.posix.rangecopy import RangeCopier, data_segments, is_sparse

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FRESH_READ = 128 << 10
"""Up to here a new bytes object is cheaper than slicing the big buffer (above, malloc maps pages anew each time)."""
_RACY_NS = 20_000_000
"""A change that is younger than the clock tick of the file system may be followed by one with the same ctime."""

_TYPES = {stat.S_IFREG: "f", stat.S_IFLNK: "l", stat.S_IFIFO: "p", stat.S_IFCHR: "c", stat.S_IFBLK: "b"}

Stamp = tuple[str, int, int, int, int]
Row = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Places:
    """Open directories that every copying process inherits."""

    source: int
    tree: int
    parts: int
    dropped: int
    threads: int


class CopyWorker:
    """One copying process."""

    def __init__(self, number: int, places: Places, board: Board) -> None:
        self._number = number
        self._places = places
        self._board = board
        self._device = os.fstat(places.source).st_dev
        self._ids = (os.geteuid(), os.getegid())
        self._at: tuple[bytes, int, int, int] | None = None
        self._buffer = memoryview(bytearray(CHUNK + 1))
        self._ranges: RangeCopier | None = None
        self._dropped = 0

    def handle(self, job: Job) -> Answer:
        out: dict[str, list[Any]] = {"rows": [], "same": [], "links": [], "large": [], "chunks": []}
        try:
            if job[0] == "files":
                self._files(job[1], job[2], job[3], job[4], out)
            elif job[0] == "large":
                self._enter(job[1], job[2])
                fd, st = self._open(job[4], job[3], job[1])
                try:
                    self._regular(job[4], fd, st, job[1], None, out, is_cached(fd) is not False)
                finally:
                    os.close(fd)
            else:
                self._group(job[1], job[2], out)
        except Interrupted:
            if not out["rows"] and not out["same"]:
                raise
        return out

    # -- directories -------------------------------------------------------------------------------------

    def _enter(self, path: bytes, inode: int | None) -> tuple[int, int]:
        """Open a directory on both sides (the last one stays open); returns source and destination."""
        if self._at is not None:
            if self._at[0] == path and inode in (None, self._at[1]):
                return self._at[2], self._at[3]
            os.close(self._at[2])
            os.close(self._at[3])
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
            destination = open_directory(self._places.tree, path)
        except OSError as error:
            os.close(source)
            raise write_refused(error, show(path)) from error
        self._at = (path, found, source, destination)
        return source, destination

    # -- batches -----------------------------------------------------------------------------------------

    def _files(
        self, path: bytes, inode: int, entries: list[tuple[int, bytes, str]], known: dict[bytes, Stamp], out: Answer
    ) -> None:
        """Open everything and ask the kernel to read ahead, then copy one by one."""
        self._enter(path, inode)
        opened: list[tuple[bytes, int, os.stat_result, bool]] = []
        try:
            for number, name, kind in entries:
                if name in known and self._is_done(name, known[name], path, out):
                    continue
                if kind != "f":
                    self._special(name, number, path, out)
                    continue
                fd, st = self._open(name, number, path)
                if st.st_nlink > 1 or st.st_size > CHUNK:
                    os.close(fd)
                    if st.st_nlink > 1:
                        out["links"].append((st.st_ino, _join(path, name), st.st_nlink))
                    else:
                        out["large"].append(("large", path, inode, number, name))
                    continue
                cached = is_cached(fd) is not False
                if not cached:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
                opened.append((name, fd, st, cached))
            for name, fd, st, cached in opened:
                self._regular(name, fd, st, path, None, out, cached)
        finally:
            for _, fd, _, _ in opened:
                os.close(fd)

    def _open(self, name: bytes, inode: int, path: bytes) -> tuple[int, os.stat_result]:
        """Open a regular file of the source; never waits for a FIFO, never follows a link."""
        assert self._at is not None
        try:
            try:
                fd = os.open(name, _READ | os.O_NOATIME, dir_fd=self._at[2])
            except PermissionError as error:
                if error.errno != errno.EPERM:  # EACCES is a real refusal; EPERM only of O_NOATIME
                    raise
                fd = os.open(name, _READ, dir_fd=self._at[2])
        except OSError as error:
            raise translate(error, show(_join(path, name))) from error
        st = os.fstat(fd)
        if not stat.S_ISREG(st.st_mode) or st.st_ino != inode or st.st_dev != self._device:
            os.close(fd)
            if st.st_dev != self._device:
                raise Unsupported(
                    f"{show(_join(path, name))} is a mount point inside the snapshot",
                    hint="Unmount it, or make it a dataset of its own.",
                )
            raise SourceChanged(f"{show(_join(path, name))} was replaced while the tree was read")
        return fd, st

    def _is_done(self, name: bytes, known: Stamp, path: bytes, out: Answer) -> bool:
        """Whether an earlier attempt copied this entry, it has not changed since, and its copy is still there."""
        assert self._at is not None
        try:
            st = os.stat(name, dir_fd=self._at[2], follow_symlinks=False)
            copy = os.stat(name, dir_fd=self._at[3], follow_symlinks=False)
        except FileNotFoundError:
            return False
        size = st.st_size if known[0] in "fl" else 0
        if st.st_nlink > 1 or known != (_type(st), st.st_ino, size, st.st_mtime_ns, st.st_ctime_ns):
            return False
        if (copy.st_mode, copy.st_size, copy.st_mtime_ns) != (st.st_mode, st.st_size, st.st_mtime_ns):
            return False
        out["same"].append(_join(path, name))
        self._board.count(self._number, st.st_size if known[0] == "f" else 0, int(known[0] == "f"), moved=0)
        return True

    # -- regular files -----------------------------------------------------------------------------------

    def _regular(
        self, name: bytes, fd: int, st: os.stat_result, path: bytes, group: bytes | None, out: Answer, cached: bool
    ) -> Row:
        """Copy an open file with everything it has; adds its row."""
        assert self._at is not None
        full = _join(path, name)
        if st.st_ctime_ns > time.time_ns() - _RACY_NS:
            st = _settle(fd, st, full)
        if st.st_size > CHUNK:
            digest = self._large(name, fd, st, full, out, cached)
        else:
            self._board.throttle(st.st_size)
            digest = self._small(name, fd, st, full)
            self._board.count(self._number, st.st_size, 1)
            if not cached:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        row = _row(full, "f", st, st.st_size, self._xattrs, group=group, digest=digest)
        out["rows"].append(row)
        return row

    def _small(self, name: bytes, fd: int, st: os.stat_result, full: bytes) -> bytes:
        assert self._at is not None
        try:
            data = self._read(fd, st.st_size, full)
            self._xattrs = read_xattrs(fd)
        except OSError as error:
            raise translate(error, show(full)) from error
        try:
            target = self._create(name, st.st_mode & 0o777)
            try:
                if is_sparse(st):
                    for start, stop in data_segments(fd, 0, st.st_size):
                        _write_all(target, memoryview(data)[start:stop], start)
                    os.ftruncate(target, st.st_size)
                elif st.st_size:
                    _write_all(target, data, 0)
                self._keep(target, st, created_mode=st.st_mode & 0o777)
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

    def _large(self, name: bytes, fd: int, st: os.stat_result, full: bytes, out: Answer, cached: bool) -> bytes:
        if self._ranges is None:
            self._ranges = RangeCopier(self._board, self._number, self._places.threads)
        try:
            self._xattrs = read_xattrs(fd)
        except OSError as error:
            raise translate(error, show(full)) from error
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
                self._keep(target, st, created_mode=None)
            except OSError as error:
                raise write_refused(error, show(full)) from error
        finally:
            parts.close()
            os.close(target)
        out["chunks"].append((full, digests, part_name(st)))
        self._board.count(self._number, 0, 1)
        digest: bytes = blake3(digests).digest()
        return digest

    def _target_with_parts(self, name: bytes, st: os.stat_result, full: bytes) -> tuple[int, Parts]:
        """The destination of a large file: what an earlier attempt left if it fits, else a new one."""
        assert self._at is not None
        try:
            target = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._at[3])
        except OSError:
            target = -1
        if target >= 0:
            parts = Parts.open(self._places.parts, st, full, os.fstat(target))
            if parts is not None:
                return target, parts
            os.close(target)
        target = self._create(name, 0o600)
        return target, Parts.create(self._places.parts, st, full, os.fstat(target))

    def _create(self, name: bytes, mode: int) -> int:
        """A new file in the destination; whatever an earlier attempt left there goes."""
        assert self._at is not None
        try:
            return os.open(name, _WRITE, mode, dir_fd=self._at[3])
        except FileExistsError:
            self._clear(name)
            return os.open(name, _WRITE, mode, dir_fd=self._at[3])

    def _clear(self, name: bytes) -> None:
        """Take a name of the staged tree away; directories are set aside for the parent to delete."""
        assert self._at is not None
        try:
            os.unlink(name, dir_fd=self._at[3])
        except FileNotFoundError:
            pass
        except (IsADirectoryError, PermissionError):
            self._dropped += 1
            aside = b"%d-%d" % (os.getpid(), self._dropped)
            os.rename(name, aside, src_dir_fd=self._at[3], dst_dir_fd=self._places.dropped)

    def _keep(self, target: int, st: os.stat_result, *, created_mode: int | None) -> None:
        """Owner, mode, attributes, times: in this order."""
        mode = st.st_mode & 0o7777
        if (st.st_uid, st.st_gid) != self._ids or created_mode is None:
            os.fchown(target, st.st_uid, st.st_gid)
        if mode != created_mode:
            os.fchmod(target, mode)
        if self._xattrs:
            write_xattrs(target, self._xattrs)
        os.utime(target, ns=(st.st_atime_ns, st.st_mtime_ns))

    # -- everything else ---------------------------------------------------------------------------------

    def _special(self, name: bytes, inode: int, path: bytes, out: Answer, group: bytes | None = None) -> None:
        """Links, FIFOs, devices; `group` is set when it is the first of a hard-link group."""
        source, destination = self._enter(path, None)
        full = _join(path, name)
        target = None
        try:
            st = os.stat(name, dir_fd=source, follow_symlinks=False)
            if stat.S_ISLNK(st.st_mode):
                target = os.readlink(name, dir_fd=source)
            xattrs = read_xattrs(beside(source, name))
            after = os.stat(name, dir_fd=source, follow_symlinks=False)
        except OSError as error:
            raise translate(error, show(full)) from error
        kind = _type(st)
        if kind is None:
            raise Unsupported(
                f"{show(full)} is a socket, which cannot be copied",
                hint="Remove it from the snapshot; a socket is of use only while its program runs.",
            )
        if st.st_ino != inode or after.st_ctime_ns != st.st_ctime_ns or kind == "f":
            raise SourceChanged(f"{show(full)} was replaced while the tree was read")
        if st.st_nlink > 1 and group is None:
            out["links"].append((st.st_ino, full, st.st_nlink))
            return
        try:
            self._clear(name)
            if target is not None:
                os.symlink(target, name, dir_fd=destination)
            else:
                os.mknod(name, stat.S_IFMT(st.st_mode) | 0o600, st.st_rdev, dir_fd=destination)
            if (st.st_uid, st.st_gid) != self._ids:
                os.chown(name, st.st_uid, st.st_gid, dir_fd=destination, follow_symlinks=False)
            if target is None:
                os.chmod(name, st.st_mode & 0o7777, dir_fd=destination)
            for key, value in unpack_xattrs(xattrs).items():
                os.setxattr(beside(destination, name), key, value, follow_symlinks=False)
            os.utime(name, ns=(st.st_atime_ns, st.st_mtime_ns), dir_fd=destination, follow_symlinks=False)
        except OSError as error:
            raise write_refused(error, show(full)) from error
        size = 0 if target is None else len(target)
        out["rows"].append(_row(full, kind, st, size, xattrs, group=group, target=target))

    # -- hard links --------------------------------------------------------------------------------------

    def _group(self, paths: list[bytes], known: dict[bytes, Stamp], out: Answer) -> None:
        """Copy the first name of a group and link the others to it; `paths` in path order."""
        leader = paths[0]
        path, name = _split(leader)
        source, destination = self._enter(path, None)
        try:
            st = os.stat(name, dir_fd=source, follow_symlinks=False)
        except OSError as error:
            raise translate(error, show(leader)) from error
        if st.st_nlink != len(paths):
            raise SourceChanged(f"the hard links of {show(leader)} changed while the tree was read")
        if not self._is_leader_done(leader, st, known, out):
            if stat.S_ISREG(st.st_mode):
                fd, st = self._open(name, st.st_ino, path)
                try:
                    self._regular(name, fd, st, path, leader, out, is_cached(fd) is not False)
                finally:
                    os.close(fd)
            else:
                self._special(name, st.st_ino, path, out, group=leader)
        fresh = out["rows"][-1] if out["rows"] else None
        anchor = os.dup(destination)
        try:
            copy = os.stat(name, dir_fd=anchor, follow_symlinks=False)
            for other in paths[1:]:
                self._link(anchor, name, copy.st_ino, other, st.st_ino)
                if fresh is None:
                    out["same"].append(other)
                else:
                    out["rows"].append((other, *fresh[1:]))
                if stat.S_ISREG(st.st_mode):
                    self._board.count(self._number, 0, 1, moved=0)
        finally:
            os.close(anchor)

    def _is_leader_done(self, leader: bytes, st: os.stat_result, known: dict[bytes, Stamp], out: Answer) -> bool:
        """As `_is_done`, for a group whose members were all recorded before."""
        assert self._at is not None
        stamp = (_type(st), st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns)
        if not known or any(value != stamp for value in known.values()):
            return False
        try:
            copy = os.stat(_split(leader)[1], dir_fd=self._at[3], follow_symlinks=False)
        except FileNotFoundError:
            return False
        if (copy.st_mode, copy.st_size, copy.st_mtime_ns) != (st.st_mode, st.st_size, st.st_mtime_ns):
            return False
        out["same"].append(leader)
        self._board.count(self._number, st.st_size, 1, moved=0)
        return True

    def _link(self, anchor: int, name: bytes, inode: int, other: bytes, source_inode: int) -> None:
        path, own = _split(other)
        source, destination = self._enter(path, None)
        try:
            found = os.stat(own, dir_fd=source, follow_symlinks=False).st_ino
        except OSError as error:
            raise translate(error, show(other)) from error
        if found != source_inode:
            raise SourceChanged(f"{show(other)} was replaced while the tree was read")
        try:
            try:
                if os.stat(own, dir_fd=destination, follow_symlinks=False).st_ino == inode:
                    return
                self._clear(own)
            except FileNotFoundError:
                pass
            os.link(name, own, src_dir_fd=anchor, dst_dir_fd=destination, follow_symlinks=False)
        except OSError as error:
            raise write_refused(error, show(other)) from error


def _settle(fd: int, st: os.stat_result, full: bytes) -> os.stat_result:
    """Wait until a later change must carry another ctime than the one that will be recorded."""
    time.sleep(_RACY_NS / 1e9)
    after = os.fstat(fd)
    if after.st_ctime_ns != st.st_ctime_ns:
        raise SourceChanged(f"{show(full)} is being written")
    return after


def _write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    written = os.pwrite(fd, data, offset)
    while written < len(data):
        written += os.pwrite(fd, memoryview(data)[written:], offset + written)


def _type(st: os.stat_result) -> str | None:
    return _TYPES.get(stat.S_IFMT(st.st_mode))


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name


def _split(path: bytes) -> tuple[bytes, bytes]:
    parent, _, name = path.rpartition(b"/")
    return parent, name


def _row(
    full: bytes,
    kind: str,
    st: os.stat_result,
    size: int,
    xattrs: bytes | None,
    *,
    group: bytes | None = None,
    target: bytes | None = None,
    digest: bytes | None = None,
) -> Row:
    """A manifest entry without its last column, the attempt."""
    return (
        full, kind, size, st.st_mode & 0o7777, st.st_uid, st.st_gid, st.st_mtime_ns, st.st_atime_ns,
        st.st_rdev if kind in "cb" else 0, xattrs, target, group, digest, st.st_ino, st.st_ctime_ns, None, None,
    )  # fmt: skip
