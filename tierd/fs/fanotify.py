"""fanotify groups that report directories by their file handles, and file handles.

Source: fanotify(7), fanotify_init(2), fanotify_mark(2), open_by_handle_at(2), linux/fanotify.h, linux/exportfs.h.
Needs Linux 5.9 or newer (FAN_REPORT_DIR_FID), CAP_SYS_ADMIN to mark a file system and CAP_DAC_READ_SEARCH to open by
handle.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path

MODIFY, ATTRIB, CLOSE_WRITE, OPEN = 0x2, 0x4, 0x8, 0x20
MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x40, 0x80, 0x100, 0x200
Q_OVERFLOW = 0x4000
ONDIR = 0x4000_0000
MOVED = MOVED_FROM | MOVED_TO
NAMES = MOVED | CREATE | DELETE
CHANGES = MODIFY | ATTRIB | CLOSE_WRITE | NAMES

Event = tuple[int, int, bytes]
"""Mask, process id (0: of another pid namespace), handle of the directory (b"": of none)."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fanotify_init.argtypes = [ctypes.c_uint, ctypes.c_uint]
_libc.fanotify_mark.argtypes = [ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p]
_libc.open_by_handle_at.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int]

_libc.name_to_handle_at.argtypes = [
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_int),
    ctypes.c_int,
]

_CLOEXEC, _NONBLOCK, _CLASS_NOTIF, _REPORT_DIR_FID, _UNLIMITED_MARKS = 0x1, 0x2, 0x0, 0x400, 0x20
_ADD, _REMOVE, _FILESYSTEM = 0x1, 0x2, 0x100
_EVENT = struct.Struct("=IBBHQii")
_RECORD = struct.Struct("=BBH")
_VERSION = 3
_HANDLE_AT = 12
"""Of an information record: four bytes of header, eight of the file system's id, then the handle."""
_BUFFER_BYTES = 256 * 1024
_HANDLE_HEAD = struct.Struct("=Ii")
_MAX_HANDLE_BYTES = 128
_AT_EMPTY_PATH = 0x1000
_BTRFS_TOP = struct.pack("=IiQQI", 20, 0x4D, 256, 5, 0)
"""Handle of the root of a btrfs: inode 256 of subvolume 5, any generation (FILEID_BTRFS_WITHOUT_PARENT)."""


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class Group:
    """One fanotify group: its queue holds 16,384 events, merged where directory and process are the same.

    Raises:
        OSError: EPERM without CAP_SYS_ADMIN; EINVAL or ENOSYS where the kernel is too old; EMFILE.
    """

    def __init__(self) -> None:
        # Unprivileged processes may have groups, but none that can mark a file system; unlimited marks (there is one)
        # are asked for since they are refused to just those.
        flags = _CLOEXEC | _NONBLOCK | _CLASS_NOTIF | _REPORT_DIR_FID | _UNLIMITED_MARKS
        self.fd = _check(_libc.fanotify_init(flags, os.O_RDONLY | os.O_CLOEXEC))

    def close(self) -> None:
        """End it, and with it its marks."""
        os.close(self.fd)

    def mark(self, fd: int, mask: int) -> None:
        """Report these events of the whole file system that holds the open file `fd`, on all its mounts.

        Raises:
            OSError: EOPNOTSUPP, ENODEV or EINVAL: it has no handles; EXDEV: `fd` is in a subvolume of btrfs, and only
                the top-level one can be marked.
        """
        _check(_libc.fanotify_mark(self.fd, _ADD | _FILESYSTEM, mask, fd, None))

    def unmark(self, fd: int, mask: int) -> None:
        """Report these no more.

        Raises:
            OSError: ENOENT: there is no mark (any more).
        """
        _check(_libc.fanotify_mark(self.fd, _REMOVE | _FILESYSTEM, mask, fd, None))

    @property
    def has_mark(self) -> bool:
        """Whether it still has a mark: unmounting a file system removes it without a word."""
        return "fanotify sdev:" in Path(f"/proc/self/fdinfo/{self.fd}").read_text()

    def read(self) -> list[Event]:
        """Events that are in the queue, as many as one call gives; none when it is empty."""
        try:
            data = os.read(self.fd, _BUFFER_BYTES)
        except BlockingIOError:
            return []
        found: list[Event] = []
        at, end = 0, len(data)
        while at < end:
            length, version, _, head, mask, _, pid = _EVENT.unpack_from(data, at)
            if version != _VERSION:
                raise OSError(0, f"the kernel speaks version {version} of fanotify, not {_VERSION}")
            handle = b""
            if length > head:
                _, _, size = _RECORD.unpack_from(data, at + head)
                handle = data[at + head + _HANDLE_AT : at + head + size]
            found.append((mask, pid, handle))
            at += length
        return found


def handle_of(fd: int) -> bytes:
    """The handle of an open directory.

    Raises:
        OSError: EOPNOTSUPP: its file system has none.
    """
    buffer = ctypes.create_string_buffer(_HANDLE_HEAD.pack(_MAX_HANDLE_BYTES, 0), _HANDLE_HEAD.size + _MAX_HANDLE_BYTES)
    mount_id = ctypes.c_int()
    _check(_libc.name_to_handle_at(fd, b"", buffer, ctypes.byref(mount_id), _AT_EMPTY_PATH))
    size, _ = _HANDLE_HEAD.unpack_from(buffer)
    return buffer.raw[: _HANDLE_HEAD.size + size]


def open_by_handle(mount_fd: int, handle: bytes) -> int:
    """Open (O_PATH) what a handle names, on the file system of the open directory `mount_fd`.

    Raises:
        OSError: ESTALE: it is gone. EPERM without CAP_DAC_READ_SEARCH.
    """
    fd: int = _check(_libc.open_by_handle_at(mount_fd, handle, os.O_PATH | os.O_CLOEXEC))
    return fd


def open_btrfs_top(mount_fd: int) -> int:
    """Open the root of the btrfs that holds the open directory `mount_fd`, which may be mounted nowhere.

    Raises:
        OSError: ESTALE: this kernel asks for the right generation.
    """
    fd: int = _check(_libc.open_by_handle_at(mount_fd, _BTRFS_TOP, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    return fd


def check_rights() -> None:
    """See whether this process may use all that is here.

    Raises:
        OSError: EPERM: it lacks CAP_SYS_ADMIN or CAP_DAC_READ_SEARCH; EINVAL or ENOSYS: the kernel is too old.
    """
    Group().close()
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(open_by_handle(root, _HANDLE_HEAD.pack(8, 1) + bytes(8)))
    except OSError as error:
        if error.errno == errno.EPERM:  # any other refusal comes after that of the right
            raise
    finally:
        os.close(root)
