"""How fast each running transfer may go: by the rates of its tiers at this hour, and slower while the disks are busy.

What nobody waits for makes room for the jobs: while others wait for the disks for more than a share of the time, its
rate is halved every few seconds, down to a floor, and grows back afterwards. What somebody waits for (a wish, room for
a recall, anything with a deadline) keeps its rate.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from tierd.decide.planner import PRIORITY_ROOM
from tierd.model.pressure import Busy
from tierd.model.tier import Tier
from tierd.model.transfer import Transfer, TransferId
from tierd.model.units import format_percent
from tierd.move.pressure import Pressure

log = logging.getLogger(__name__)

FLOOR = 10_000_000
"""Bytes/s below which nothing is slowed: a transfer has to end some day, and may be what fills the disk's queue."""
_EVERY_S = 3.0
_SHRINK, _GROW = 0.5, 1.5
_UNKNOWN = 1_000_000_000
"""Bytes/s from which one is slowed whose own rate is not known yet."""


class Paced(Protocol):
    """A running transfer, as far as its rate goes. `bytes_per_s` is what it is told; None is no limit. `was_slowed`
    stays: what it took then says nothing about what a transfer takes.
    """

    bytes_per_s: int | None
    was_slowed: bool

    @property
    def transfer(self) -> Transfer: ...
    @property
    def ends(self) -> tuple[Tier, Tier]: ...
    def rate(self) -> float | None: ...


@dataclass
class _Braked:
    """`from_rate`: what it had when the disks became busy."""

    bytes_per_s: float
    from_rate: float


class Pacer:
    """Tells running transfers their rate. Called by one thread; what others ask may be a moment old.

    Args:
        workers: how many share a tier's rate.
        busy: the share of time from which the disks are busy; None: nothing is slowed.
    """

    def __init__(
        self,
        workers: int,
        busy: float | None,
        pressure: Pressure | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workers, self._most, self._monotonic = workers, busy, monotonic
        self._pressure = pressure or Pressure()
        self._looked_at = float("-inf")
        self._braked: dict[TransferId, _Braked] = {}
        self.pressure: float | None = None
        """As last read; None where it is not known or not asked."""
        if busy is not None and self._pressure.read() is None:
            self._most = None
            log.info(
                "this kernel does not tell how busy the disks are (/proc/pressure/io): mover.busy_io has no effect"
            )

    def allowed(self, source: Tier, destination: Tier, now: datetime) -> int | None:
        """What one transfer between these tiers may move now, in bytes/s; None is no limit."""
        rates = [rate for rate in (source.rates_at(now)[0], destination.rates_at(now)[1]) if rate is not None]
        # Shared evenly over the slots, so that the tier's limit holds whatever runs beside it.
        return max(1, min(rates) // self._workers) if rates else None

    def adjust(self, running: Sequence[Paced], now: datetime) -> None:
        """Tell each what it may move from now on."""
        if self._most is not None and self._monotonic() >= self._looked_at + _EVERY_S:
            self._looked_at = self._monotonic()
            self.pressure = self._pressure.read()
            self._brake(running, (self.pressure or 0.0) > self._most)
        self._braked = {p.transfer.id: self._braked[p.transfer.id] for p in running if p.transfer.id in self._braked}
        for paced in running:
            limit, braked = self.allowed(*paced.ends, now), self._braked.get(paced.transfer.id)
            if braked is not None:
                paced.was_slowed = True
                limit = int(braked.bytes_per_s) if limit is None else min(limit, int(braked.bytes_per_s))
            paced.bytes_per_s = limit

    def _brake(self, running: Sequence[Paced], is_busy: bool) -> None:
        for paced in running:
            transfer = paced.transfer
            braked = self._braked.get(transfer.id)
            if (
                transfer.priority >= PRIORITY_ROOM or transfer.due_at is not None
            ):  # somebody waits for it, maybe only now
                self._braked.pop(transfer.id, None)
            elif is_busy:
                if braked is None:
                    rate = paced.rate() or _UNKNOWN
                    braked = self._braked[transfer.id] = _Braked(rate, rate)
                braked.bytes_per_s = max(FLOOR, braked.bytes_per_s * _SHRINK)
            elif braked is not None:
                braked.bytes_per_s *= _GROW
                if braked.bytes_per_s >= 2 * max(braked.from_rate, FLOOR):
                    del self._braked[transfer.id]

    def why_slow(self, transfer_id: TransferId) -> str:
        """`slowed: the disks are busy (io pressure 35%)`; empty where it is not slowed."""
        if transfer_id not in self._braked:
            return ""
        pressure = self.pressure or 0.0
        state = "are busy" if self._most is not None and pressure > self._most else "were busy a moment ago"
        return f"slowed: the disks {state} (io pressure {format_percent(pressure)})"

    @property
    def busy(self) -> Busy:
        """For people and metrics."""
        return Busy(io_pressure=self.pressure, slowed=len(self._braked))
