"""Who asks, in words for the people who see what holds a snapshot."""

from __future__ import annotations

import getpass
import os
import socket
import sys
from pathlib import Path

_LONGEST = 200


def holder_of_this_process() -> str:
    """`alice@node7 train.py pid 4711`, with the Slurm job where there is one."""
    return holder(command=Path(sys.argv[0]).name if sys.argv else "", pid=os.getpid())


def holder(*, command: str, pid: int) -> str:
    """How the daemon shows who holds a lease: short, printable."""
    job = os.environ.get("SLURM_JOB_ID")
    parts = [f"{_user()}@{socket.gethostname()}", command, f"pid {pid}", f"slurm:{job}" if job else ""]
    text = " ".join(part for part in parts if part)
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return printable if len(printable) <= _LONGEST else f"{printable[: _LONGEST - 1]}…"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return f"uid-{os.getuid()}"


def command_of(pid: int) -> str:
    """`bash train.sh`: the program of a process and its script. No other arguments: they may hold secrets."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    program, *rest = [os.fsdecode(word) for word in words if word] or [""]
    script = rest[0] if rest and not rest[0].startswith("-") else ""
    return " ".join(Path(word).name for word in (program, script) if word)
