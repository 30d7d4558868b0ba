"""Open and look at entries of a tree that others own: nothing is followed, waited for or written."""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import Any

from tierd.errors import SourceBusy, SourceChanged, Unsupported
from tierd.fs.walk import show, translate
from tierd.storage.posix.leases import has_writer
from tierd.storage.posix.metadata import beside, read_xattrs

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_RACY_NS = 20_000_000
"""A change that is younger than the clock tick of the file system may be followed by one with the same ctime."""

_TYPES = {stat.S_IFREG: "f", stat.S_IFLNK: "l", stat.S_IFIFO: "p", stat.S_IFCHR: "c", stat.S_IFBLK: "b"}


Row = tuple[Any, ...]
"""A manifest entry without its last column, the attempt."""


def entry_type(st: os.stat_result) -> str | None:
    """The manifest's letter for an entry; None for a directory or a socket."""
    return _TYPES.get(stat.S_IFMT(st.st_mode))


def open_file(dir_fd: int, name: bytes, inode: int, device: int, full: bytes) -> tuple[int, os.stat_result]:
    """Open a regular file of a directory; it must be that inode on that device. `full` is its path, for messages.

    Raises:
        SourceChanged, Unsupported (a mount point), Denied
    """
    try:
        try:
            fd = os.open(name, _READ | os.O_NOATIME, dir_fd=dir_fd)
        except PermissionError as error:
            if error.errno != errno.EPERM:  # EACCES is a real refusal; EPERM only of O_NOATIME
                raise
            fd = os.open(name, _READ, dir_fd=dir_fd)
    except OSError as error:
        raise translate(error, show(full)) from error
    st = os.fstat(fd)
    if not stat.S_ISREG(st.st_mode) or st.st_ino != inode or st.st_dev != device:
        os.close(fd)
        if st.st_dev != device:
            raise Unsupported(
                f"{show(full)} is a mount point inside the snapshot",
                hint="Unmount it, or make it a dataset of its own.",
            )
        raise SourceChanged(f"{show(full)} was replaced while the tree was read")
    return fd, st


def settled(fd: int, st: os.stat_result, full: bytes) -> os.stat_result:
    """The status that is recorded: a later change must carry another ctime than this one.

    Raises:
        SourceChanged: it is being written.
    """
    if st.st_ctime_ns <= time.time_ns() - _RACY_NS:
        return st
    time.sleep(_RACY_NS / 1e9)
    after = os.fstat(fd)
    if after.st_ctime_ns != st.st_ctime_ns:
        raise SourceChanged(f"{show(full)} is being written")
    return after


class WriterCheck:
    """Refuses files that somebody has open for writing, as far as the kernel can say."""

    def __init__(self) -> None:
        self._can_lease = True

    def refuse(self, fd: int, full: bytes) -> None:
        """Stores into a mapping that exists already leave no trace in the times; a mapping made later sets ctime.

        So nobody may have the file open for writing when it is read; whoever comes after is found by the proof.
        Ask after the stamp that counts was taken.

        Raises:
            SourceBusy
        """
        if not self._can_lease:
            return
        try:
            writer = has_writer(fd)
        except OSError as error:
            raise translate(error, show(full)) from error
        if writer is None:
            self._can_lease = False
        elif writer:
            raise SourceBusy(
                f"a process has {show(full)} open for writing", hint="It is tried again later, when the file is closed."
            )


def look_at_special(dir_fd: int, name: bytes, inode: int, full: bytes) -> os.stat_result:
    """The status of a link, FIFO or device.

    Raises:
        Unsupported: a socket.
        SourceChanged: something else is there.
    """
    try:
        st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except OSError as error:
        raise translate(error, show(full)) from error
    if stat.S_ISSOCK(st.st_mode):
        raise Unsupported(
            f"{show(full)} is a socket, which cannot be copied",
            hint="Remove it from the snapshot; a socket is of use only while its program runs.",
        )
    if st.st_ino != inode or entry_type(st) in (None, "f"):
        raise SourceChanged(f"{show(full)} was replaced while the tree was read")
    return st


def read_special(dir_fd: int, name: bytes, st: os.stat_result, full: bytes) -> tuple[bytes | None, bytes | None]:
    """The target of a link, and the attributes of any; it must still be as it was looked at.

    To read a target is to access the link, and Linux offers no other way: look first, and read only once.
    """
    try:
        target = os.readlink(name, dir_fd=dir_fd) if stat.S_ISLNK(st.st_mode) else None
        xattrs = read_xattrs(beside(dir_fd, name))
        after = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.EINVAL:  # readlink of what was a link a moment ago
            raise SourceChanged(f"{show(full)} was replaced while the tree was read") from error
        raise translate(error, show(full)) from error
    if after.st_ctime_ns != st.st_ctime_ns:
        raise SourceChanged(f"{show(full)} was replaced while the tree was read")
    return target, xattrs


def entry_row(
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
