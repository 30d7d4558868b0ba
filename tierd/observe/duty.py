"""When to listen for opens: all the time while they are few, for a moment now and then while they are many.

Reporting an open costs the process that opens some 0.3 µs (measured: 1.15 times the time of a loop in C that does
nothing else, 1.05 of one in Python). That is nothing at a thousand opens a second, and a hundredth of the time at
thirty thousand. Policy asks whether a snapshot is in use, not how many of its files were opened: 2 ms of each 50 ms
tell that of everything that is read for a tenth of a second or more, for a 25th of the cost. What is read once, in
between, access times tell later, where the mount keeps them; on others (noatime) it is missed.

Events of one process in one directory merge while they wait in the queue, so their number is only a lower bound of
the opens. A probe counts them: for 2 ms events are taken out as fast as they come. Two probes must agree before
listening becomes sparing, since one may have met a burst; three before it is constant again.
"""

from __future__ import annotations

from dataclasses import dataclass

MANY = 20_000.0
"""Opens per second from which listening all the time costs the opener more than half a percent."""
FEW = 10_000.0
"""Opens per second below which it is listened all the time again; lower than `MANY`, so that it does not flap."""
PROBE_S = 0.002
WINDOW_S = 0.002
PERIOD_S = 0.05
RECHECK_S = 1.0
CONFIRM_S = 0.01
_SHORTEST_S = 0.02
"""A rate is not told from a shorter time: two opens in 50 µs are not forty thousand in a second."""
_CALM_PROBES = 3
_MEMORY_S = 60.0
_NEVER = float("inf")
_GOLDEN = 0.618033988749895


@dataclass
class Duty:
    """Listening to one file system. Pure: told the time and what was counted, it says what to do. Times: monotonic.

    Attributes:
        is_sparing: opens are reported in windows and probes only; else all the time.
        is_suspicious: a probe met many opens; another one is wanted in `CONFIRM_S`.
        window_due: when the next window (or probe) begins, while sparing.
    """

    started_at: float
    is_sparing: bool = False
    is_suspicious: bool = False
    window_due: float = _NEVER
    _probe_due: float = 0.0
    _calm: int = 0
    _windows: int = 0
    _heard_s: float = 0.0
    _total_s: float = 0.0
    _since: float = 0.0

    def __post_init__(self) -> None:
        self._since = self.started_at

    def wants_probe(self, now: float) -> bool:
        """Whether the rate of opens should be measured now; asked when there were opens, and in each window."""
        return now >= self._probe_due

    def probed(self, now: float, opens: int, seconds: float) -> None:
        """So many opens were counted in a probe, which is a window as well."""
        rate = opens / seconds if seconds > 0 else 0.0
        self._probe_due = now + RECHECK_S
        if self.is_sparing:
            self._calm = self._calm + 1 if rate < FEW else 0
            if self._calm >= _CALM_PROBES:
                self._change(now, is_sparing=False)
            else:
                self.windowed(now, PROBE_S)
        elif rate < MANY:
            self.is_suspicious = False
        elif self.is_suspicious:
            self._change(now, is_sparing=True)
        else:
            self.is_suspicious = True
            self._probe_due = now + CONFIRM_S

    def gathered(self, now: float, opens: int, seconds: float) -> None:
        """So many events of opens came in this time while it was listened constantly: there were no fewer opens."""
        if not self.is_sparing and opens / max(seconds, _SHORTEST_S) >= MANY:
            self._change(now, is_sparing=True)

    def windowed(self, now: float, seconds: float) -> None:
        """A window has ended that was open for so long."""
        self._account(now)
        self._heard_s += seconds
        # Not at even intervals: a reader that goes from snapshot to snapshot at the same pace would be seen at the
        # same one each time.
        self._windows += 1
        self.window_due = now + PERIOD_S * (0.5 + self._windows * _GOLDEN % 1.0)

    def coverage(self, now: float) -> float:
        """The share of the last minute or so in which opens were listened for."""
        passed = max(0.0, now - self._since)
        heard, total = self._heard_s + (0.0 if self.is_sparing else passed), self._total_s + passed
        return heard / total if total else 1.0

    def _change(self, now: float, *, is_sparing: bool) -> None:
        self._account(now)
        self.is_sparing, self.is_suspicious, self._calm = is_sparing, False, 0
        self.window_due = now + PERIOD_S if is_sparing else _NEVER
        self._probe_due = now + RECHECK_S

    def _account(self, now: float) -> None:
        passed = max(0.0, now - self._since)
        self._since = now
        self._total_s += passed
        self._heard_s += 0.0 if self.is_sparing else passed
        if self._total_s > _MEMORY_S:  # older times fade
            self._heard_s *= _MEMORY_S / self._total_s
            self._total_s = _MEMORY_S
