"""Announced use."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from tests.unit.catalog.catalog_world import NOW, World
from tierd.errors import Conflict, InvalidRequest, NotFound
from tierd.model.announced import AnnouncedBy, Announcement, AnnouncementId
from tierd.model.dataset import SnapshotId

HOUR = timedelta(hours=1)


def announce(world: World, snapshot_id: SnapshotId, **more: object) -> Announcement:
    values: dict[str, object] = {
        "source": AnnouncedBy.CALLER,
        "holder": "slurm:991",
        "use_at": NOW + HOUR,
        "until": NOW + 9 * HOUR,
        "now": NOW,
    }
    return world.catalog.announce(snapshot_id=snapshot_id, **values | more)  # type: ignore[arg-type]  # test values


def test_what_is_announced_is_in_the_view_the_next_use_first(world: World) -> None:
    s, other = world.add("v1"), world.add("v2")
    later = announce(world, s.id, use_at=NOW + 5 * HOUR)
    sooner = announce(world, s.id, confidence=0.5, note="maybe")
    seen = {v.ref.name: v.announcements for v in world.catalog.view(world.tiers, world.datasets, {}, now=NOW).snapshots}
    assert seen == {"v1": (sooner, later), "v2": ()}
    assert world.catalog.announcements(other.id, now=NOW) == []
    assert (sooner.confidence, sooner.note) == (0.5, "maybe")


def test_the_same_request_changes_what_was_announced(world: World) -> None:
    s, other = world.add("v1"), world.add("v2")
    first = announce(world, s.id, request_key="job-991")
    assert announce(world, s.id, request_key="job-991") == first
    moved = announce(world, s.id, request_key="job-991", use_at=NOW + 2 * HOUR, until=NOW + 12 * HOUR, confidence=0.8)
    assert (moved.id, moved.use_at, moved.until, moved.confidence) == (first.id, NOW + 2 * HOUR, NOW + 12 * HOUR, 0.8)
    assert world.catalog.announcements(now=NOW) == [moved]
    with pytest.raises(Conflict, match="in use for another"):
        announce(world, other.id, request_key="job-991")
    assert world.kinds()[2:] == ["announcement.made", "announcement.changed"]


def test_an_announcement_is_over_at_its_end_even_before_it_is_swept(world: World) -> None:
    s = world.add()
    first = announce(world, s.id, request_key="k")
    assert world.catalog.expire_announcements(first.until) == []
    late = first.until + timedelta(microseconds=1)
    assert world.catalog.announcements(now=late) == []
    again = announce(world, s.id, request_key="k", use_at=late, until=late + HOUR, now=late)
    assert again.id != first.id
    assert [a.id for a in world.catalog.expire_announcements(late + 2 * HOUR)] == [again.id]
    assert world.catalog.expire_announcements(late + 2 * HOUR) == []
    assert world.kinds()[1:] == ["announcement.made", "announcement.over", "announcement.made", "announcement.over"]


def test_a_withdrawn_announcement_is_gone_at_once(world: World) -> None:
    made = announce(world, world.add().id)
    world.catalog.end_announcement(made.id, NOW)
    world.catalog.end_announcement(made.id, NOW)
    assert world.catalog.announcements(now=NOW) == []
    assert world.kinds()[1:] == ["announcement.made", "announcement.withdrawn"]
    assert world.catalog.announcement(made.id) == made
    with pytest.raises(NotFound, match="no announcement 99"):
        world.catalog.end_announcement(AnnouncementId(99), NOW)


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"confidence": 0.0}, "no share"),
        ({"confidence": 1.01}, "no share"),
        ({"confidence": float("nan")}, "no share"),
        ({"until": NOW + HOUR / 2}, "before it begins"),
        ({"use_at": NOW - 2 * HOUR, "until": NOW - HOUR}, "over since"),
        ({"until": NOW + timedelta(days=4000)}, "ten years"),
        ({"until": datetime.min.replace(tzinfo=timezone(timedelta(hours=14)))}, "ten years"),
        ({"use_at": datetime.max.replace(tzinfo=timezone(-timedelta(hours=12)))}, "ten years"),
    ],
)
def test_what_makes_no_sense_is_refused(world: World, more: dict[str, object], what: str) -> None:
    s = world.add()
    with pytest.raises(InvalidRequest, match=what):
        announce(world, s.id, **more)
    assert world.kinds() == ["snapshot.found"]


def test_a_use_that_goes_on_can_be_announced_and_a_gone_snapshot_cannot(world: World) -> None:
    s = world.add()
    assert announce(world, s.id, use_at=NOW - HOUR).use_at == NOW - HOUR
    world.catalog.mark_gone(s.id, NOW)
    with pytest.raises(Conflict, match="gone"):
        announce(world, s.id)
    with pytest.raises(NotFound):
        announce(world, SnapshotId(99))
