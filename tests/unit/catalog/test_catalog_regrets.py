"""Regret: moves that turned out to be in vain are counted, once each, and the counts survive a restart."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tests.unit.catalog.catalog_world import FLASH, NOW, S, World, cold_copy
from tierd.catalog import Catalog
from tierd.model.dataset import AccessSource, Snapshot
from tierd.model.effect import DropPlacement, PutPlacement, SetWarmed
from tierd.model.observation import AccessBatch
from tierd.model.placement import PlacementState
from tierd.model.transfer import TransferKind

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def release(world: World, s: Snapshot, *, at: Any, by: str = "policy") -> None:
    """Migrate and release, as a worker does."""
    t = world.enqueue(s.id, release=True, requested_by=by, now=at)
    t = world.run(t, S.COPYING, S.VERIFYING, now=at)
    t = world.catalog.advance(t.id, t.state, S.COMMITTED, now=at, effects=[cold_copy()])
    t = world.run(t, S.RELEASING, now=at)
    world.catalog.advance(t.id, t.state, S.DONE, now=at, effects=[DropPlacement(FLASH)])


def recall(world: World, s: Snapshot, *, at: Any, ends: Any, **more: Any) -> None:
    t = world.enqueue(s.id, TransferKind.RECALL, requested_by="alice", now=at, **more)
    t = world.run(t, S.COPYING, S.VERIFYING, now=at)
    there = PutPlacement(
        tier=FLASH, state=PlacementState.VERIFIED, location=None, content_id=None, size_bytes=1000, entries=11,
        verified_at=ends,
    )  # fmt: skip
    t = world.catalog.advance(t.id, t.state, S.COMMITTED, now=ends, effects=[there])
    world.catalog.advance(t.id, t.state, S.DONE, now=ends, effects=[SetWarmed(ends)])


def read(world: World, s: Snapshot, at: Any) -> None:
    seen = AccessBatch(snapshot_id=s.id, reads=1, writes=0, read_at=at, written_at=None, source=AccessSource.EVENTS)
    world.catalog.record_access([seen], now=at)


def counts(world: World) -> dict[str, float]:
    return dict(world.catalog.counters())


def test_what_the_policy_released_and_comes_back_within_a_week_is_regretted(world: World) -> None:
    s = world.add()
    release(world, s, at=NOW)
    recall(world, s, at=NOW + 6 * DAY, ends=NOW + 6 * DAY)
    assert (counts(world)["rewarmed"], counts(world)["rewarmed_bytes"]) == (1, 1000)


def test_what_comes_back_later_or_was_released_by_a_person_is_not(world: World) -> None:
    early, own = world.add("v1"), world.add("v2")
    release(world, early, at=NOW)
    recall(world, early, at=NOW + 8 * DAY, ends=NOW + 8 * DAY)
    release(world, own, at=NOW, by="alice")
    recall(world, own, at=NOW + HOUR, ends=NOW + HOUR)
    assert "rewarmed" not in counts(world)


def test_what_was_warmed_and_released_unread_is_counted(world: World) -> None:
    for name, is_read in (("v1", False), ("v2", True)):
        s = world.add(name)
        release(world, s, at=NOW)
        recall(world, s, at=NOW + DAY, ends=NOW + DAY)
        if is_read:
            read(world, s, NOW + DAY + HOUR)
        release(world, s, at=NOW + 3 * DAY)
    assert counts(world)["warmed_unread"] == 1


def test_deadlines_and_waits_are_counted_when_it_arrives(world: World) -> None:
    for name, ends in (("v1", NOW + HOUR), ("v2", NOW + 3 * HOUR)):
        s = world.add(name)
        release(world, s, at=NOW - 30 * DAY)
        recall(world, s, at=NOW, ends=ends, due_at=NOW + 2 * HOUR)
    found = counts(world)
    assert (found["deadlines_met"], found["deadlines_missed"]) == (1, 1)
    assert (found["warms"], found["warm_wait_s"]) == (2, 4 * 3600)


def test_uses_of_the_cold_copy_are_counted_once_each(world: World) -> None:
    s = world.add()
    read(world, s, NOW)  # on flash
    release(world, s, at=NOW + HOUR)
    read(world, s, NOW + DAY)
    read(world, s, NOW + DAY + HOUR)  # the same use
    read(world, s, NOW + 2 * DAY)
    assert (counts(world)["cold_uses"], counts(world)["cold_use_bytes"]) == (2, 2 * s.size_bytes)


def test_counts_survive_a_restart(world: World) -> None:
    world.catalog.count("deadlines_refused")
    path = world.catalog.path
    world.catalog.close()
    again = Catalog.open(path)
    again.count("deadlines_refused")
    assert again.counters()["deadlines_refused"] == 2
    again.close()


def test_the_floor_only_rises_and_is_kept_by_what_is_used(world: World) -> None:
    s, other = world.add("v1"), world.add("v2")
    world.catalog.raise_floor(5.0)
    read(world, s, NOW)
    world.catalog.raise_floor(3.0)
    read(world, other, NOW)
    world.catalog.raise_floor(9.0)
    assert [world.catalog.snapshot_by_id(each.id).floor for each in (s, other)] == [5.0, 5.0]


def test_the_last_release_and_promotions_of_a_day_are_in_the_view(world: World) -> None:
    s = world.add()
    release(world, s, at=NOW)
    t = world.enqueue(s.id, TransferKind.RECALL, now=NOW + HOUR)
    world.run(t, S.COPYING, S.VERIFYING, S.COMMITTED, S.DONE, now=NOW + HOUR)
    seen = world.catalog.view(world.tiers, world.datasets, {}, now=NOW + 2 * HOUR)
    assert (seen.snapshots[0].released_at, seen.promoted_bytes) == (NOW, 1000)
    assert world.catalog.view(world.tiers, world.datasets, {}, now=NOW + 2 * DAY).promoted_bytes == 0


def test_what_the_control_loop_asks_each_second_does_not_grow_with_the_history(world: World) -> None:
    """Thousands of leases that ended long ago are not walked through to find the few that are open."""
    s = world.add()
    with world.catalog._writing() as conn:
        many = [(n, s.id, n, n, n + 9, n + 5, 1) for n in range(1, 5001)]
        conn.exec_driver_sql(
            "INSERT INTO hold (id, snapshot_id, kind, holder, since, renewed_at, expires_at, ended_at, generation)"
            " VALUES (?, ?, 'lease', 'job', ?, ?, ?, ?, ?)",
            many,
        )
    asked: list[str] = []
    with world.catalog._reading() as conn:
        raw = conn.connection.driver_connection
        raw.set_trace_callback(asked.append)
    world.catalog.tied_leases()
    world.catalog.expire_leases(NOW)
    world.catalog.holds(now=NOW)
    raw.set_trace_callback(None)
    queries = [sql for sql in asked if "FROM hold" in sql]
    assert len(queries) >= 3
    with world.catalog._reading() as conn:
        for sql in queries:
            plan = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}").fetchall()
            assert "USING INDEX hold_" in str(plan), sql
