"""Who uses a tree: processes with an open file, an open directory or their working directory in it.

Found through /proc by device and inode, so that it also holds for containers that mount the tree under
another path. A file that is mapped and closed does not show here: the F_WRLCK leases of `prove` find it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Holder:
    """One use by one process. `what` is "cwd", "root", "fd 7" …"""

    pid: int
    command: str
    what: str
    inode: int
    is_directory: bool

    def __str__(self) -> str:
        kind = "a directory" if self.is_directory else "a file"
        return f"process {self.pid} ({self.command}) has {kind} of it open ({self.what})"


def find_holders(device: int) -> list[Holder]:
    """Every use of a file or directory on this file system by another process that /proc lets us see."""
    me = os.getpid()
    found: list[Holder] = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != me:
            found.extend(_of_process(int(name), device))
    return found


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
