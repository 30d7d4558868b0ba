"""Events: pages, waiting, pruning."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from tests.unit.catalog.catalog_world import NOW, World
from tierd.catalog import Catalog
from tierd.model.dataset import SnapshotRef


def test_events_are_read_in_pages_and_by_snapshot(world: World) -> None:
    for n in range(5):
        world.add(f"v{n}")
    world.catalog.add_event("tier.offline", now=NOW, message="disk missing", detail={"tier": "hdd", "errno": 5})
    assert [e.id for e in world.catalog.events(after=2, limit=2)] == [3, 4]
    assert [e.id for e in world.catalog.events(newest_first=True, limit=2)] == [6, 5]
    last = world.catalog.events(after=5)[0]
    assert (last.kind, last.ref, last.at, last.message) == ("tier.offline", None, NOW, "disk missing")
    assert last.detail == {"tier": "hdd", "errno": 5}
    assert [e.id for e in world.catalog.events(ref=SnapshotRef("imagenet", "v3"))] == [4]
    assert world.catalog.last_event_id() == 6


def test_waiting_ends_with_the_commit_of_an_event(world: World) -> None:
    assert not world.catalog.wait_for_event(0, 0.01)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(world.catalog.wait_for_event, 0, 30) for _ in range(4)]
        world.add()
        assert all(w.result(30) for w in waiting)
    assert world.catalog.wait_for_event(0, 0)
    assert not world.catalog.wait_for_event(1, 0)


def test_event_is_readable_when_the_wait_ends(world: World) -> None:
    seen: list[int] = []

    def follow() -> None:
        while len(seen) < 50 and world.catalog.wait_for_event(len(seen), 30):
            seen.extend(e.id for e in world.catalog.events(after=len(seen)))

    follower = threading.Thread(target=follow)
    follower.start()
    for n in range(50):
        world.catalog.add_event("x.y", now=NOW, message=str(n))
    follower.join(30)
    assert seen == list(range(1, 51))


def test_closing_ends_the_waiting(tmp_path: Path) -> None:
    catalog = Catalog.open(tmp_path / "tierd.db", wait_s=0)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(catalog.wait_for_event, 0, 60)
        catalog.close()
        assert waiting.result(30) is False


def test_pruned_history_does_not_reuse_ids(world: World) -> None:
    world.add("v1")
    world.add("v2", now=NOW + timedelta(days=1))
    assert world.catalog.prune_events(before=NOW + timedelta(hours=1)) == 1
    assert world.catalog.prune_events(before=NOW + timedelta(days=2)) == 1
    assert world.catalog.last_event_id() == 2
    world.catalog.add_event("x.y", now=NOW)
    assert world.catalog.events()[0].id == 3
