"""Who uses a tree: processes with an open file, an open directory or their working directory in it, and mounts.

Found through /proc by device and inode, so that it also holds for containers that mount the tree under
another path. A file that is mapped and closed does not show here: the F_WRLCK leases of `prove` find it.

A container that was given a directory of the tree has it mounted (bound), and reaches it by that mount whatever
becomes of the path, without any descriptor. So the mounts of every mount namespace are looked at, too.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Holder:
    """One use by one process. `what` is "cwd", "root", "fd 7" …; for a mount, the process sees it at `what`."""

    pid: int
    command: str
    what: str
    inode: int
    is_directory: bool
    is_mount: bool = False

    def __str__(self) -> str:
        if self.is_mount:
            return f"process {self.pid} ({self.command}) sees a part of it mounted at {self.what}"
        kind = "a directory" if self.is_directory else "a file"
        return f"process {self.pid} ({self.command}) has {kind} of it open ({self.what})"


def find_holders(device: int) -> list[Holder]:
    """Every use of a file or directory on this file system by another process that /proc lets us see."""
    me = os.getpid()
    found: list[Holder] = []
    namespaces: set[str] = set()
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        if pid != me:
            found.extend(_of_process(pid, device))
        with contextlib.suppress(OSError):  # ended, or another user's and we are not root
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")
            if namespace not in namespaces:
                found.extend(_mounts(pid, device))
                namespaces.add(namespace)
    return found


def _mounts(pid: int, device: int) -> Iterator[Holder]:
    """What is mounted of this file system in the process's mount namespace.

    Source: proc_pid_mountinfo(5); the fifth field is the mount point, with octal escapes.
    """
    with open(f"/proc/{pid}/mountinfo", "rb") as file:  # noqa: PTH123 - /proc, by number
        lines = file.read().splitlines()
    for line in lines:
        point = re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), line.split(b" ")[4])
        if line.split(b" ")[3] == b"/":
            continue  # a whole file system; its root is no snapshot's
        try:
            st = os.stat(b"/proc/%d/root%s" % (pid, point), follow_symlinks=False)
        except OSError:
            continue  # out of reach, or covered by another mount
        if st.st_dev == device:
            yield Holder(
                pid=pid,
                command=_command(pid),
                what=os.fsdecode(point),
                inode=st.st_ino,
                is_directory=stat.S_ISDIR(st.st_mode),
                is_mount=True,
            )


def _of_process(pid: int, device: int) -> Iterator[Holder]:
    base = f"/proc/{pid}"
    links = [("cwd", f"{base}/cwd"), ("root", f"{base}/root")]
    # Not readable: ended, or another user's and we are not root; then the leases alone protect its files.
    with contextlib.suppress(OSError):
        links += [(f"fd {fd}", f"{base}/fd/{fd}") for fd in os.listdir(f"{base}/fd")]
    for what, link in links:
        try:
            st = os.stat(link)
        except OSError:
            continue  # closed meanwhile
        if st.st_dev == device and (stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode)):
            yield Holder(
                pid=pid,
                command=_command(pid),
                what=what,
                inode=st.st_ino,
                is_directory=stat.S_ISDIR(st.st_mode),
            )


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:  # noqa: PTH123 - /proc, by number
            return file.read().decode("utf-8", "backslashreplace").strip()
    except OSError:
        return "?"
