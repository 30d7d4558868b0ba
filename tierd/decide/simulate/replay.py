"""One replay: a policy, a size of flash, and what it would have cost."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tierd.decide.policies import SCORES
from tierd.decide.schedules import HORIZON
from tierd.decide.simulate.order import State
from tierd.decide.simulate.planned import warming_s
from tierd.decide.simulate.ranking import AnyPolicy, Ranking, Reference
from tierd.decide.simulate.trace import Trace
from tierd.model.value import ASSUMED, Cost, PolicyName

__all__ = ["AnyPolicy", "Options", "Outcome", "Reference", "replay"]

_HASH = 2654435761
_SCALE = 1 << 32


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a replay assumes.

    Attributes:
        cost: of bringing a snapshot to flash.
        announced: share of the uses that are known `lead_s` before. They are warmed in time if that is long enough, and
            held for the use: moved, but nobody waits.
        planned: uses that schedules foresee, by the number of the access: when warming for them begins.
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

    @property
    def foresees(self) -> bool:
        """Whether any use is known before."""
        return self.announced > 0 or bool(self.planned)


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
        self._ranking = Ranking(trace, policy, self._states)
        self._here = self._ranking.here
        self._left_at: dict[int, float] = {}
        self._there_at: dict[int, float] = {}
        self._pinned: dict[int, set[int]] = {}
        self._pinned_bytes = 0
        self._without_room: list[int] = []
        self._floor = 0.0
        self._ages = isinstance(policy, PolicyName) and SCORES[policy].is_ageing

    def run(self) -> Outcome:
        trace, outcome = self._trace, self._outcome
        told = self._told()
        ahead = sorted(self._ahead(told))
        cursor, coming = 0, ahead[0][0] if ahead else float("inf")
        for number, (now, s, passes) in enumerate(zip(trace.at, trace.snapshots, trace.passes, strict=True)):
            while coming <= now:
                at, use, is_warmed = ahead[cursor]
                if use >= number:
                    self._hear(use, at, is_warmed=is_warmed)
                cursor += 1
                coming = ahead[cursor][0] if cursor < len(ahead) else float("inf")
            is_announced = number in told
            self._use(number, s, passes, now, is_announced=is_announced)
            if is_announced and self._without_room:  # what was held for this use may leave now
                self._warm_again(number, now)
        outcome.accesses, outcome.requested_bytes = len(trace), trace.requested_bytes
        return outcome

    def _told(self) -> Mapping[int, tuple[float, float]]:
        """The accesses that are known before, the same ones for every policy: since when, and when they are warmed."""
        trace, share, lead_s = self._trace, self._options.announced, self._options.lead_s
        told: dict[int, tuple[float, float]] = {}
        for n in range(len(trace)) if share > 0 else ():
            if n * _HASH % _SCALE < share * _SCALE:
                takes = warming_s(self._states[trace.snapshots[n]].cost_s)
                told[n] = trace.at[n] - lead_s, trace.at[n] - min(lead_s, takes)
        for n, begins in self._options.planned.items():
            heard, warmed = trace.at[n] - HORIZON.total_seconds(), min(begins, trace.at[n])
            known = told.get(n, (warmed, warmed))
            told[n] = min(heard, *known), min(warmed, known[1])
        return told

    def _ahead(self, told: Mapping[int, tuple[float, float]]) -> Iterator[tuple[float, int, bool]]:
        """When a use is heard of, and when warming for it begins."""
        for n, (heard, warmed) in told.items():
            yield heard, n, False
            yield warmed, n, True

    # -- events -----------------------------------------------------------------------------------------------

    def _hear(self, use: int, now: float, *, is_warmed: bool) -> None:
        """An announced use is told of; or it comes near, and its snapshot is brought, and stays until then."""
        s = self._trace.snapshots[use]
        state = self._states[s]
        if not is_warmed:
            insort(state.expected, self._trace.at[use])
            return
        if s not in self._here:
            if not self._fits(state.size_bytes):
                self._without_room.append(use)
                return
            self._release(self._weakest(state.size_bytes, now), now)
            self._bring(s, now)
            self._there_at[s] = now + state.cost_s
        if s not in self._pinned:
            self._pinned[s] = set()
            self._pinned_bytes += state.size_bytes
        self._pinned[s].add(use)

    def _warm_again(self, number: int, now: float) -> None:
        waiting, self._without_room = self._without_room, []
        for use in waiting:
            if use > number:
                self._hear(use, now, is_warmed=True)

    def _use(self, number: int, s: int, passes: int, now: float, *, is_announced: bool) -> None:
        state, outcome = self._states[s], self._outcome
        if is_announced:
            state.expected.remove(now)
            self._unpin(s, number)
        state.use(now, self._floor)
        self._ranking.used(s, number, was_announced=is_announced)
        if s in self._here:
            if self._there_at and s in self._there_at:
                self._wait_for_the_rest(s, now)
            return
        outcome.misses += 1
        size_bytes = state.size_bytes
        if self._fits(size_bytes):
            victims = self._weakest(size_bytes, now)
            if not (victims and passes == 1 and self._options.bypass and self._is_bypassed(s, victims, now)):
                self._release(victims, now)
                outcome.missed_bytes += size_bytes
                outcome.stall_s += state.cost_s
                self._bring(s, now)
                return
            self._ranking.kept(victims)
        outcome.missed_bytes += size_bytes * passes
        outcome.cold_bytes += size_bytes * passes
        outcome.stall_s += state.cost_s * passes

    def _wait_for_the_rest(self, s: int, now: float) -> None:
        """It was warmed for an announced use, but perhaps not early enough."""
        state, outcome = self._states[s], self._outcome
        left_s = self._there_at.pop(s) - now
        if left_s > 0:
            outcome.misses += 1
            outcome.missed_bytes += round(state.size_bytes * left_s / state.cost_s)
            outcome.stall_s += left_s

    def _unpin(self, s: int, use: int) -> None:
        uses = self._pinned.get(s)
        if uses is not None:
            uses.discard(use)
            if not uses:
                del self._pinned[s]
                self._pinned_bytes -= self._states[s].size_bytes

    def _bring(self, s: int, now: float) -> None:
        state, outcome = self._states[s], self._outcome
        outcome.moved_bytes += state.size_bytes
        left_at = self._left_at.pop(s, None)
        if left_at is not None and now - left_at <= self._options.regret_s:
            outcome.regrets += 1
            outcome.regret_bytes += state.size_bytes
        self._room -= state.size_bytes
        state.came_at, state.uses_here = now, 1
        self._ranking.came(s, now)

    # -- room --------------------------------------------------------------------------------------------------

    def _fits(self, size_bytes: int) -> bool:
        return size_bytes <= self._outcome.flash_bytes - self._pinned_bytes

    def _weakest(self, size_bytes: int, now: float) -> list[int]:
        need = size_bytes - self._room
        return self._ranking.weakest(need, now, self._pinned) if need > 0 else []

    def _release(self, victims: Sequence[int], now: float) -> None:
        for s in victims:
            state = self._states[s]
            if self._ages:
                self._floor = max(self._floor, SCORES[PolicyName(self._policy)].value(state.standing(now)))
            self._ranking.left(s)
            self._room += state.size_bytes
            self._left_at[s] = now
            self._there_at.pop(s, None)

    def _is_bypassed(self, s: int, victims: Sequence[int], now: float) -> bool:
        """Read once, and worth less than what would have to leave: it is served from where it is."""
        if not isinstance(self._policy, PolicyName):
            return False
        value = SCORES[self._policy].value
        own, lost = (
            sum(value(self._states[n].standing(now)) * self._states[n].size_bytes for n in each)
            for each in ([s], victims)
        )
        return own < self._options.challenger * lost
