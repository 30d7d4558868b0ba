"""Processes of this machine: what tells one from a later one that is given the same number."""

from __future__ import annotations

from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """What tells this boot of the machine from every other."""
    return _BOOT_ID.read_text().strip()


def numbers_alike(pid: int) -> bool:
    """Whether a process numbers processes as this one does; False for one in a container with numbers of its own."""
    try:
        return Path(f"/proc/{pid}/ns/pid").readlink() == Path("/proc/self/ns/pid").readlink()
    except OSError:  # gone, or not ours to ask: most are not in containers
        return True


def began(pid: int) -> int | None:
    """When a process began, in clock ticks after the boot; None where there is none, or only what is left of one.

    Raises:
        OSError: it cannot be told, for want of descriptors or memory.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(b")")[2].split()  # the name before may contain anything; see proc_pid_stat(5)
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
