"""Promises: a warm with a deadline is granted only if it and all promises before it can be kept."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tests.unit.decide.decide_world import FLASH, HDD, HOUR, MINUTE, NOW, recall, ref, snapshot, usage, view
from tierd.decide import admit, timetable
from tierd.model.dataset import SnapshotId, SnapshotRef
from tierd.model.plan import Admission, SnapshotView, View, WarmAnswer
from tierd.model.transfer import TransferId, TransferState
from tierd.model.value import Cost

GIB_PER_S = Cost(start_s=0, s_per_byte=1 / (1 << 30), s_per_file=0, samples=9)
"""100 GiB take 100 seconds."""
SECOND = timedelta(seconds=1)


def world(*snapshots: SnapshotView, **more: object) -> View:
    seen = view(snapshot("new", on=[HDD]), *snapshots, **more)  # type: ignore[arg-type]
    return replace(seen, costs={HDD: GIB_PER_S})


def coming(name: str, *, due: timedelta | None = None, state: TransferState = TransferState.QUEUED) -> SnapshotView:
    return snapshot(name, on=[HDD], live=recall(state, priority=10, due_at=None if due is None else NOW + due))


def asked(seen: View, within: timedelta | None) -> Admission:
    return admit(seen, ref("new"), NOW, None if within is None else NOW + within)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_it_says_when_it_will_be_there() -> None:
    assert asked(world(), None).ready_at == after(100)
    assert asked(world(coming("a"), coming("b")), None).ready_at == after(300)


def test_a_time_that_can_be_kept_is_promised() -> None:
    answer = asked(world(), 2 * MINUTE)
    assert (answer.answer, answer.ready_at) == (WarmAnswer.ACCEPTED, after(100))
    assert "promised by" in answer.reason


def test_what_has_no_deadline_gives_way() -> None:
    answer = asked(world(coming("a"), coming("b")), 2 * MINUTE)
    assert (answer.answer, answer.ready_at) == (WarmAnswer.ACCEPTED, after(100))


def test_too_soon_is_refused_with_the_earliest_time() -> None:
    answer = asked(world(coming("a", due=3 * MINUTE, state=TransferState.VERIFYING)), MINUTE)
    assert (answer.answer, answer.is_too_late) == (WarmAnswer.REFUSED, True)
    assert answer.ready_at == after(130)  # 30 s of verification, then its own 100 s
    assert "behind 1 recall" in answer.reason


def test_no_promise_is_broken_for_another() -> None:
    """An earlier deadline would go first, and make the one promised before too late."""
    promised = coming("promised", due=timedelta(seconds=150))
    answer = asked(world(promised), 2 * MINUTE)
    assert (answer.answer, answer.is_too_late) == (WarmAnswer.REFUSED, True)
    assert "ds/promised by" in answer.reason
    assert answer.ready_at == after(200)
    assert asked(world(promised), timedelta(seconds=200)).answer is WarmAnswer.ACCEPTED


def test_room_that_must_be_made_first_takes_its_time() -> None:
    leaves = snapshot("leaves", on=[FLASH, HDD], unused=9 * HOUR)
    full = usage(FLASH, 995, 1000)
    answer = asked(world(leaves, flash=full), None)
    assert [step.ref.name for step in answer.releases] == ["leaves"]
    assert answer.ready_at == after(102)
    only_there = replace(leaves, placements=leaves.placements[:1])
    assert asked(world(only_there, flash=full), None).ready_at == after(202)  # copied down first


def test_a_live_recall_keeps_the_earlier_deadline() -> None:
    seen = replace(world(), snapshots=(coming("new"),))
    assert asked(seen, 2 * MINUTE).answer is WarmAnswer.ACCEPTED
    refused = asked(seen, MINUTE)
    assert (refused.answer, refused.ready_at) == (WarmAnswer.REFUSED, after(100))


def test_an_assumption_is_named() -> None:
    assert "nothing was measured yet" in asked(replace(world(), costs={}), 2 * HOUR).reason


deadlines = st.lists(st.tuples(st.integers(1, 400), st.integers(1, 2000) | st.none()), max_size=12)


@given(deadlines)
def test_promises_given_one_by_one_are_all_kept(wishes: list[tuple[int, int | None]]) -> None:
    """Whatever is asked for in whatever order: what was granted stays in time."""
    granted: list[timetable.Recall] = []
    for number, (gib, within) in enumerate(wishes):
        name = f"s{number}"
        there = [
            snapshot(r.ref.name, on=[HDD], number=int(r.snapshot_id), gib=r.seconds,
                     live=replace(recall(due_at=r.due_at, priority=10), id=number_of(r)))
            for r in granted
        ]  # fmt: skip
        wanted = snapshot(name, on=[HDD], number=1000 + number, gib=gib)
        seen = replace(view(wanted, *there, flash=usage(FLASH, 0, 100_000)), costs={HDD: GIB_PER_S})
        by = None if within is None else after(within)
        answer = admit(seen, wanted.ref, NOW, by)
        if answer.answer is WarmAnswer.ACCEPTED:
            granted.append(entry(wanted.ref, 1000 + number, gib, by))
    assert timetable.late(granted, NOW) == []


@given(deadlines)
def test_the_earliest_time_that_a_refusal_names_is_granted(wishes: list[tuple[int, int | None]]) -> None:
    others = [
        coming(f"s{number}", due=None if within is None else timedelta(seconds=gib + within))
        for number, (gib, within) in enumerate(wishes)
    ]
    seen = replace(world(*others, flash=usage(FLASH, 0, 100_000)), costs={HDD: GIB_PER_S})
    refused = asked(seen, timedelta(seconds=1))
    assert refused.is_too_late
    if refused.ready_at is not None:
        assert admit(seen, ref("new"), NOW, refused.ready_at).answer is WarmAnswer.ACCEPTED


def number_of(r: timetable.Recall) -> TransferId:
    return TransferId(int(r.snapshot_id))


def entry(of: SnapshotRef, number: int, gib: float, by: datetime | None) -> timetable.Recall:
    return timetable.Recall(
        ref=of,
        snapshot_id=SnapshotId(number),
        source=HDD,
        seconds=gib,
        begins_at=NOW,
        is_running=False,
        due_at=by,
        turn=(0, number),
    )


@pytest.mark.parametrize("within", [1, 99, 100, 101])
def test_the_bound_is_exact(within: int) -> None:
    granted = asked(world(), timedelta(seconds=within)).answer is WarmAnswer.ACCEPTED
    assert granted is (within >= 100)
