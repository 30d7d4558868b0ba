"""Policies: how much a snapshot is worth on flash. The least valuable leaves first.

Each is one score function of what is known of a snapshot at one moment. The planner, `explain` and `simulate` use
these very functions. Sources of the formulas: ewr is tierd's own (the weight is a decayed count of uses, the cost is
measured); lfu-da and gdsf: Arlitt et al., "Evaluating content management techniques for Web proxy caches" (2000);
s3-fifo: Yang et al., SOSP 2023; stp: Smith, "Long term file migration" (1981).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tierd.model.dataset import WEIGHT_DECAY
from tierd.model.value import PolicyName

TAU_S = WEIGHT_DECAY.total_seconds()
_SOONEST_S = 3600.0
"""A use that is announced for the next hour counts as one in an hour: more does not make it more urgent."""
_GIB = float(1 << 30)
_STP_EXPONENT = 1.4


@dataclass(kw_only=True, slots=True)  # not frozen: one is made for each value that is asked for
class Standing:
    """What a policy may know of one snapshot at one moment. Times in seconds before now unless said otherwise.

    Attributes:
        size_bytes: at least 1.
        weight: its decayed count of uses, as of now.
        idle_s: since its last use.
        resident_s: since it came to flash.
        uses: how often it was used, as far as is known.
        cost_s: what it would take to bring it back.
        announced_in_s: until its next announced use, 0 while that goes on; None where none is announced.
        confidence: of that announcement.
        floor: what ageing policies had reached when it was last used; see `Score.is_ageing`.
    """

    size_bytes: int
    weight: float
    idle_s: float
    resident_s: float
    uses: int
    cost_s: float
    announced_in_s: float | None = None
    confidence: float = 1.0
    floor: float = 0.0


def use_rate(s: Standing) -> float:
    """Expected uses per second: from the past, or from what is announced if that says more."""
    announced = 0.0 if s.announced_in_s is None else s.confidence / max(s.announced_in_s, _SOONEST_S)
    return max(s.weight / TAU_S, announced)


def ewr(s: Standing) -> float:
    """Seconds of waiting that a byte of flash saves per second."""
    return use_rate(s) * s.cost_s / s.size_bytes


def lru(s: Standing) -> float:
    """The longest unused leaves first."""
    return -s.idle_s


def ttl(s: Standing) -> float:
    """What came to flash first leaves first, used or not."""
    return -s.resident_s


def lfu_da(s: Standing) -> float:
    """The least often used leaves first; what was often used long ago ages, as what leaves raises the floor."""
    return s.floor + s.uses


def gdsf(s: Standing) -> float:
    """As lfu-da, per GiB: many small snapshots rather than a large one."""
    return s.floor + s.uses * _GIB / s.size_bytes


def s3_fifo(s: Standing) -> float:
    """In the order of arrival, but what was used only once leaves before anything that proved itself.

    The queues of the paper as one score: up to three further uses each give another chance.
    """
    chances = min(max(s.uses - 1, 0), 3)
    return chances + 1.0 / (1.0 + s.resident_s)


def stp(s: Standing) -> float:
    """Space-time product: large and long unused leaves first."""
    return -s.size_bytes / _GIB * math.pow(s.idle_s, _STP_EXPONENT)


@dataclass(frozen=True, slots=True)
class Score:
    """A policy's function. `is_ageing`: its values grow with those of what left (the floor), see `lfu_da`."""

    value: Callable[[Standing], float]
    is_ageing: bool = False


SCORES: Mapping[PolicyName, Score] = {
    PolicyName.EWR: Score(ewr),
    PolicyName.LRU: Score(lru),
    PolicyName.LFU_DA: Score(lfu_da, is_ageing=True),
    PolicyName.GDSF: Score(gdsf, is_ageing=True),
    PolicyName.S3_FIFO: Score(s3_fifo),
    PolicyName.STP: Score(stp),
    PolicyName.TTL: Score(ttl),
}
