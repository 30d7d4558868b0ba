"""Faults: what is wrong in a configuration, one by one, each with what to write instead."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        key: where, as `section.key` or `tiers[NAME].key`; `line N` where the text is no TOML.
        reason: what is wrong with it, lower case.
        instead: a sentence that says what to write or do instead.
    """

    key: str
    reason: str
    instead: str

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}. {self.instead}"


class Mounts(Enum):
    """How much of the machine is looked at while a configuration is checked."""

    REQUIRED = "required"
    """Every root and dataset must be there and usable: what `check-config` and an installation want."""
    OPTIONAL = "optional"
    """What is missing or read-only now is no fault, because a disk may come back; what is there is checked.
    A daemon that starts after a disk failed must look after the disks that are left."""
    IGNORED = "ignored"
    """Nothing outside the text is looked at; paths are compared as they are written."""


class Faults:
    """Collects faults, so that a reader can go on after the first."""

    def __init__(self) -> None:
        self._found: list[Fault] = []

    def add(self, key: str, reason: str, instead: str) -> None:
        """Record a fault; the same one is kept once."""
        fault = Fault(key, reason, instead)
        if fault not in self._found:
            self._found.append(fault)

    def found(self) -> list[Fault]:
        """All faults in the order in which they were found."""
        return list(self._found)
