"""Who may enter the directory that holds a dataset's copies on another tier: nobody who may not enter the dataset.

Files inside a snapshot often rely on the directory above it to keep others out, and that directory is not copied.
The directory of copies belongs to tierd, so that nobody moves them; the dataset's owner enters it through an ACL.

Source: acl(5); linux/posix_acl_xattr.h for the form of `system.posix_acl_access`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct

_ACL = "system.posix_acl_access"
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_VERSION = 2
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NOBODY = 0xFFFFFFFF
_READ_ENTER = 5

_Entry = tuple[int, int, int]
"""Tag, permissions, id."""


def fence(fd: int, like_fd: int) -> None:
    """Let into the directory `fd`, which stays the caller's own, whom `like_fd` lets in; nobody may write.

    Where the file system has no ACLs, the owner of `like_fd` enters only as far as group and others do.
    """
    like = os.fstat(like_fd)
    entries = _entries(like_fd, like)
    with contextlib.suppress(PermissionError):  # an unprivileged tierd that is not in that group
        os.fchown(fd, -1, like.st_gid)
    os.fchmod(fd, 0o700)
    wanted = 0o700 | _of(entries, _GROUP_OBJ) << 3 | _of(entries, _OTHER)
    if any(tag == _MASK for tag, _, _ in entries):
        raw = _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)
        try:
            os.setxattr(fd, _ACL, raw)
            return
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            wanted = 0o700 | like.st_mode & 0o055
    else:
        with contextlib.suppress(OSError):
            os.removexattr(fd, _ACL)
    os.fchmod(fd, wanted)


def _entries(like_fd: int, like: os.stat_result) -> list[_Entry]:
    """The access list for the directory of copies, in the order that the kernel wants."""
    found = _acl(like_fd) or [
        (_USER_OBJ, like.st_mode >> 6 & 7, _NOBODY),
        (_GROUP_OBJ, like.st_mode >> 3 & 7, _NOBODY),
        (_OTHER, like.st_mode & 7, _NOBODY),
    ]
    kept = [(tag, permissions & _READ_ENTER, who) for tag, permissions, who in found if tag != _USER_OBJ]
    if like.st_uid != os.geteuid():
        kept = [entry for entry in kept if (entry[0], entry[2]) != (_USER, like.st_uid)]
        kept.append((_USER, _of(found, _USER_OBJ) & _READ_ENTER, like.st_uid))
        kept = [entry for entry in kept if entry[0] != _MASK]
        # The mask must let the owner in, and must not let in anybody whom the old one kept out.
        old = _of(found, _MASK) if any(tag == _MASK for tag, _, _ in found) else 7
        kept = [(t, p if (t, w) == (_USER, like.st_uid) or t == _OTHER else p & old, w) for t, p, w in kept]
        kept.append((_MASK, _READ_ENTER, _NOBODY))
    return sorted([(_USER_OBJ, 7, _NOBODY), *kept], key=lambda entry: (entry[0], entry[2]))


def _acl(fd: int) -> list[_Entry]:
    try:
        raw = os.getxattr(fd, _ACL)
    except OSError:
        return []
    return list(_ENTRY.iter_unpack(raw[_HEADER.size :]))


def _of(entries: list[_Entry], tag: int) -> int:
    return next((permissions for found, permissions, _ in entries if found == tag), 0)
