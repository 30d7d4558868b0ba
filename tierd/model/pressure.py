"""How busy the disks are with the work of others, and what that does to transfers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Busy:
    """What the mover knows of it.

    Attributes:
        io_pressure: share (0-1) of the last ten seconds in which others waited for a disk; None: not known or asked.
        slowed: transfers that go slower for it now.
    """

    io_pressure: float | None = None
    slowed: int = 0
