"""Who a process is: asked of /proc once, while it lives, and remembered.

A process may have ended before it is asked for: then nothing is known of it, and its access counts all the same.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from tierd.model.observation import Reader
from tierd.observe import cgroups

_FRESH_S = 1.0
"""After this long a process number may have been given to another process: its start time is looked at again."""
_SURE_S = 30.0
"""After this long it is asked anew who a process is: it may be in another control group, or have another user."""
_KEPT_S = 10.0
"""A process that has ended is still the one last seen with its number for this long, then it may be another."""
_MOST = 4096
_LOOKS_PER_S = 2000
"""At some 60 µs each an eighth of a core at most, in a storm of forks; who comes later stays unknown."""
_PROC = Path("/proc")
_UNKNOWN = Reader()


@dataclass(frozen=True, kw_only=True)
class Process:
    """What matters about a process.

    Attributes:
        is_ours: the daemon or one of its workers. is_ignored: its reading does not count.
        is_gone: it had ended before anything was known of it, or there was no time to ask.
    """

    reader: Reader = _UNKNOWN
    is_ours: bool = False
    is_ignored: bool = False
    is_gone: bool = False


_GONE = Process(is_gone=True)


@dataclass(frozen=True, kw_only=True)
class Ignored:
    """Whose reading is no use of a dataset: backups, indexers. Shell patterns on names and control groups; user ids."""

    programs: Collection[str] = ()
    cgroups: Collection[str] = ()
    users: Collection[int] = ()

    def covers(self, program: str, uid: int, groups: list[str]) -> bool:
        return (
            uid in self.users
            or any(fnmatchcase(program, pattern) for pattern in self.programs)
            or any(fnmatchcase(group, pattern) for pattern in self.cgroups for group in groups)
        )


@dataclass(slots=True)
class _Known:
    process: Process
    name: str
    born: str
    asked_at: float
    checked_at: float

    def is_still(self, name: str, born: str, now: float) -> bool:
        """Whether what is known still holds; exec changes the name, and not the time of birth."""
        return self.born == born and (self.process.is_ours or (self.name == name and now - self.asked_at < _SURE_S))


@dataclass(eq=False)
class Who:
    """Answers for one thread.

    Args:
        names_readers: whether to tell who it was; False keeps nothing about persons, and still ignores.
        ours: the daemon's process id; processes below it are ours as well.
    """

    ignored: Ignored = field(default_factory=Ignored)
    names_readers: bool = True
    ours: int | None = field(default_factory=os.getpid)
    _known: dict[int, _Known] = field(default_factory=dict)
    _second: int = 0
    _looks: int = 0

    def look(self, pid: int) -> Process:
        """Who has this process id now; never raises. 0 is a process that cannot be seen from here."""
        now = time.monotonic()
        known = self._known.get(pid)
        if known is not None and now - known.checked_at < _FRESH_S:
            return known.process
        if pid <= 0 or not self._may_look(now):
            return _last_known(known, now)
        try:
            name, parent, born = _stat(pid)
            if known is None or not known.is_still(name, born, now):
                known = _Known(self._ask(pid, name, parent), name, born, now, now)
                if len(self._known) >= _MOST:
                    self._forget_oldest()
        except (OSError, ValueError, IndexError):
            return _last_known(known, now)  # it has just ended: who it was has not changed
        known.checked_at = now
        self._known[pid] = known
        return known.process

    def _may_look(self, now: float) -> bool:
        if int(now) != self._second:
            self._second, self._looks = int(now), 0
        self._looks += 1
        return self._looks <= _LOOKS_PER_S

    def _ask(self, pid: int, name: str, parent: int) -> Process:
        if self._is_ours(pid, parent):
            return Process(is_ours=True)
        status = (_PROC / str(pid) / "status").read_text(errors="replace")
        uid = next(int(line.split()[2]) for line in status.splitlines() if line.startswith("Uid:"))  # the effective
        groups = cgroups.paths((_PROC / str(pid) / "cgroup").read_text(errors="replace"))
        if self.ignored.covers(name, uid, groups):
            return Process(is_ignored=True)
        if not self.names_readers:
            return Process()
        return Process(reader=Reader(program=name, uid=uid, job=cgroups.job(groups)))

    def _is_ours(self, pid: int, parent: int) -> bool:
        for _ in range(16):
            if pid == self.ours:
                return True
            if parent <= 0:
                return False
            pid = parent
            try:
                _, parent, born = _stat(pid)
            except (OSError, ValueError, IndexError):
                return False
            known = self._known.get(pid)
            if known is not None and known.born == born and known.process.is_ours:
                return True
        return False

    def _forget_oldest(self) -> None:
        by_age = sorted(self._known, key=lambda pid: self._known[pid].checked_at)
        for pid in by_age[: _MOST // 4]:
            del self._known[pid]


def _last_known(known: _Known | None, now: float) -> Process:
    return known.process if known is not None and now - known.checked_at < _KEPT_S else _GONE


def _stat(pid: int) -> tuple[str, int, str]:
    """Name, parent and time of birth, see proc_pid_stat(5); the name may hold any byte, parentheses too."""
    with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  this is asked thousands of times
        data = file.read()
    first, last = data.index(b"("), data.rindex(b")")
    name = "".join(c if c.isprintable() else "?" for c in data[first + 1 : last].decode(errors="replace"))
    rest = data[last + 2 :].split()
    return name, int(rest[1]), rest[19].decode()
