"""When to listen for opens: all the time while they are few, for a moment of each second while they are many.

Reporting an open costs the process that opens some 0.3 µs (measured: 1.15 times the time of a loop in C that does
nothing else, 1.05 of one in Python). That is nothing at a thousand opens a second, and a hundredth of the time at
thirty thousand. Policy asks whether a snapshot is in use, not how many of its files were opened: a moment of each
second tells that of everything that is read continually. What is read once, in between, access times tell later.

Events of one process in one directory merge while they wait in the queue, so their number says nothing about the
rate of opens. A probe does: for a few milliseconds events are taken out as fast as they come.
"""

from __future__ import annotations

from dataclasses import dataclass

MANY = 20_000.0
"""Opens per second from which listening all the time costs the opener more than half a percent."""
FEW = 10_000.0
"""Opens per second below which it is listened all the time again; lower than `MANY`, so that it does not flap."""
PROBE_S = 0.003
PERIOD_S = 1.0
OPEN_S = 0.02
_MEMORY_S = 3600.0


@dataclass
class Duty:
    """Listening to one file system. Pure: told the time and what a probe counted, it says what to do.

    Attributes:
        is_listening: whether opens shall be reported now.
        is_sparing: whether they are reported for a moment of each second only.
    """

    started_at: float
    is_listening: bool = True
    is_sparing: bool = False
    probe_due: float = 0.0
    change_due: float = float("inf")
    _heard_s: float = 0.0
    _total_s: float = 0.0
    _since: float = 0.0

    def __post_init__(self) -> None:
        self._since = self.started_at

    def wants_probe(self, now: float) -> bool:
        """Whether the rate of opens should be measured now; asked when there were opens."""
        return self.is_listening and now >= self.probe_due

    def probed(self, now: float, opens: int, seconds: float) -> None:
        """So many opens were counted in a probe."""
        rate = opens / seconds
        self.probe_due = now + PERIOD_S / 2
        if rate >= MANY and not self.is_sparing:
            self._account(now)
            self.is_sparing = True
            self.change_due = now + OPEN_S
        elif rate < FEW and self.is_sparing:
            self._account(now)
            self.is_sparing, self.is_listening, self.change_due = False, True, float("inf")

    def tick(self, now: float) -> bool:
        """Change over when it is time; returns whether `is_listening` is another now."""
        if not self.is_sparing or now < self.change_due:
            return False
        self._account(now)
        self.is_listening = not self.is_listening
        self.change_due = now + (OPEN_S if self.is_listening else PERIOD_S - OPEN_S)
        if self.is_listening:
            self.probe_due = now
        return True

    def coverage(self, now: float) -> float:
        """The share of the last hour or so in which opens were listened for."""
        self._account(now)
        return 1.0 if not self._total_s else self._heard_s / self._total_s

    def _account(self, now: float) -> None:
        passed = max(0.0, now - self._since)
        self._since = now
        self._total_s += passed
        self._heard_s += passed if self.is_listening else 0.0
        if self._total_s > _MEMORY_S:  # older times fade
            self._heard_s *= _MEMORY_S / self._total_s
            self._total_s = _MEMORY_S
