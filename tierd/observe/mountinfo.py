"""Mounts as a process sees them. Pure parsing; format: proc_pid_mountinfo(5)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ESCAPED = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One mount.

    Attributes:
        number: as it is in a descriptor's fdinfo.
        device: "major:minor" of the file system, the same for all its mounts.
        point: where it is.
        kind: type of the file system; b"" when the line does not tell it.
    """

    number: int
    device: bytes
    point: bytes
    kind: bytes


def mounts(text: bytes) -> list[Mount]:
    """The mounts in `/proc/<pid>/mountinfo`, in the order in which they were made; what cannot be read is left out."""
    found: list[Mount] = []
    for line in text.split(b"\n"):
        fields = line.split(b" ", 5)
        if len(fields) == 6 and fields[0].isdigit():
            _, _, after = fields[5].partition(b" - ")  # options, and fields of which there may be any number
            found.append(Mount(int(fields[0]), fields[2], unescape(fields[4]), after.split(b" ", 1)[0]))
    return found


def unescape(name: bytes) -> bytes:
    """A name as the kernel writes it into lists: bytes that would end it are three octal digits."""
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), name)
