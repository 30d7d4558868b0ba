"""When an inode was born: tells a renamed directory from a new one that was given a freed inode number.

Source: statx(2). Inode numbers are reused at once on ext4; the birth time is not.
"""

from __future__ import annotations

import ctypes
import os
import struct
from datetime import UTC, datetime, timedelta

_AT_SYMLINK_NOFOLLOW = 0x100
_STATX_BTIME = 0x800
_BUFFER_BYTES = 256
_MASK_OFFSET, _BTIME_OFFSET = 0, 0x50
_TIMESTAMP = struct.Struct("=qI")

_libc = ctypes.CDLL(None, use_errno=True)


def born_at(dir_fd: int, name: bytes) -> datetime | None:
    """The birth time of the entry `name` (a link is not followed), or None where the file system keeps none.

    Raises:
        OSError: as statx(2).
    """
    buffer = ctypes.create_string_buffer(_BUFFER_BYTES)
    if _libc.statx(dir_fd, name, _AT_SYMLINK_NOFOLLOW, _STATX_BTIME, buffer) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    (mask,) = struct.unpack_from("=I", buffer, _MASK_OFFSET)
    if not mask & _STATX_BTIME:
        return None
    seconds, ns = _TIMESTAMP.unpack_from(buffer, _BTIME_OFFSET)
    return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=ns // 1000)
