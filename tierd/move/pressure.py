"""How much others wait for the disks: pressure stall information of the kernel (PSI, Linux 4.20).

Copying waits for disks too, and that must not slow it: where control groups tell (cgroup v2, as under systemd), only
groups that the daemon is not in are asked. Elsewhere the figure of the whole machine has to do.
Source: Documentation/accounting/psi.rst, Documentation/admin-guide/cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_FILE = "io.pressure"


class Pressure:
    """Reads the share of the last ten seconds in which some process of others waited for a disk.

    Args:
        system: the figure of the whole machine; own: the control groups of this process; groups: where they are.
    """

    def __init__(
        self,
        system: Path = Path("/proc/pressure/io"),
        own: Path = Path("/proc/self/cgroup"),
        groups: Path = Path("/sys/fs/cgroup"),
    ) -> None:
        self._system, self._groups = system, groups
        self._own = _unified(own)

    def read(self) -> float | None:
        """0 to 1; None where the kernel does not tell."""
        others = [share for path in self._others() if (share := _share(path)) is not None]
        return max(others) if others else _share(self._system)

    def _others(self) -> Iterator[Path]:
        """The groups beside those that this process is in, from the top down; nothing where it has none of its own."""
        if self._own is None or not (self._groups / self._own / _FILE).exists():
            return
        at = self._groups
        for name in self._own.parts:
            try:
                siblings = [entry for entry in at.iterdir() if entry.name != name]
            except OSError:  # the group is gone
                return
            yield from (entry / _FILE for entry in siblings)
            at /= name


def _unified(own: Path) -> Path | None:
    """The group of cgroup v2 that this process is in; None without one, or when it is the root of all."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    path = next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")
    return Path(path) if path else None


def _share(path: Path) -> float | None:
    """`some avg10` of a pressure file."""
    try:
        head = path.read_text().split("\n", 1)[0]
        return float(head.partition("avg10=")[2].split(" ", 1)[0]) / 100
    except (OSError, ValueError):  # no PSI in this kernel, no such file in this group
        return None
