"""Owner, mode, times, ACLs and extended attributes: read from one entry, kept on another, compared.

The order matters: chown clears setuid bits and capabilities, a chmod rewrites an ACL's mask, every other change
touches the times. So: data, chown, chmod, attributes, times.
"""

from __future__ import annotations

import errno
import os
import struct

from tierd.errors import Denied, StorageError, TierdError, Unsupported
from tierd.fs.walk import translate

Target = int | bytes
"""An open descriptor, or a path whose last component is not followed."""

_NAME, _VALUE = struct.Struct("<H"), struct.Struct("<I")
_SMALL_VALUE = 512
_ACLS = (b"system.posix_acl_default", b"system.posix_acl_access")
# xfs lists its ACLs twice; btrfs.* are properties of one file system, not of the file.
_SKIPPED = ("trusted.SGI_ACL_", "btrfs.")


def beside(dir_fd: int, name: bytes) -> bytes:
    """A path to an entry of an open directory, for calls that take no directory descriptor."""
    return b"/proc/self/fd/%d/%s" % (dir_fd, name)


def read_xattrs(target: Target) -> bytes | None:
    """All attributes, packed in the manifest's form; None when there are none."""
    follow = isinstance(target, int)
    try:
        names = os.listxattr(target, follow_symlinks=follow)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return None
        raise
    if not names:
        return None
    packed = []
    for name in sorted(os.fsencode(n) for n in names if not n.startswith(_SKIPPED)):
        value = os.getxattr(target, name, follow_symlinks=follow)
        packed += [_NAME.pack(len(name)), name, _VALUE.pack(len(value)), value]
    return b"".join(packed) or None


def unpack_xattrs(packed: bytes | None) -> dict[bytes, bytes]:
    """The attributes of the packed form, sorted by name."""
    found: dict[bytes, bytes] = {}
    at, data = 0, packed or b""
    while at < len(data):
        (length,) = _NAME.unpack_from(data, at)
        at += _NAME.size
        name = data[at : at + length]
        at += length
        (length,) = _VALUE.unpack_from(data, at)
        at += _VALUE.size
        found[name] = data[at : at + length]
        at += length
    return found


def write_xattrs(target: Target, packed: bytes | None, *, is_new: bool = True) -> None:
    """Set the attributes; on an entry that is not new, also remove those it should not have."""
    follow = isinstance(target, int)
    wanted = unpack_xattrs(packed)
    if not is_new:
        for name in unpack_xattrs(read_xattrs(target)):
            if name not in wanted:
                os.removexattr(target, name, follow_symlinks=follow)
    for name, value in wanted.items():
        try:
            os.setxattr(target, name, value, follow_symlinks=follow)
        except OSError as error:
            if error.errno == errno.ENOSPC and len(value) > _SMALL_VALUE and os.statvfs(target).f_bavail:
                # ext4 keeps attributes in one block, and calls it "no space" when that is not enough
                raise OSError(errno.EOPNOTSUPP, f"its attribute {os.fsdecode(name)} is too large") from error
            raise


def forget_acls(dir_fd: int) -> None:
    """Remove a directory's ACLs: what it inherited from above, and what would be inherited inside."""
    for name in _ACLS:
        try:
            os.removexattr(dir_fd, name)
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                raise


def write_refused(error: OSError, subject: str) -> TierdError:
    """The tierd error for what a destination refused while `subject` was written."""
    match error.errno:
        case errno.EPERM | errno.EACCES:
            return Denied(
                f"the destination refuses to keep the owner, mode or attributes of {subject} ({error.strerror})",
                hint="Run tierd as root, or as the owner of the files.",
            )
        case errno.EOPNOTSUPP | errno.ENAMETOOLONG | errno.EMLINK | errno.EFBIG | errno.E2BIG | errno.EINVAL:
            return Unsupported(
                f"the destination cannot keep {subject} ({error.strerror})",
                hint="Use a tier on ext4, xfs or btrfs, or take that entry out of the snapshot.",
            )
        case errno.ENOENT | errno.ENOTDIR | errno.ELOOP | errno.ESTALE:
            return StorageError(f"the staged copy of {subject} was disturbed ({error.strerror})")
        case _:
            return translate(error, subject)
