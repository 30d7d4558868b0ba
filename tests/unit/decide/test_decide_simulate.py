"""Replays: figures worked out by hand, bounds that hold, and an outside simulator that agrees."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from tierd.decide.policies import SCORES
from tierd.decide.simulate import Access, Options, Outcome, Trace, lower_bound, planned, replay
from tierd.decide.simulate.order import KEYS, State
from tierd.decide.simulate.replay import AnyPolicy, Reference
from tierd.model.schedule import Schedule
from tierd.model.value import Cost, PolicyName

ALL: list[AnyPolicy] = [*PolicyName, *Reference]
HOUR, DAY = 3600.0, 86_400.0
SECOND_PER_BYTE = Options(cost=Cost(start_s=0, s_per_byte=1, s_per_file=0))


def used(names: str, size: int = 1, every: float = HOUR, passes: int = 1) -> Trace:
    """One use per letter."""
    return Trace(Access(n * every, name, size, passes) for n, name in enumerate(names))


def test_lru_by_hand() -> None:
    """Flash of two: a b | a is here | c pushes b out | b pushes a out."""
    outcome = replay(used("abacb", size=10), PolicyName.LRU, 20, SECOND_PER_BYTE)
    assert (outcome.accesses, outcome.misses) == (5, 4)
    assert (outcome.requested_bytes, outcome.missed_bytes, outcome.moved_bytes) == (50, 40, 40)
    assert (outcome.stall_s, outcome.regrets, outcome.regret_bytes) == (40.0, 1, 10)
    assert outcome.byte_miss_ratio == pytest.approx(0.8)


def test_fifo_lfu_and_belady_by_hand() -> None:
    trace = used("abacabd" + "a")
    assert replay(trace, Reference.FIFO, 2).misses == 7  # a b . c a b d a: only the first repetition is a hit
    assert replay(trace, Reference.LFU, 2).misses == 5
    assert replay(trace, Reference.BELADY, 2).misses == 5


def test_what_is_larger_than_flash_is_served_cold_every_time() -> None:
    trace = Trace([Access(0, "big", 100, 3), Access(1, "small", 10), Access(2, "big", 100, 2), Access(3, "small", 10)])
    outcome = replay(trace, PolicyName.LRU, 50)
    assert (outcome.cold_bytes, outcome.moved_bytes, outcome.missed_bytes) == (500, 10, 510)
    assert outcome.misses == 3


def test_several_passes_are_missed_once() -> None:
    outcome = replay(used("a", size=10, passes=5), PolicyName.LRU, 20)
    assert (outcome.requested_bytes, outcome.missed_bytes) == (50, 10)


def test_announced_uses_are_moved_before_and_nobody_waits() -> None:
    trace = used("abcabc", size=10, every=DAY)
    told = replay(trace, PolicyName.LRU, 30, Options(announced=1.0, lead_s=HOUR))
    assert (told.missed_bytes, told.stall_s, told.moved_bytes) == (0, 0.0, 30)
    tight = replay(trace, PolicyName.LRU, 10, Options(announced=1.0, lead_s=HOUR))
    assert (tight.missed_bytes, tight.moved_bytes) == (0, 60)


def test_schedules_foresee_what_they_name_and_nobody_waits_for_it() -> None:
    """v1 is read at nine on Mondays as scheduled; v2 at any time, which nobody foresees. 1970-01-05 was a Monday."""
    monday = 4 * DAY + 9 * HOUR
    weeks = [Access(monday + n * 7 * DAY + 600, "ds/v1", 10) for n in range(4)]
    others = [Access(monday + n * 7 * DAY + 3 * DAY, "ds/v2", 10) for n in range(4)]
    trace = Trace([*weeks, *others])
    named = Schedule(name="monday", snapshots="ds/v1", cron="0 9 * * 1", use_for=timedelta(hours=8))
    foreseen = planned(trace, [named], SECOND_PER_BYTE.cost)
    assert [trace.names[trace.snapshots[n]] for n in foreseen] == ["ds/v1"] * 4
    assert [monday + n * 7 * DAY - at for n, at in enumerate(foreseen.values())] == [73.0] * 4  # 60 s and 1.3 × 10 s
    outcome = replay(trace, PolicyName.LRU, 10, replace(SECOND_PER_BYTE, planned=foreseen))
    assert (outcome.missed_bytes, outcome.stall_s, outcome.moved_bytes) == (40, 40.0, 80)
    pattern = replace(named, snapshots="ds/v*", cron="0 9 * * *", lead=timedelta(hours=1))
    assert len(planned(trace, [pattern], SECOND_PER_BYTE.cost)) == 8
    latest = replace(named, snapshots="ds/latest")
    assert [trace.at[n] for n in planned(trace, [latest], SECOND_PER_BYTE.cost)] == []  # v2 is, from the first Thursday


def test_warming_for_an_announced_use_waits_for_room() -> None:
    """Both are brought within 10 s, and c is held until 50 s before b is used: then b comes, in time."""
    trace = Trace([Access(0, "a", 10), Access(HOUR - 50, "c", 10), Access(HOUR, "b", 10)])
    outcome = replay(trace, PolicyName.LRU, 10, Options(cost=SECOND_PER_BYTE.cost, announced=1.0, lead_s=DAY))
    assert (outcome.misses, outcome.cold_bytes, outcome.moved_bytes, outcome.stall_s) == (0, 0, 30, 0.0)
    later = Trace([Access(0, "a", 10), Access(HOUR - 4, "c", 10), Access(HOUR, "b", 10)])
    outcome = replay(later, PolicyName.LRU, 10, Options(cost=SECOND_PER_BYTE.cost, announced=1.0, lead_s=DAY))
    assert (outcome.misses, outcome.missed_bytes, outcome.moved_bytes, outcome.stall_s) == (1, 6, 30, 6.0)


def test_another_use_does_not_end_the_hold_for_an_announced_one() -> None:
    """The use of b at 0 is not announced (nor that of c), the second one is: c cannot push it out in between."""
    told = [n for n in range(40) if n * 2654435761 % (1 << 32) < 0.3 * (1 << 32)]
    use = told[3]
    rows = [Access(n * 0.01, f"x{n}", 1) for n in range(use - 2)]
    rows += [Access(100.0, "b", 10), Access(101.0, "c", 10), Access(102.0, "b", 10)]
    assert use == len(rows) - 1
    outcome = replay(Trace(rows), PolicyName.LRU, 10, Options(announced=0.3, lead_s=50.0, cost=SECOND_PER_BYTE.cost))
    assert outcome.cold_bytes == 10
    assert outcome.misses == sum(n not in told for n in range(use)) - 1  # the first use of b found it, too


def test_a_use_that_is_announced_too_late_waits_for_the_rest() -> None:
    """100 s to bring, announced 40 s before: 60 s are waited for, in which 60 of the bytes come."""
    outcome = replay(
        Trace([Access(0, "a", 100)]), PolicyName.LRU, 100, Options(cost=SECOND_PER_BYTE.cost, announced=1.0, lead_s=40)
    )
    assert (outcome.stall_s, outcome.missed_bytes, outcome.moved_bytes, outcome.misses) == (60.0, 60, 100, 1)


def test_ewr_keeps_what_is_announced_where_others_forget_it() -> None:
    """a is old, its next use in an hour is announced; b was used just now. c needs the room of one."""
    rows = [Access(0, "a", 10), *(Access(60 * DAY + n * HOUR, "b", 10) for n in range(20)), Access(61 * DAY, "c", 10)]
    trace = Trace([*rows, Access(61 * DAY + HOUR, "a", 10)])
    plain, told = (replay(trace, PolicyName.EWR, 20, Options(announced=share, lead_s=DAY)) for share in (0.0, 1.0))
    assert (plain.moved_bytes, told.moved_bytes) == (40, 30)


def scanned(trace: Trace, policy: PolicyName, flash: int, options: Options) -> Outcome:
    """The same replay without a heap: all scores of the planner, as of that moment, for every victim."""
    from tierd.decide.simulate.replay import _Replay

    slow = _Replay(trace, policy, flash, options)
    slow._ranking._key = None
    return slow.run()


@given(st.data())
@settings(max_examples=150, deadline=None, derandomize=True)
@pytest.mark.parametrize("policy", list(PolicyName))
def test_the_heap_finds_the_victims_that_a_look_at_all_scores_finds(policy: PolicyName, data: st.DataObject) -> None:
    chance = random.Random(data.draw(st.integers(0, 10**9)))
    sizes = [chance.randint(10**6, 10**9) for _ in range(12)]
    at = 0.0
    rows = []
    for _ in range(data.draw(st.integers(1, 120))):
        at += 60 + chance.expovariate(1 / chance.choice([600.0, 40_000.0, 300_000.0]))
        n = min(int(chance.paretovariate(0.6)) - 1, 11)
        rows.append(Access(at, str(n), sizes[n], chance.choice([1, 1, 3])))
    trace = Trace(rows)
    flash = data.draw(st.integers(10**8, sum(sizes)))
    options = Options(
        announced=data.draw(st.sampled_from([0.0, 0.4, 1.0])), lead_s=data.draw(st.floats(1, 30 * DAY)),
        bypass=data.draw(st.booleans()),
        planned={n: trace.at[n] - chance.uniform(0, 3 * DAY) for n in range(0, len(rows), chance.randint(1, 50))},
    )  # fmt: skip
    assert replay(trace, policy, flash, options) == scanned(trace, policy, flash, options)


def test_names_do_not_matter() -> None:
    plain = mixed(4, 1500)
    flash = plain.total_bytes // 20
    renamed = Trace(
        Access(at, f"{hash_of(s)}", plain.sizes[s], passes)
        for at, s, passes in zip(plain.at, plain.snapshots, plain.passes, strict=True)
    )
    for policy in ALL:
        assert replay(plain, policy, flash) == replay(renamed, policy, flash)


def hash_of(number: int) -> int:
    return number * 7919 % 99_991


def test_bypass_leaves_flash_to_what_is_worth_more() -> None:
    trace = used("aaaa" + "x" + "a", size=10)
    plain, bypassed = (replay(trace, PolicyName.EWR, 10, Options(bypass=b)) for b in (False, True))
    assert (plain.misses, bypassed.misses) == (3, 2)
    assert bypassed.cold_bytes == 10
    assert replay(used("aaaa", size=10, passes=1), PolicyName.EWR, 10, Options(bypass=True)).cold_bytes == 0


traces = st.lists(
    st.tuples(st.sampled_from("abcdefg"), st.integers(1, 400), st.integers(1, 3)), min_size=1, max_size=40
)


def trace_of(steps: Sequence[tuple[str, int, int]]) -> Trace:
    sizes = {name: 1 + 7 * n for n, name in enumerate("abcdefg")}
    moments = itertools.accumulate(gap * 977.0 for _, gap, _ in steps)
    return Trace(Access(at, name, sizes[name], passes) for at, (name, _, passes) in zip(moments, steps, strict=True))


@given(traces, st.integers(5, 120), st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_policy_beats_the_bound_and_every_byte_is_accounted_for(
    steps: list[tuple[str, int, int]], flash: int, bypass: bool
) -> None:
    trace = trace_of(steps)
    exact, weak = (lower_bound(trace, flash, most_accesses=most) for most in (1000, 0))
    assert (exact.method, weak.method) == ("foo", "pfoo-l")
    assert weak.byte_miss_ratio <= exact.byte_miss_ratio + 1e-9
    for policy in ALL:
        outcome = replay(trace, policy, flash, Options(bypass=bypass))
        assert outcome.byte_miss_ratio >= exact.byte_miss_ratio - 1e-9
        assert outcome.missed_bytes == outcome.moved_bytes + outcome.cold_bytes
        assert outcome.missed_bytes <= outcome.requested_bytes


@given(traces, st.integers(20, 120), st.floats(0.1, 1.0), st.integers(1, 200))
@settings(max_examples=40)
def test_flash_never_holds_more_than_it_can(
    steps: list[tuple[str, int, int]], flash: int, share: float, lead_h: int
) -> None:
    from tierd.decide.simulate.replay import _Replay

    trace = trace_of(steps)

    class Watched(_Replay):
        def _bring(self, s: int, now: float) -> None:
            super()._bring(s, now)
            assert self._room >= 0
            assert self._room == flash - sum(trace.sizes[here] for here in self._here)

    for policy in ALL:
        Watched(trace, policy, flash, Options(announced=share, lead_s=lead_h * HOUR)).run()


@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=12), st.integers(1, 4))
@settings(max_examples=40)
def test_belady_is_the_best_for_equal_sizes(names: list[str], flash: int) -> None:
    """Against every possible choice of victims."""
    best = {frozenset[str](): 0}
    for name in names:
        after: dict[frozenset[str], int] = {}
        for here, misses in best.items():
            if name in here:
                ways = [(here, misses)]
            elif len(here) < flash:
                ways = [(here | {name}, misses + 1)]
            else:
                ways = [((here - {victim}) | {name}, misses + 1) for victim in here]
            for way, count in ways:
                after[way] = min(count, after.get(way, 10**6))
        best = after
    assert replay(used("".join(names)), Reference.BELADY, flash).misses == min(best.values())


@given(
    st.lists(
        st.tuples(st.integers(1, 10**12), st.integers(1, 6), st.floats(0, 1e7), st.floats(0, 1e7), st.floats(0.1, 1e5)),
        min_size=2,
        max_size=8,
    ),
    st.floats(1e7, 9e7),
)
@pytest.mark.parametrize("policy", [policy for policy, key in KEYS.items() if key is not None])
def test_the_keys_order_snapshots_as_the_planners_scores_do(
    policy: PolicyName, many: list[tuple[int, int, float, float, float]], later: float
) -> None:
    """Whatever the moment at which they are compared."""
    states = []
    for size, uses, came, gap, cost in many:
        state = State(size_bytes=size, cost_s=cost, first_at=came, came_at=came)
        for n in range(uses):
            state.use(came + n * gap / uses, float(n))
        states.append(state)
    key, value = KEYS[policy], SCORES[policy].value
    assert key is not None
    keys = [key(s.standing(s.used_at), s.used_at) for s in states]
    values = [value(s.standing(later)) for s in states]
    for a, b in itertools.combinations(range(len(states)), 2):
        if keys[a] < keys[b] - 1e-6 * abs(keys[b]):
            assert values[a] <= values[b] * (1 + 1e-9) + 1e-12 or values[a] == pytest.approx(values[b])


def mixed(seed: int, uses: int = 6000) -> Trace:
    """Few snapshots used often, many used once or twice, sizes over three orders of magnitude."""
    chance = random.Random(seed)
    often = [(f"often{n}", int(10 ** chance.uniform(9, 11))) for n in range(30)]
    once = [(f"once{n}", int(10 ** chance.uniform(9, 11))) for n in range(3000)]
    return Trace(
        Access(n * 900.0, *(chance.choice(often) if chance.random() < 0.5 else chance.choice(once)))
        for n in range(uses)
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("share", [0.02, 0.05])
def test_ewr_beats_lru_where_some_are_used_often(seed: int, share: float) -> None:
    trace = mixed(seed)
    flash = int(trace.total_bytes * share)
    own, other = (replay(trace, policy, flash).byte_miss_ratio for policy in (PolicyName.EWR, PolicyName.LRU))
    assert own < 0.97 * other


_PEER = """
import json, sys
import libcachesim as lcs
asked = json.load(sys.stdin)
cls = getattr(lcs, asked["policy"])
cache = cls(cache_size=asked["flash"])
missed = requested = misses = 0
for n, (name, size, after) in enumerate(asked["uses"]):
    request = lcs.Request(obj_id=name + 1, obj_size=size, clock_time=n, next_access_vtime=after)
    hit = cache.get(request)
    requested += size
    if not hit:
        missed += size
        misses += 1
print(json.dumps({"bytes": missed / requested, "uses": misses / len(asked["uses"])}))
"""


@pytest.mark.parametrize(
    ("policy", "peer"),
    [(PolicyName.LRU, "LRU"), (Reference.FIFO, "FIFO"), (Reference.LFU, "LFU"), (Reference.BELADY, "Belady")],
)
def test_libcachesim_agrees(policy: AnyPolicy, peer: str) -> None:
    """GPL, so it runs in a process of its own; some of its policies hang, so it has a time limit."""
    pytest.importorskip("libcachesim", reason="libcachesim is in the extra `dev`")
    chance = random.Random(7)
    weights = [1 / (n + 1) for n in range(200)]
    sizes = [chance.randint(1, 100) for _ in range(200)]
    names = chance.choices(range(200), weights, k=20_000)
    trace = Trace(Access(float(n), str(name), sizes[name]) for n, name in enumerate(names))
    flash = sum(sizes) // 10
    uses = [
        (name, sizes[name], after if after < len(names) else 2**62)
        for name, after in zip(names, trace.next_use, strict=True)
    ]
    asked = json.dumps({"policy": peer, "flash": flash, "uses": uses})
    ran = subprocess.run(
        [sys.executable, "-c", _PEER], input=asked, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    own = replay(trace, policy, flash)
    assert own.byte_miss_ratio == pytest.approx(found["bytes"], abs=1e-3)
    assert own.miss_ratio == pytest.approx(found["uses"], abs=1e-3)
