"""System calls that Python does not offer, through ctypes.

Source: openat2(2), rename(2), syncfs(2), ioprio_set(2), prctl(2), fallocate(2), cachestat (Linux 6.5).
Needs Linux 5.6 or newer (openat2).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

_libc = ctypes.CDLL(None, use_errno=True)

_SYS_OPENAT2 = 437  # the same number on every architecture
_SYS_CACHESTAT = 451  # the same number on every architecture
_SYS_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}.get(platform.machine())

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08

_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_PR_SET_PDEATHSIG = 1
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_CLASSES = {"best-effort": 2, "idle": 3}

_OPEN_HOW = struct.Struct("=QQQ")


def _check(result: int, name: bytes | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


def openat2(dir_fd: int, path: bytes, flags: int, *, mode: int = 0, resolve: int) -> int:
    """Open `path` below `dir_fd` under the given resolution rules; the descriptor is close-on-exec.

    Raises:
        OSError: as openat2(2); ELOOP for a link under RESOLVE_NO_SYMLINKS, EXDEV for a mount point.
    """
    how = _OPEN_HOW.pack(flags | os.O_CLOEXEC, mode, resolve)
    while True:
        fd: int = _libc.syscall(_SYS_OPENAT2, dir_fd, path, how, len(how))
        # EAGAIN: a rename elsewhere raced with the check of RESOLVE_BENEATH (openat2(2)); the caller may retry.
        if fd >= 0 or ctypes.get_errno() != 11:
            return _check(fd, path)


def rename_exchange(dir_fd_a: int, a: bytes, dir_fd_b: int, b: bytes) -> None:
    """Swap two names atomically: at every instant each of them resolves to one of the two."""
    _check(_libc.renameat2(dir_fd_a, a, dir_fd_b, b, _RENAME_EXCHANGE), a)


def rename_noreplace(dir_fd_from: int, name: bytes, dir_fd_to: int, to: bytes) -> None:
    """Rename, failing with EEXIST instead of replacing."""
    _check(_libc.renameat2(dir_fd_from, name, dir_fd_to, to, _RENAME_NOREPLACE), name)


def syncfs(fd: int) -> None:
    """Make everything written to the file system of `fd` durable (one call, far cheaper than one per file)."""
    _check(_libc.syncfs(fd))


def set_io_class(io_class: str, level: int = 7) -> None:
    """Set this process's I/O class: "best-effort" (lowest level by default) or "idle"."""
    if _SYS_IOPRIO_SET is None:
        return  # an architecture whose number is not listed: niceness still lowers the priority
    value = _IOPRIO_CLASSES[io_class] << 13 | (level if io_class == "best-effort" else 0)
    _check(_libc.syscall(_SYS_IOPRIO_SET, _IOPRIO_WHO_PROCESS, 0, value))


def die_with_parent(signal_number: int) -> None:
    """Ask the kernel to send this process a signal when the thread that started it ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0))


def allocate(fd: int, size_bytes: int) -> None:
    """Reserve room for a file of this size, and make it that long.

    `os.posix_fallocate` is not used: where the file system cannot reserve, glibc writes zeros instead.

    Raises:
        OSError: ENOSPC when there is no room; EOPNOTSUPP where the file system cannot reserve.
    """
    _check(_libc.fallocate(fd, 0, ctypes.c_int64(0), ctypes.c_int64(size_bytes)))


_whole_file = (ctypes.c_uint64 * 2)(0, 0)


def is_cached(fd: int) -> bool | None:
    """Whether any page of the file is in the page cache; None where the kernel cannot say (before 6.5)."""
    counts = (ctypes.c_uint64 * 5)()
    if _libc.syscall(_SYS_CACHESTAT, fd, _whole_file, counts, 0) < 0:
        return None
    return counts[0] > 0
