"""One entry of a manifest, and what a snapshot's content id is made of.

**Digest of a file**: blake3 of its bytes when it has at most 4 MiB; else blake3 of the 32-byte blake3 digests of
its 4 MiB chunks, one after the other (the last chunk may be shorter), so that ranges can be read and checked alone.

**Content id**: the hexadecimal blake3 of `b"tierd manifest 1\\n"` followed by a record for each entry, the root
(path `b""`) included, in the order of the paths as byte strings. A record, little-endian:

    1 byte    type: f file, d directory, l symbolic link, p FIFO, c character device, b block device
    u32       permission bits (mode & 0o7777)
    u32, u32  owner and group
    i64       mtime in ns since the epoch
    u64       size in bytes (files; the length of the target for links; else 0)
    u64       device number (devices; else 0)
    5 fields  u32 length and bytes (length 0 when absent): path; link target; hard-link group, which is the path of
              the group's first member; extended attributes; digest

Extended attributes are packed sorted by name, each as u16 length and name, u32 length and value; POSIX ACLs are
among them (`system.posix_acl_access`, `system.posix_acl_default`). What a user does not see is not in it: access
times, inodes, holes.
"""

from __future__ import annotations

import struct
from typing import Literal, NamedTuple

Side = Literal["source", "copy"]
"""Which tree's stamps: the one that was read, or the one that was written."""

CHUNK = 4 << 20
"""Bytes per chunk; a file of at most this size has one digest and no chunks."""

CONTENT_HEADER = b"tierd manifest 1\n"
"""What the content id's input begins with."""

_HEAD = struct.Struct("<cIIIqQQI")
_LENGTH = struct.Struct("<I")
_DIGEST_BYTES = 32
_PLAIN = struct.pack("<IIII", 0, 0, 0, _DIGEST_BYTES)
"""The lengths between path and digest of a file that has nothing else."""


class Entry(NamedTuple):
    """One entry, in the order of the table's columns.

    Attributes:
        path: relative to the root, b"" for the root itself.
        type: f, d, l, p, c or b (see the module).
        size: bytes of a file, length of a link's target, else 0.
        mode: permission bits with setuid, setgid and sticky.
        xattrs: packed (see the module), None when there are none.
        link_group: path of the first member of its hard-link group, None for an entry with one name.
        source_inode, source_ctime_ns: stamp of the entry that was read; its size and mtime are the entry's own.
        copy_inode, copy_ctime_ns: stamp of the entry that was written; None until the copy was verified.
        attempt: the attempt of the copy that last saw it in the source.
    """

    path: bytes
    type: str
    size: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    atime_ns: int
    rdev: int = 0
    xattrs: bytes | None = None
    target: bytes | None = None
    link_group: bytes | None = None
    digest: bytes | None = None
    source_inode: int | None = None
    source_ctime_ns: int | None = None
    copy_inode: int | None = None
    copy_ctime_ns: int | None = None
    attempt: int = 0

    def canonical(self) -> bytes:
        """The record of this entry in the content id."""
        return canonical(*(getattr(self, column) for column in CONTENT_COLUMNS))


CONTENT_COLUMNS = (
    "path", "type", "size", "mode", "uid", "gid", "mtime_ns", "rdev", "xattrs", "target", "link_group", "digest"
)  # fmt: skip
"""What of an entry a user sees, as `canonical` takes it."""


def canonical(
    path: bytes,
    kind: str,
    size: int,
    mode: int,
    uid: int,
    gid: int,
    mtime_ns: int,
    rdev: int,
    xattrs: bytes | None,
    target: bytes | None,
    link_group: bytes | None,
    digest: bytes | None,
) -> bytes:
    """The record of an entry in the content id."""
    head = _HEAD.pack(kind.encode(), mode, uid, gid, mtime_ns, size, rdev, len(path))
    if target is link_group is xattrs is None and digest is not None and len(digest) == _DIGEST_BYTES:  # nearly all
        return b"%b%b%b%b" % (head, path, _PLAIN, digest)
    parts = [head, path]
    for field in (target, link_group, xattrs, digest):
        parts.append(_LENGTH.pack(len(field or b"")))
        if field:
            parts.append(field)
    return b"".join(parts)


class Stamp(NamedTuple):
    """What must be equal for an entry to count as unchanged; size is not compared for directories."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def stamp_of(entry: Entry, side: Side) -> Stamp | None:
    """The stamp of one side of an entry; None when it has none."""
    inode, ctime = (
        (entry.source_inode, entry.source_ctime_ns) if side == "source" else (entry.copy_inode, entry.copy_ctime_ns)
    )
    if inode is None or ctime is None:
        return None
    return Stamp(inode, entry.size, entry.mtime_ns, ctime)
