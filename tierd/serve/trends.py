"""How use of the tiers went, kept in memory for a day; and when a tier will reach its high watermark, if it goes on."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta

from tierd.model.plan import View
from tierd.model.tier import TierName
from tierd.model.units import format_duration, format_size
from tierd.serve.ports import Clock, Ports

_EVERY_S = 60.0
_KEPT = 24 * 60
_LOOKS_BACK = timedelta(hours=6)
_LEAST = timedelta(minutes=10)
_WIDTH, _HEIGHT = 600, 60


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The use of a tier as a line; `points` for a drawing of 600 × 60."""

    title: str
    summary: str
    points: str


class Trends:
    """Samples the use of the tiers. Thread-safe: samples are only added, by one thread."""

    def __init__(self, ports: Ports, clock: Clock) -> None:
        self._ports, self._clock = ports, clock
        self._samples: deque[tuple[datetime, dict[TierName, int]]] = deque(maxlen=_KEPT)

    async def run(self) -> None:
        """Sample each minute, until cancelled."""
        while True:
            self.sample()
            await asyncio.sleep(_EVERY_S)

    def sample(self) -> None:
        """Note how full the tiers are now."""
        used = {name: u.used_bytes for name, u in self._ports.usage().items() if u.is_online}
        self._samples.append((self._clock(), used))

    def pictures(self, view: View, now: datetime) -> list[Picture]:
        """Each tier's use over time."""
        return [p for t in sorted(view.tiers, key=lambda t: t.rank) if (p := self._picture(t.name, now)) is not None]

    def forecast(self, view: View, now: datetime) -> dict[TierName, str]:
        """When tiers reach their high watermark if they fill as in the last hours, in words."""
        high = {tier.name: tier.high for tier in view.tiers}
        return {
            name: f"reaches {high[name]:.0%} in about {format_duration(left_s)} at the last hours' rate"
            for name, left_s in self.seconds_to_high(view, now).items()
        }

    def seconds_to_high(self, view: View, now: datetime) -> dict[TierName, float]:
        """In how many seconds tiers reach their high watermark if they fill as in the last hours; within a year."""
        found: dict[TierName, float] = {}
        for tier in view.tiers:
            usage = view.usage.get(tier.name)
            rate = self._rate(tier.name, now)
            if usage is None or not usage.capacity_bytes or rate is None or rate <= 0:
                continue
            left = tier.high * usage.capacity_bytes - usage.used_bytes
            if 0 < left < rate * timedelta(days=365).total_seconds():
                found[tier.name] = left / rate
        return found

    def _of(self, name: TierName, since: datetime) -> list[tuple[datetime, int]]:
        return [(at, used[name]) for at, used in tuple(self._samples) if at >= since and name in used]

    def _rate(self, name: TierName, now: datetime) -> float | None:
        """Bytes per second, by least squares; None where too little was seen."""
        seen = self._of(name, now - _LOOKS_BACK)
        if len(seen) < 3 or seen[-1][0] - seen[0][0] < _LEAST:
            return None
        times = [(at - seen[0][0]).total_seconds() for at, _ in seen]
        middle, mean = sum(times) / len(times), sum(used for _, used in seen) / len(seen)
        spread = sum((t - middle) ** 2 for t in times)
        return sum((t - middle) * (used - mean) for t, (_, used) in zip(times, seen, strict=True)) / spread

    def _picture(self, name: TierName, now: datetime) -> Picture | None:
        seen = self._of(name, now - timedelta(days=1))
        if len(seen) < 2:
            return None
        begin, lasts = seen[0][0], max(1.0, (seen[-1][0] - seen[0][0]).total_seconds())
        least, most = min(used for _, used in seen), max(used for _, used in seen)
        points = " ".join(
            f"{(at - begin).total_seconds() / lasts * _WIDTH:.1f},"
            f"{_HEIGHT - 2 - (used - least) / max(1, most - least) * (_HEIGHT - 4):.1f}"
            for at, used in seen
        )
        summary = f"{format_size(least)} to {format_size(most)} in {format_duration(now - begin)}"
        return Picture(title=f"{name} used", summary=summary, points=points)
