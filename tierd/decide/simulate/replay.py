"""One replay: a policy, a size of flash, and what it would have cost."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tierd.decide.policies import SCORES
from tierd.decide.simulate.order import KEYS, State
from tierd.decide.simulate.trace import Trace
from tierd.model.value import ASSUMED, Cost, PolicyName

_HASH = 2654435761
_SCALE = 1 << 32


class Reference(StrEnum):
    """Policies that only a simulation can follow, or that tierd does not offer: to compare with."""

    FIFO = "fifo"
    LFU = "lfu"
    BELADY = "belady"
    """Leaves: what is used again last. Must let everything in."""
    BELADY_SIZE = "belady-size"
    """The same, weighed by size; all are looked at."""


AnyPolicy = PolicyName | Reference
_Entry = tuple[float, int, int, int]
"""Key, when it was noted (of equals the first leaves), snapshot, version of its key."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a replay assumes.

    Attributes:
        cost: of bringing a snapshot to flash.
        announced: share of the uses that are announced `lead_s` before, and warmed by then: moved, but nobody waits.
        planned: uses that schedules foresee, by the number of the access: when they are warmed.
        bypass: what is read once only may be served from the cold tier, when it is worth less than what would leave.
        challenger: by what factor it must be worth more.
        regret_s: fetched again within this time after it left: regretted.
    """

    cost: Cost = ASSUMED
    announced: float = 0.0
    lead_s: float = 7 * 86_400.0
    planned: Mapping[int, float] = field(default_factory=dict)
    bypass: bool = False
    challenger: float = 1.25
    regret_s: float = 14 * 86_400.0


@dataclass(kw_only=True)
class Outcome:
    """What one policy did with one size of flash.

    Attributes:
        missed_bytes: read from the cold tier while somebody waited; of requested_bytes.
        moved_bytes: brought to flash, announced uses included; written there as well.
        cold_bytes: served from the cold tier without coming to flash.
        stall_s: waited for.
        regrets, regret_bytes: left, and fetched again soon after.
    """

    policy: str
    flash_bytes: int
    accesses: int = 0
    misses: int = 0
    requested_bytes: int = 0
    missed_bytes: int = 0
    moved_bytes: int = 0
    cold_bytes: int = 0
    stall_s: float = 0.0
    regrets: int = 0
    regret_bytes: int = 0

    @property
    def byte_miss_ratio(self) -> float:
        return self.missed_bytes / self.requested_bytes if self.requested_bytes else 0.0

    @property
    def miss_ratio(self) -> float:
        return self.misses / self.accesses if self.accesses else 0.0


def replay(trace: Trace, policy: AnyPolicy, flash_bytes: int, options: Options | None = None) -> Outcome:
    """Replay the whole trace, beginning with an empty flash."""
    return _Replay(trace, policy, flash_bytes, options or Options()).run()


class _Replay:
    def __init__(self, trace: Trace, policy: AnyPolicy, flash_bytes: int, options: Options) -> None:
        self._trace, self._policy, self._options = trace, policy, options
        self._room = flash_bytes
        self._outcome = Outcome(policy=policy, flash_bytes=flash_bytes)
        cost = options.cost
        self._states = [
            State(size_bytes=size, cost_s=cost.seconds(size, files), first_at=0.0)
            for size, files in zip(trace.sizes, trace.files, strict=True)
        ]
        self._here: set[int] = set()
        self._left_at: dict[int, float] = {}
        self._pinned: dict[int, int] = {}
        self._next = [0] * len(trace.sizes)
        self._floor = 0.0
        self._is_ageing = isinstance(policy, PolicyName) and SCORES[policy].is_ageing
        self._heap: list[_Entry] = []
        self._noted = 0
        self._versions = [0] * len(trace.sizes)
        self._key = self._make_key()

    def _make_key(self) -> Callable[[int, float], float] | None:
        """The heap's key of a snapshot at the moment of its use; None where all have to be looked at."""
        states, nexts = self._states, self._next
        match self._policy:
            case Reference.FIFO:
                return lambda s, _: states[s].came_at
            case Reference.LFU:
                return lambda s, _: float(states[s].uses_here)
            case Reference.BELADY:
                return lambda s, _: -float(nexts[s])
            case Reference.BELADY_SIZE:
                return None
        key = KEYS[self._policy]
        return None if key is None else lambda s, now: key(states[s].standing(now), now)

    def run(self) -> Outcome:
        trace, outcome = self._trace, self._outcome
        ahead = self._announcements()
        cursor = 0
        for number, (now, s, passes) in enumerate(zip(trace.at, trace.snapshots, trace.passes, strict=True)):
            while cursor < len(ahead) and ahead[cursor][0] <= now:
                at, coming, use = ahead[cursor]
                cursor += 1
                if use >= number:
                    self._warm(coming, at)
            self._use(number, s, passes, now)
        outcome.accesses, outcome.requested_bytes = len(trace), trace.requested_bytes
        return outcome

    def _announcements(self) -> list[tuple[float, int, int]]:
        share, lead_s, trace = self._options.announced, self._options.lead_s, self._trace
        told = {n: trace.at[n] - lead_s for n in range(len(trace)) if share and n * _HASH % _SCALE < share * _SCALE}
        told |= {n: min(at, told.get(n, at)) for n, at in self._options.planned.items()}
        return sorted((at, trace.snapshots[n], n) for n, at in told.items())

    # -- events -----------------------------------------------------------------------------------------------

    def _warm(self, s: int, now: float) -> None:
        """An announced use comes near: it is brought, and stays until then."""
        if s not in self._here:
            if not self._make_room(s, now):
                return
            self._bring(s, now)
        self._pinned[s] = self._pinned.get(s, 0) + 1

    def _use(self, number: int, s: int, passes: int, now: float) -> None:
        state, outcome = self._states[s], self._outcome
        self._next[s] = self._trace.next_use[number]
        is_here = s in self._here
        if self._pinned.pop(s, None) is not None and not is_here:  # never: what is pinned stays
            raise AssertionError(s)
        state.use(now, self._floor)
        if not is_here:
            outcome.misses += 1
            if self._is_bypassed(s, passes, now) or not self._make_room(s, now):
                outcome.missed_bytes += state.size_bytes * passes
                outcome.cold_bytes += state.size_bytes * passes
                outcome.stall_s += state.cost_s * passes
                return
            outcome.missed_bytes += state.size_bytes
            outcome.stall_s += state.cost_s
            self._bring(s, now)
        self._note(s, now)

    def _bring(self, s: int, now: float) -> None:
        state, outcome = self._states[s], self._outcome
        outcome.moved_bytes += state.size_bytes
        left_at = self._left_at.pop(s, None)
        if left_at is not None and now - left_at <= self._options.regret_s:
            outcome.regrets += 1
            outcome.regret_bytes += state.size_bytes
        self._here.add(s)
        self._room -= state.size_bytes
        state.came_at, state.uses_here = now, 1
        self._note(s, now)

    def _note(self, s: int, now: float) -> None:
        """Its key changed."""
        if self._key is not None:
            self._versions[s] += 1
            self._noted += 1
            heapq.heappush(self._heap, (self._key(s, now), self._noted, s, self._versions[s]))

    # -- room --------------------------------------------------------------------------------------------------

    def _make_room(self, s: int, now: float) -> bool:
        """Let the least valuable leave; False, and nobody leaves, where all that may is not enough."""
        need = self._states[s].size_bytes - self._room
        if need <= 0:
            return True
        pinned = sum(self._states[p].size_bytes for p in self._pinned)
        if self._states[s].size_bytes > self._outcome.flash_bytes - pinned:
            return False
        aside: list[_Entry] = []
        while self._room < self._states[s].size_bytes:
            victim, entry = self._victim(now)
            if victim in self._pinned:
                aside.append(entry)
                continue
            self._leave(victim, now)
        for entry in aside:
            heapq.heappush(self._heap, entry)
        return True

    def _victim(self, now: float) -> tuple[int, _Entry]:
        if self._key is None:
            free = (s for s in self._here if s not in self._pinned)
            return min(free, key=lambda s: (self._scan_value(s, now), s)), (0.0, 0, 0, 0)
        while True:
            entry = heapq.heappop(self._heap)
            if entry[3] == self._versions[entry[2]] and entry[2] in self._here:
                return entry[2], entry

    def _scan_value(self, s: int, now: float) -> float:
        state = self._states[s]
        if self._policy is Reference.BELADY_SIZE:
            after = self._next[s]
            ahead = self._trace.at[after] - now if after < len(self._trace) else float("inf")
            return -ahead * state.size_bytes
        return SCORES[PolicyName(self._policy)].value(state.standing(now))

    def _leave(self, s: int, now: float) -> None:
        if self._is_ageing:
            value = SCORES[PolicyName(self._policy)].value(self._states[s].standing(now))
            self._floor = max(self._floor, value)
        self._here.discard(s)
        self._room += self._states[s].size_bytes
        self._left_at[s] = now

    def _is_bypassed(self, s: int, passes: int, now: float) -> bool:
        """Read once, and worth less than what would have to leave: it is served from where it is."""
        if not self._options.bypass or passes > 1 or not isinstance(self._policy, PolicyName):
            return False
        need = self._states[s].size_bytes - self._room
        if need <= 0:
            return False
        value = SCORES[self._policy].value
        own = value(self._states[s].standing(now)) * self._states[s].size_bytes
        lost = freed = 0.0
        for other in sorted(self._here - self._pinned.keys(), key=lambda o: value(self._states[o].standing(now))):
            if freed >= need:
                break
            freed += self._states[other].size_bytes
            lost += value(self._states[other].standing(now)) * self._states[other].size_bytes
        return own < self._options.challenger * lost
