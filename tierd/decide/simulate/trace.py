"""A recorded access log: which snapshot was used when, how large it was, and how often it was read through."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Access:
    """One use. `at`: seconds since any moment; `passes`: how often its bytes were read, epochs."""

    at: float
    snapshot: str
    size_bytes: int
    passes: int = 1
    files: int = 1


class Trace:
    """Accesses in the order of time, with snapshots numbered.

    Attributes:
        at, snapshots, passes: of each access. A snapshot has the size and files of its last access.
        sizes, files: by snapshot.
        next_use: for each access, the number of the next one of the same snapshot; len(trace) for none.
    """

    def __init__(self, accesses: Iterable[Access]) -> None:
        ordered = sorted(accesses, key=lambda access: access.at)
        numbers: dict[str, int] = {}
        self.at = [access.at for access in ordered]
        self.snapshots = [numbers.setdefault(access.snapshot, len(numbers)) for access in ordered]
        self.passes = [max(1, access.passes) for access in ordered]
        self.names = list(numbers)
        self.sizes = [1] * len(numbers)
        self.files = [1] * len(numbers)
        for access, number in zip(ordered, self.snapshots, strict=True):
            self.sizes[number], self.files[number] = max(1, access.size_bytes), max(1, access.files)
        self.next_use = self._next_uses()

    def __len__(self) -> int:
        return len(self.at)

    @property
    def total_bytes(self) -> int:
        """Of all snapshots, each counted once."""
        return sum(self.sizes)

    @property
    def requested_bytes(self) -> int:
        """What all accesses read."""
        return sum(self.sizes[s] * passes for s, passes in zip(self.snapshots, self.passes, strict=True))

    def _next_uses(self) -> list[int]:
        later, found = [len(self.at)] * len(self.names), [0] * len(self.at)
        for number in range(len(self.at) - 1, -1, -1):
            s = self.snapshots[number]
            found[number], later[s] = later[s], number
        return found
