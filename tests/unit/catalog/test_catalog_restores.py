"""Restores: a recall that waits for an archive class, for hours and over restarts."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.unit.catalog.catalog_world import FLASH, HDD, NOW, S, World, cold_copy
from tierd.errors import IllegalTransition
from tierd.model.effect import DropPlacement
from tierd.model.transfer import Transfer, TransferKind

HOUR = timedelta(hours=1)


@pytest.fixture
def recall(world: World) -> Transfer:
    s = world.add()
    world.catalog.apply(s.id, [cold_copy(), DropPlacement(FLASH)], now=NOW)
    return world.enqueue(s.id, TransferKind.RECALL, restore_cost=12.5)


def wait(world: World, t: Transfer, *, minutes: int = 0, message: str = "12 packs of 12", hours: int = 5) -> Transfer:
    now = NOW + timedelta(minutes=minutes)
    return world.catalog.wait_for_restore(
        t.id, t.state, message=message, until=NOW + hours * HOUR, not_before=now + timedelta(minutes=5), now=now
    )


def test_it_waits_without_an_attempt_and_says_for_what(world: World, recall: Transfer) -> None:
    t = wait(world, recall)
    assert (t.state, t.waits_for, t.expected_at) == (S.RESTORING, "12 packs of 12", NOW + 5 * HOUR)
    assert (t.attempt, t.restore_cost, t.is_live) == (1, 12.5, True)
    event = world.catalog.events(newest_first=True)[0]
    assert (event.kind, event.message, event.detail["from"]) == ("transfer.restoring", "12 packs of 12", "queued")


def test_it_is_claimable_again_only_when_it_is_time_to_look(world: World, recall: Transfer) -> None:
    t = wait(world, recall)
    assert world.catalog.claimable(NOW + timedelta(minutes=4), 10) == []
    assert [c.id for c in world.catalog.claimable(NOW + timedelta(minutes=5), 10)] == [t.id]


def test_looking_again_is_news_only_when_something_changed(world: World, recall: Transfer) -> None:
    t = wait(world, recall)
    events = world.catalog.last_event_id()
    for minutes in (5, 10, 15):
        t = wait(world, t, minutes=minutes)
    assert world.catalog.last_event_id() == events
    assert t.not_before == NOW + timedelta(minutes=20)
    wait(world, t, minutes=20, message="3 packs of 12")
    assert world.catalog.last_event_id() == events + 1


def test_what_it_waited_for_is_forgotten_when_it_goes_on(world: World, recall: Transfer) -> None:
    t = world.run(wait(world, recall), S.COPYING)
    assert (t.waits_for, t.expected_at, t.restore_cost) == (None, None, 12.5)


def test_restored_objects_that_expired_are_asked_for_again(world: World, recall: Transfer) -> None:
    t = world.run(wait(world, recall), S.COPYING, S.QUEUED)
    assert wait(world, t, hours=10).state is S.RESTORING


def test_a_transfer_in_another_state_does_not_wait(world: World, recall: Transfer) -> None:
    world.run(recall, S.COPYING)
    with pytest.raises(IllegalTransition):
        wait(world, recall)


def test_it_is_cancelled_at_once_and_says_what_stays_to_be_paid(world: World, recall: Transfer) -> None:
    t = wait(world, recall)
    assert world.catalog.request_cancel(t.id, NOW).state is S.CANCELLED
    assert "is charged" in world.catalog.events(newest_first=True)[0].message


def test_it_owns_its_snapshot(world: World, recall: Transfer) -> None:
    t = wait(world, recall)
    joined, is_new = world.try_enqueue(t.snapshot_id, TransferKind.RECALL, priority=9)
    assert (joined.id, joined.state, is_new, joined.priority) == (t.id, S.RESTORING, False, 9)
    assert world.catalog.placements(t.snapshot_id)[0].tier == HDD
