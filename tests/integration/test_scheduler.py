"""What the daemon does about schedules, on a real catalog, with the admission that the API uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.api_world import FLASH, GB, START, ApiWorld, S, api_world
from tierd.daemon.scheduler import Scheduler
from tierd.model.announced import AnnouncedBy
from tierd.model.schedule import Schedule
from tierd.model.transfer import TransferKind
from tierd.serve import parts_of

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
USE = START + 2 * HOUR
"""When the schedule of these tests comes: at 14:00 each day, for an hour."""


@dataclass
class Scheduled:
    """A world with schedules; `tick` is a round of the control loop."""

    world: ApiWorld
    schedules: tuple[Schedule, ...] = ()
    scheduler: Scheduler = field(init=False)

    def __post_init__(self) -> None:
        self.schedules = self.schedules or (schedule(),)
        self.restart()

    def restart(self) -> None:
        self.world.config = replace(self.world.config, schedules=self.schedules)
        self.parts = parts_of(self.world.app())
        self.scheduler = Scheduler(self.schedules, self.world.catalog, self.parts.warming)

    def tick(self, at: datetime | None = None) -> bool:
        self.world.now = at or self.world.now
        return self.scheduler.tick(self.parts.views.current(), self.world.now)

    def announced(self) -> list[tuple[str, datetime]]:
        found = self.world.catalog.announcements(now=self.world.now)
        return [(str(self.world.catalog.snapshot_by_id(a.snapshot_id).ref), a.use_at) for a in found]

    def told(self) -> list[tuple[str, str | None]]:
        events = self.world.catalog.events(limit=1000)
        return [(e.kind, e.ref and str(e.ref)) for e in events if e.kind.startswith("schedule.")]


def schedule(**more: Any) -> Schedule:
    values: dict[str, Any] = {
        "name": "daily",
        "snapshots": "imagenet/latest",
        "cron": "0 14 * * *",
        "use_for": HOUR,
        "lead": 30 * MINUTE,
    }
    return Schedule(**values | more)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ApiWorld]:
    with api_world(tmp_path) as made:
        yield made


def test_the_next_use_is_announced_and_warmed_in_time_and_let_go(world: ApiWorld) -> None:
    s = world.add_migrated("v1")
    made = Scheduled(world)
    assert made.tick()
    assert made.announced() == [("imagenet/v1", USE)]
    assert world.live(s) == []
    assert not made.tick(USE - 31 * MINUTE)  # nothing new is said or done

    assert made.tick(USE - 30 * MINUTE)
    (recall,) = world.live(s)
    assert (recall.kind, recall.requested_by, recall.due_at) == (TransferKind.RECALL, "schedule:daily", USE)
    (lease,) = world.catalog.holds(s.id, now=world.now)
    assert (lease.holder, lease.expires_at) == ("schedule:daily", USE + HOUR)
    world.finish_recall(recall)
    made.tick(USE)
    assert world.live(s) == []
    assert world.catalog.holds(s.id, now=USE + HOUR) == []
    assert made.told() == [("schedule.warmed", "imagenet/v1")]

    made.tick(USE + HOUR + MINUTE)
    world.catalog.expire_announcements(world.now)
    assert made.announced() == [("imagenet/v1", USE + timedelta(days=1))]


def test_a_restart_announces_and_holds_nothing_twice(world: ApiWorld) -> None:
    s = world.add_migrated("v1")
    made = Scheduled(world)
    made.tick(USE - 10 * MINUTE)
    made.restart()
    made.tick(USE - 9 * MINUTE)
    assert made.announced() == [("imagenet/v1", USE)]
    assert len(world.catalog.holds(s.id, now=world.now)) == len(world.live(s)) == 1
    assert made.told() == [("schedule.warmed", "imagenet/v1")]


def test_a_use_that_was_missed_while_nobody_ran_is_warmed_at_once(world: ApiWorld) -> None:
    s = world.add_migrated("v1")
    made = Scheduled(world)
    made.tick(USE + 40 * MINUTE)
    (lease,) = world.catalog.holds(s.id, now=world.now)
    assert lease.expires_at == USE + HOUR
    assert len(world.live(s)) == 1

    over = world.add_migrated("v2", dataset="imagenet")
    made.tick(USE + HOUR + MINUTE)
    assert world.live(over) == []


def test_the_latest_is_what_is_newest_when_it_is_used(world: ApiWorld) -> None:
    old = world.add_migrated("v1")
    made = Scheduled(world)
    made.tick()
    world.now += MINUTE
    new = world.add_migrated("v2")
    made.tick()
    assert made.announced() == [("imagenet/v2", USE)]
    made.tick(USE - 10 * MINUTE)
    assert world.live(old) == []
    assert len(world.live(new)) == 1


def test_the_latest_may_be_deleted_and_come_again(world: ApiWorld) -> None:
    world.add_migrated("v1")
    made = Scheduled(world)
    made.tick()
    for _ in range(2):  # another tree under the same name is another snapshot
        world.later(minutes=1)
        new = world.add_migrated("v2")
        made.tick()
        assert made.announced()[-1] == ("imagenet/v2", USE)
        world.catalog.mark_gone(new.id, world.now)
        world.later(minutes=1)
        made.tick()
        assert ("imagenet/v1", USE) in made.announced()


def test_what_no_schedule_says_any_more_is_withdrawn_and_what_callers_said_stays(world: ApiWorld) -> None:
    s = world.add("v1")
    said = {"holder": "me", "use_at": USE, "until": USE + HOUR, "now": START}
    world.catalog.announce(snapshot_id=s.id, source=AnnouncedBy.CALLER, **said)  # type: ignore[arg-type]
    made = Scheduled(world)
    made.tick()
    assert len(made.announced()) == 2
    made.schedules = (schedule(cron="0 20 * * *"),)
    made.restart()
    made.tick()
    assert made.announced() == [("imagenet/v1", USE), ("imagenet/v1", USE + 6 * HOUR)]
    assert [a.holder for a in world.catalog.announcements(now=START)] == ["me", "schedule:daily"]


def test_a_refused_warm_is_told_once_and_tried_again_each_minute(world: ApiWorld) -> None:
    s = world.add_migrated("v1", size=80 * GB)
    pinned = world.add("big", size=40 * GB)
    world.catalog.pin(pinned.id, "me", world.now)
    made = Scheduled(world, (schedule(snapshots="imagenet/v1"),))
    at = USE - 10 * MINUTE
    for seconds in range(0, 180, 20):
        made.tick(at + timedelta(seconds=seconds))
    assert made.told() == [("schedule.refused", "imagenet/v1")]
    assert world.catalog.holds(s.id, now=world.now) == []
    granted = world.events_of(s.id).count("lease.granted")
    assert 3 <= granted <= 6  # with and without a promise, three times in three minutes

    usage = world.ports.usages[FLASH]
    world.ports.usages[FLASH] = replace(usage, capacity_bytes=1000 * GB, free_bytes=900 * GB)
    made.tick(world.now + MINUTE)
    assert len(world.live(s)) == 1
    assert made.told() == [("schedule.refused", "imagenet/v1"), ("schedule.warmed", "imagenet/v1")]


def test_a_recall_that_failed_for_good_is_asked_for_again(world: ApiWorld) -> None:
    s = world.add_migrated("v1")
    made = Scheduled(world)
    made.tick(USE - 20 * MINUTE)
    (recall,) = world.live(s)
    world.run(recall, S.COPYING, S.FAILED)
    made.tick(USE - 18 * MINUTE)
    assert [t.id != recall.id for t in world.live(s)] == [True]


def test_many_snapshots_are_announced_and_warmed_in_several_rounds(world: ApiWorld) -> None:
    for number in range(45):
        world.add_migrated(f"v{number}", size=GB // 100)
    made = Scheduled(world, (schedule(snapshots="imagenet/*"),))
    rounds = 0
    while rounds == 0 or made.scheduler.is_behind:
        made.tick(USE - 20 * MINUTE)
        rounds += 1
    assert rounds == 3
    assert len(made.announced()) == len(world.catalog.transfers(live_only=True, limit=100)) == 45
    assert not made.tick()


def test_a_schedule_that_matches_nothing_says_so_once_for_each_use(world: ApiWorld) -> None:
    made = Scheduled(world, (schedule(snapshots="imagenet/x*"),))
    for day in range(2):
        for minute in range(-31, 60, 7):
            made.tick(USE + timedelta(days=day) + minute * MINUTE)
        made.restart()
    assert made.told() == [("schedule.empty", None)] * 2
