"""The view: complete, consistent, and in a fixed number of queries."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from sqlalchemy import event, text

from tests.unit.catalog.catalog_world import FLASH, HDD, NOW, S, World, cold_copy, measure
from tierd.catalog import TransferCount
from tierd.model.dataset import SnapshotRef
from tierd.model.effect import DropPlacement
from tierd.model.placement import Residency
from tierd.model.plan import SnapshotView, View
from tierd.model.tier import TierUsage
from tierd.model.transfer import TransferKind

HOUR = timedelta(hours=1)
USAGE = {FLASH: TierUsage(tier=FLASH, is_online=True)}


def look(world: World) -> View:
    return world.catalog.view(world.tiers, world.datasets, USAGE, now=NOW)


def of(view: View, name: str) -> SnapshotView:
    found = view.find(SnapshotRef("imagenet", name))
    assert found is not None
    return found


def test_view_holds_everything_a_decision_looks_at(world: World) -> None:
    v1, v2, v3, v4 = (world.add(f"v{n}", measure=measure()) for n in (1, 2, 3, 4))
    world.catalog.apply(v1.id, [cold_copy()], now=NOW)
    pin = world.catalog.pin(v1.id, "root", NOW)
    world.catalog.grant_lease(snapshot_id=v1.id, holder="late", ttl=HOUR, now=NOW - 2 * HOUR)
    live = world.enqueue(v2.id)
    failed = world.catalog.fail(world.enqueue(v3.id).id, S.QUEUED, error="e", error_code="c", now=NOW)
    world.catalog.mark_gone(v4.id, NOW)
    view = look(world)
    assert [s.ref.name for s in view.snapshots] == ["v1", "v2", "v3"]
    assert (view.tiers, view.usage) == (world.tiers, USAGE)
    assert of(view, "v1").holds == (pin,)
    assert view.residency(of(view, "v1")) is Residency.PREMIGRATED
    assert of(view, "v2").live == live
    assert of(view, "v3").last_failure == failed
    assert of(view, "v2").last_failure is of(view, "v3").live is None
    assert of(view, "v1").dataset is world.datasets[0]
    assert of(view, "v1").snapshot == world.catalog.snapshot(v1.ref)
    world.enqueue(v3.id)
    assert of(look(world), "v3").last_failure is None, "a newer transfer supersedes the failure"


def test_datasets_no_longer_configured_are_left_out(world: World) -> None:
    world.add()
    world.catalog.configure(world.tiers, ())
    assert world.catalog.view(world.tiers, (), USAGE, now=NOW).snapshots == ()
    assert len(world.catalog.snapshots()) == 1


def test_every_change_shows_in_the_next_view(world: World) -> None:
    s = world.add()
    assert of(look(world), "v1").snapshot.size_bytes == 0
    world.catalog.record_measure(s.id, measure(), now=NOW)
    assert of(look(world), "v1").snapshot.size_bytes == 1000
    world.catalog.apply(s.id, [cold_copy()], now=NOW)
    assert len(of(look(world), "v1").placements) == 2
    world.catalog.apply(s.id, [DropPlacement(FLASH)], now=NOW)
    assert [p.tier for p in of(look(world), "v1").placements] == [HDD]
    world.catalog.rename_snapshot(s.id, SnapshotRef("imagenet", "v9"), s.path, NOW)
    assert [x.ref.name for x in look(world).snapshots] == ["v9"]


def test_view_is_one_moment_even_while_others_write(world: World) -> None:
    """Each round swaps the only placement in one transaction: no view may see none, or both."""
    s = world.add()
    world.catalog.apply(s.id, [cold_copy(), DropPlacement(FLASH)], now=NOW)
    back = world.catalog.placements(s.id)[0]
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            with world.catalog._writing() as conn:
                conn.execute(text("UPDATE placement SET tier = CASE tier WHEN 'hdd' THEN 'flash' ELSE 'hdd' END"))

    writer = threading.Thread(target=swap)
    writer.start()
    try:
        for _ in range(200):
            assert len(of(look(world), "v1").placements) == 1
    finally:
        stop.set()
        writer.join()
    assert back.tier == HDD


def test_a_view_misses_nothing_that_was_written_before_and_mixes_no_moments(world: World) -> None:
    """Each round records an age and pins or unpins with it in one transaction, while others look all the time."""
    s = world.add()
    world.catalog.record_measure(s.id, measure(), now=NOW)
    stop, wrong = threading.Event(), list[str]()

    def is_mixed(view: View) -> bool:
        seen = of(view, "v1")
        return bool(seen.holds) != bool(seen.snapshot.episodes % 2)

    def watch() -> None:
        while not stop.is_set():
            view = look(world)
            if is_mixed(view):
                wrong.append(f"{len(of(view, 'v1').holds)} pins at {of(view, 'v1').snapshot.episodes}")

    def write(number: int) -> None:
        with world.catalog.together():
            with world.catalog._writing() as conn:
                conn.execute(text("UPDATE snapshot SET episodes = :number"), {"number": number})
            if number % 2:
                world.catalog.pin(s.id, holder="me", now=NOW)
            else:
                world.catalog.unpin(s.id, NOW)

    write(0)
    watchers = [threading.Thread(target=watch) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        for number in range(1, 150):
            write(number)
            seen = of(look(world), "v1")
            assert (seen.snapshot.episodes, len(seen.holds)) == (number, number % 2)
    finally:
        stop.set()
        for watcher in watchers:
            watcher.join()
    assert wrong == []


def test_a_change_that_is_taken_back_leaves_no_trace(world: World) -> None:
    world.add()
    look(world)

    def change_and_fail() -> None:
        with world.catalog._writing() as conn:
            conn.execute(text("UPDATE snapshot SET name = 'v2'"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        change_and_fail()
    assert [x.ref.name for x in look(world).snapshots] == ["v1"]
    world.add("v3")
    assert [x.ref.name for x in look(world).snapshots] == ["v1", "v3"]


def test_where_nothing_is_written_snapshots_are_not_read_again(world: World) -> None:
    statements: list[str] = []
    event.listen(world.catalog._db.reader, "before_cursor_execute", lambda *args: statements.append(args[2]))
    world.add()
    s = of(look(world), "v1").snapshot
    lease = world.catalog.grant_lease(snapshot_id=s.id, holder="me", ttl=HOUR, now=NOW)
    held = look(world)
    statements.clear()
    assert look(world) == held
    assert not [s for s in statements if "placement" in s]
    # Time goes on all the same.
    later = world.catalog.view(world.tiers, world.datasets, USAGE, now=NOW + HOUR)
    assert (of(held, "v1").holds, of(later, "v1").holds) == ((lease,), ())


def fill(world: World, count: int) -> None:
    s = world.add("v0", measure=measure())
    world.catalog.apply(s.id, [cold_copy()], now=NOW)
    columns = (
        "dataset, path, root_inode, size_bytes, disk_bytes, files, entries, first_seen_at, changed_at, accessed_at,"
        " access_source, read_at, written_at, episodes, weight, warmed_at, scanned_at, gone_at, problem"
    )
    series = f"WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
    placement = "tier, state, location, content_id, size_bytes, entries, verified_at"
    with world.catalog._writing() as conn:
        conn.execute(
            text(
                f"INSERT INTO snapshot (id, key, name, {columns}) {series}"
                f" SELECT i, printf('%016d', i), 'v' || i, {columns} FROM n, snapshot WHERE snapshot.id = 1"
            )
        )
        conn.execute(
            text(
                f"INSERT INTO placement (snapshot_id, {placement}) {series}"
                f" SELECT i, {placement} FROM n, placement WHERE snapshot_id = 1"
            )
        )


def test_ten_thousand_snapshots_take_as_many_queries_as_one_and_little_time(world: World) -> None:
    statements: list[str] = []
    event.listen(world.catalog._db.reader, "before_cursor_execute", lambda *args: statements.append(args[2]))
    world.add("x")
    look(world)
    few = len(statements)
    with world.catalog._writing() as conn:
        conn.execute(text("DELETE FROM event"))
        conn.execute(text("DELETE FROM placement"))
        conn.execute(text("DELETE FROM snapshot"))
        conn.execute(text("DELETE FROM sqlite_sequence"))
    fill(world, 10_000)
    statements.clear()
    look(world)
    assert len(statements) == few
    durations = []
    for _ in range(3):
        begun = time.perf_counter()
        view = look(world)
        durations.append(time.perf_counter() - begun)
    assert len(view.snapshots) == 10_000
    assert all(len(s.placements) == 2 for s in view.snapshots)
    assert min(durations) < 1.0, "about 0.2 s on a machine with nothing else to do"


def test_counts_cover_everything(world: World) -> None:
    v1, v2 = world.add("v1"), world.add("v2", measure=measure(problem="odd"))
    world.catalog.mark_gone(world.add("v3").id, NOW)
    world.catalog.pin(v1.id, "root", NOW)
    world.catalog.grant_lease(snapshot_id=v1.id, holder="a", ttl=HOUR, now=NOW)
    world.catalog.request_cancel(world.enqueue(v1.id).id, NOW)
    world.enqueue(v1.id)
    world.catalog.set_progress(world.enqueue(v2.id).id, 400, 1)
    counts = world.catalog.counts()
    assert (counts.snapshots, counts.snapshots_gone, counts.snapshots_with_problem) == (2, 1, 1)
    assert (counts.leases, counts.pins, counts.events) == (1, 1, world.catalog.last_event_id())
    queued = TransferCount(kind=TransferKind.MIGRATE, state=S.QUEUED, transfers=2, bytes_done=400, bytes_total=2000)
    assert queued in counts.transfers
    assert len(counts.transfers) == 2
