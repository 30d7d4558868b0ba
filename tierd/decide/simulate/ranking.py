"""Who leaves flash next in a replay: a heap where a policy's order is that of fixed numbers, else a look at all."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Sequence
from enum import StrEnum

from tierd.decide.policies import SCORES
from tierd.decide.simulate.order import KEYS, State
from tierd.decide.simulate.trace import Trace
from tierd.model.value import PolicyName


class Reference(StrEnum):
    """Policies that only a simulation can follow, or that tierd does not offer: to compare with."""

    FIFO = "fifo"
    LFU = "lfu"
    BELADY = "belady"
    """Leaves: what is used again last. Must let everything in."""
    BELADY_SIZE = "belady-size"
    """The same, weighed by size; all are looked at."""


AnyPolicy = PolicyName | Reference
_Entry = tuple[float, int, int]
"""Key, number of its last use (of equals the longer unused leaves first), snapshot."""
_BY_ARRIVAL = frozenset({PolicyName.TTL, PolicyName.S3_FIFO})
"""Their keys are taken as of the arrival, whenever: reckoned back to it from later, equals would differ by rounding."""


class Ranking:
    """The snapshots on flash, the least valuable first.

    Keys rise with each use and never fall while time passes, so an entry may be too low but never too high: each
    snapshot has one, which is looked at again when it comes up. A use of what is on flash costs nothing then. Where a
    key does fall (belady at each use, an announced use that is over) a new entry replaces the old one at once.
    """

    def __init__(self, trace: Trace, policy: AnyPolicy, states: Sequence[State]) -> None:
        self._trace, self._policy, self._states = trace, policy, states
        self._heap: list[_Entry] = []
        self._entries: list[_Entry | None] = [None] * len(states)
        self._last = [-1] * len(states)
        self._is_used = bytearray(len(states))
        self._key = self._make_key()
        self._falls = policy is Reference.BELADY
        self._foresees = policy is PolicyName.EWR
        self._is_by_arrival = policy in _BY_ARRIVAL
        self.here: set[int] = set()

    def _make_key(self) -> Callable[[int, float], float] | None:
        """None where all have to be looked at."""
        states = self._states
        match self._policy:
            case Reference.FIFO:
                return lambda s, _: states[s].came_at
            case Reference.LFU:
                return lambda s, _: float(states[s].uses_here)
            case Reference.BELADY:
                return lambda s, _: -float(self._next_use(s))
            case Reference.BELADY_SIZE:
                return None
        key = KEYS[self._policy]
        return None if key is None else lambda s, now: key(states[s].standing(now), now)

    def used(self, s: int, number: int, *, was_announced: bool) -> None:
        """It is used, by the access of this number."""
        self._last[s] = number
        self._is_used[s] = 1
        if s in self.here and (self._falls or (was_announced and self._foresees)):
            self._note(s, self._states[s].used_at)

    def came(self, s: int, now: float) -> None:
        """It is on flash now."""
        self.here.add(s)
        self._note(s, now)

    def left(self, s: int) -> None:
        """It is not any more: it was one of the weakest."""
        self.here.discard(s)
        self._entries[s] = None

    def _note(self, s: int, now: float) -> None:
        if self._key is not None:
            self._entries[s] = entry = (self._key(s, now), self._last[s], s)
            self._is_used[s] = 0
            heapq.heappush(self._heap, entry)

    def weakest(self, need: int, now: float, spared: Collection[int]) -> list[int]:
        """Take the least valuable out of the order until they have so many bytes: each has then `left`, or is `kept`.

        There must be as many bytes beside those that are spared.
        """
        found: list[int] = []
        if self._key is None:
            ordered = [(self._seen(s, now), self._last[s], s) for s in self.here if s not in spared]
            heapq.heapify(ordered)
            while need > 0:
                s = heapq.heappop(ordered)[2]
                found.append(s)
                need -= self._states[s].size_bytes
            return found
        aside: list[int] = []
        while need > 0:
            s = self._pop(now)
            if s in spared:
                aside.append(s)
                continue
            found.append(s)
            need -= self._states[s].size_bytes
        self.kept(aside)
        return found

    def kept(self, snapshots: Sequence[int]) -> None:
        """They were among the weakest, and stay."""
        for s in snapshots:
            entry = self._entries[s]
            if entry is not None:
                heapq.heappush(self._heap, entry)

    def _pop(self, now: float) -> int:
        while True:
            entry = heapq.heappop(self._heap)
            s = entry[2]
            if self._entries[s] is not entry:
                continue
            if self._foresees and self._states[s].expected:
                self._note(s, now)  # the nearer its use, the higher
            elif self._is_used[s]:
                state = self._states[s]
                self._note(s, state.came_at if self._is_by_arrival else max(state.used_at, state.came_at))
            else:
                return s
            if self._heap[0] is self._entries[s]:
                heapq.heappop(self._heap)
                return s

    def _seen(self, s: int, now: float) -> float:
        state = self._states[s]
        if self._policy is Reference.BELADY_SIZE:
            after = self._next_use(s)
            ahead = self._trace.at[after] - now if after < len(self._trace) else float("inf")
            return -ahead * state.size_bytes
        return SCORES[PolicyName(self._policy)].value(state.standing(now))

    def _next_use(self, s: int) -> int:
        last = self._last[s]
        return self._trace.next_use[last] if last >= 0 else 0  # brought for a use that is announced, and held for it
