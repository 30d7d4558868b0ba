"""Who leaves first, as keys of a heap: the planner's own score functions, brought to a form that time does not change.

Values fall as time passes, of all snapshots alike: those of `ewr` by the same factor, those of `lru` and `ttl` by the
same amount. So their order at any moment is that of one number fixed at the last use. `stp` has no such number; its
victims are looked for among all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from tierd.decide.policies import SCORES, TAU_S, Standing
from tierd.model.value import PolicyName

Key = Callable[[Standing, float], float]
"""Of what is known of a snapshot at the moment of its use, and that moment."""


@dataclass(slots=True)
class State:
    """What the replay knows of a snapshot. Times are seconds of the trace.

    Attributes:
        weight: decayed uses as of `used_at`, that it came to be included.
        uses: since ever; uses_here: since it came to flash.
        expected: times of its announced uses, the next one first.
    """

    size_bytes: int
    cost_s: float
    first_at: float
    weight: float = 0.0
    used_at: float = 0.0
    came_at: float = 0.0
    uses: int = 0
    uses_here: int = 0
    floor: float = 0.0
    expected: list[float] = field(default_factory=list)

    def use(self, now: float, floor: float) -> None:
        """It is used."""
        if not self.uses:
            self.first_at, self.weight = now, 1.0
        else:
            self.weight *= math.exp((self.used_at - now) / TAU_S)
        self.weight += 1.0
        self.used_at, self.floor = now, floor
        self.uses += 1
        self.uses_here += 1

    def standing(self, now: float) -> Standing:
        return Standing(
            size_bytes=self.size_bytes,
            weight=self.weight * math.exp((self.used_at - now) / TAU_S) if now != self.used_at else self.weight,
            idle_s=now - self.used_at,
            resident_s=now - self.came_at,
            uses=self.uses,
            cost_s=self.cost_s,
            announced_in_s=max(0.0, self.expected[0] - now) if self.expected else None,
            floor=self.floor,
        )


def _by_factor(value: Callable[[Standing], float]) -> Key:
    return lambda standing, now: math.log(max(value(standing), 1e-300)) + now / TAU_S


def _by_amount(value: Callable[[Standing], float]) -> Key:
    return lambda standing, now: value(standing) + now


def _as_it_is(value: Callable[[Standing], float]) -> Key:
    return lambda standing, _: value(standing)


def _by_chances(value: Callable[[Standing], float]) -> Key:
    """Whole chances first; within them the order of arrival, which a fraction that shrinks with time stands for."""

    def key(standing: Standing, now: float) -> float:
        chances = math.floor(value(standing) - 1e-12) if standing.resident_s else math.floor(value(standing)) - 1
        return chances * 1e12 + now - standing.resident_s

    return key


KEYS: dict[PolicyName, Key | None] = {
    PolicyName.EWR: _by_factor(SCORES[PolicyName.EWR].value),
    PolicyName.LRU: _by_amount(SCORES[PolicyName.LRU].value),
    PolicyName.TTL: _by_amount(SCORES[PolicyName.TTL].value),
    PolicyName.LFU_DA: _as_it_is(SCORES[PolicyName.LFU_DA].value),
    PolicyName.GDSF: _as_it_is(SCORES[PolicyName.GDSF].value),
    PolicyName.S3_FIFO: _by_chances(SCORES[PolicyName.S3_FIFO].value),
    PolicyName.STP: None,
}
