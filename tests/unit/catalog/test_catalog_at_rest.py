"""While nothing is written, the control loop's questions are answered without asking the database again."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event

from tests.unit.catalog.catalog_world import FLASH, HDD, NOW, World, cold_copy
from tierd.model.announced import AnnouncedBy
from tierd.model.hold import Tie
from tierd.model.plan import View
from tierd.model.transfer import TransferId

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
TIE = Tie(pid=77, pid_started=1, boot_id="boot")


@pytest.fixture
def statements(world: World) -> Iterator[list[str]]:
    """What the database is asked."""
    asked: list[str] = []

    def note(*arguments: object) -> None:
        asked.append(str(arguments[2]))

    event.listen(world.catalog._db.reader, "before_cursor_execute", note)
    yield asked
    event.remove(world.catalog._db.reader, "before_cursor_execute", note)


def look(world: World, later: timedelta = timedelta()) -> View:
    return world.catalog.view(world.tiers, world.datasets, {}, now=NOW + later)


def one_round(world: World, later: timedelta = timedelta()) -> tuple[list[TransferId], int, str | None]:
    """What each round of the control loop asks, whatever happened."""
    now = NOW + later
    world.catalog.tied_leases()
    world.catalog.expire_leases(now)
    world.catalog.expire_announcements(now)
    world.catalog.drop_parts(now)
    claimable = [t.id for t in world.catalog.claimable(now, 10)]
    return claimable, world.catalog.bytes_on(HDD), world.catalog.tier_identity(FLASH)


def test_a_round_in_which_nothing_was_written_asks_nothing(world: World, statements: list[str]) -> None:
    s = world.add()
    world.catalog.grant_lease(snapshot_id=s.id, holder="me", ttl=2 * HOUR, now=NOW, tie=TIE)
    first = one_round(world)
    assert statements
    statements.clear()
    assert one_round(world, HOUR) == first
    assert statements == []


def test_what_is_written_is_known_in_the_next_round(world: World) -> None:
    assert one_round(world) == ([], 0, None)
    s = world.add()
    world.catalog.apply(s.id, [cold_copy()], now=NOW)
    assert one_round(world) == ([], 1000, None)
    t = world.enqueue(s.id)
    world.catalog.set_tier_identity(FLASH, "id-of-flash")
    assert one_round(world) == ([t.id], 1000, "id-of-flash")
    world.catalog.set_all_paused(True, NOW)
    assert one_round(world)[0] == []
    lease = world.catalog.grant_lease(snapshot_id=s.id, holder="me", ttl=HOUR, now=NOW, tie=TIE)
    assert [h.id for h in world.catalog.tied_leases()] == [lease.id]
    assert [h.id for h in world.catalog.expire_leases(NOW + HOUR)] == [lease.id]
    assert (world.catalog.tied_leases(), world.catalog.expire_leases(NOW + HOUR)) == ((), [])


def test_the_note_that_somebody_watches_outdates_no_view(world: World, statements: list[str]) -> None:
    s = world.add()
    seen = look(world)
    world.catalog.note_observed(until=NOW + HOUR, since=NOW)
    statements.clear()
    assert look(world, HOUR).snapshots is seen.snapshots
    assert not [sql for sql in statements if "snapshot" in sql and "sum(" not in sql]
    # Nobody knows whether this one was used meanwhile: it is as if it had been.
    world.catalog.note_observed(until=NOW + 3 * HOUR, since=NOW + HOUR, unobserved=[s.id])
    assert look(world, 3 * HOUR).snapshots[0].snapshot.accessed_at > seen.snapshots[0].snapshot.accessed_at


def test_a_kept_view_ends_with_a_hold_or_an_announcement(world: World) -> None:
    s = world.add()
    world.catalog.grant_lease(snapshot_id=s.id, holder="me", ttl=HOUR, now=NOW)
    use: dict[str, Any] = {"source": AnnouncedBy.CALLER, "holder": "me", "use_at": NOW, "until": NOW + HOUR + MINUTE}
    world.catalog.announce(snapshot_id=s.id, now=NOW, **use)

    def shown(later: timedelta) -> tuple[int, int]:
        (one,) = look(world, later).snapshots
        return len(one.holds), len(one.announcements)

    moments = [timedelta(), HOUR - SECOND, HOUR, HOUR + MINUTE, HOUR + MINUTE + SECOND]
    assert [shown(later) for later in moments] == [(1, 1), (1, 1), (0, 1), (0, 1), (0, 0)]
    assert shown(timedelta()) == (1, 1), "the clock was put back"
