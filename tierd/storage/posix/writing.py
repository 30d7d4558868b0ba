"""Give what was written its owner, mode, attributes and times; in this order (see `metadata`)."""

from __future__ import annotations

import os
from typing import NamedTuple

from tierd.storage.posix.metadata import beside, unpack_xattrs, write_xattrs


class Attributes(NamedTuple):
    """What an entry shall have; `mode` are its permission bits."""

    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int


def attributes_of(st: os.stat_result) -> Attributes:
    return Attributes(st.st_mode & 0o7777, st.st_uid, st.st_gid, st.st_atime_ns, st.st_mtime_ns)


def keep_attributes(
    target: int, wanted: Attributes, xattrs: bytes | None, *, ids: tuple[int, int], created_mode: int | None
) -> None:
    """Set them on an open file.

    Args:
        ids: owner and group that a new file of this process has.
        created_mode: the mode that a new file was created with; None for one that exists for longer.
    """
    if (wanted.uid, wanted.gid) != ids or created_mode is None:
        os.fchown(target, wanted.uid, wanted.gid)
    if wanted.mode != created_mode:
        os.fchmod(target, wanted.mode)
    if xattrs:
        write_xattrs(target, xattrs)
    os.utime(target, ns=(wanted.atime_ns, wanted.mtime_ns))


def make_special(
    dir_fd: int,
    name: bytes,
    kind: int,
    wanted: Attributes,
    device: int,
    target: bytes | None,
    xattrs: bytes | None,
    *,
    ids: tuple[int, int],
) -> None:
    """Make a link (to `target`), a FIFO or a device (`kind` as in `st_mode`) under a free name."""
    if target is not None:
        os.symlink(target, name, dir_fd=dir_fd)
    else:
        os.mknod(name, kind | 0o600, device, dir_fd=dir_fd)
    if (wanted.uid, wanted.gid) != ids:
        os.chown(name, wanted.uid, wanted.gid, dir_fd=dir_fd, follow_symlinks=False)
    if target is None:
        os.chmod(name, wanted.mode, dir_fd=dir_fd)
    for key, value in unpack_xattrs(xattrs).items():
        os.setxattr(beside(dir_fd, name), key, value, follow_symlinks=False)
    os.utime(name, ns=(wanted.atime_ns, wanted.mtime_ns), dir_fd=dir_fd, follow_symlinks=False)


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    written = os.pwrite(fd, data, offset)
    while written < len(data):
        written += os.pwrite(fd, memoryview(data)[written:], offset + written)
