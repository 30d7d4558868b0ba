"""Leases and pins."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.unit.catalog.catalog_world import NOW, World
from tierd.errors import Conflict, InvalidRequest, NotFound
from tierd.model.dataset import SnapshotId
from tierd.model.hold import Hold, HoldId, HoldKind

HOUR = timedelta(hours=1)


def grant(world: World, snapshot_id: SnapshotId, **more: object) -> Hold:
    values: dict[str, object] = {"holder": "alice", "ttl": HOUR, "now": NOW}
    return world.catalog.grant_lease(snapshot_id=snapshot_id, **values | more)  # type: ignore[arg-type]  # test values


def test_lease_is_granted_renewed_and_ended(world: World) -> None:
    s = world.add()
    lease = grant(world, s.id, note="training")
    assert (lease.kind, lease.expires_at, lease.generation) == (HoldKind.LEASE, NOW + HOUR, 1)
    renewed = world.catalog.renew_lease(lease.id, 2 * HOUR, NOW + HOUR / 2, generation=1)
    assert (renewed.expires_at, renewed.generation, renewed.since) == (NOW + 2.5 * HOUR, 2, NOW)
    with pytest.raises(Conflict, match="generation 2, not 1"):
        world.catalog.renew_lease(lease.id, HOUR, NOW, generation=1)
    assert world.catalog.holds(s.id, now=NOW) == [renewed]
    world.catalog.end_lease(lease.id, NOW + HOUR)
    world.catalog.end_lease(lease.id, NOW + HOUR)
    assert world.catalog.holds(now=NOW) == []
    assert world.catalog.hold(lease.id).expires_at == NOW + HOUR
    with pytest.raises(Conflict, match="has ended"):
        world.catalog.renew_lease(lease.id, HOUR, NOW)
    assert world.kinds()[1:] == ["lease.granted", "lease.renewed", "lease.ended"]


def test_lease_ends_at_its_time_even_before_it_is_swept(world: World) -> None:
    s = world.add()
    lease = grant(world, s.id)
    assert world.catalog.expire_leases(NOW + HOUR - timedelta(seconds=1)) == []
    later = NOW + HOUR
    assert world.catalog.holds(s.id, now=later) == []
    with pytest.raises(Conflict):
        world.catalog.renew_lease(lease.id, HOUR, later)
    assert [h.id for h in world.catalog.expire_leases(later)] == [lease.id]
    assert world.catalog.expire_leases(later) == []
    assert world.kinds()[-1] == "lease.expired"


def test_same_request_gets_the_same_lease(world: World) -> None:
    s, other = world.add("v1"), world.add("v2")
    first = grant(world, s.id, request_key="job-1")
    second = grant(world, s.id, request_key="job-1", ttl=HOUR / 2)
    assert (second.id, second.generation, second.expires_at) == (first.id, 2, first.expires_at)
    with pytest.raises(Conflict):
        grant(world, other.id, request_key="job-1")
    late = grant(world, s.id, request_key="job-1", now=NOW + 2 * HOUR)
    assert late.id != first.id
    assert world.kinds()[-2:] == ["lease.expired", "lease.granted"]
    world.catalog.end_lease(late.id, NOW + 2 * HOUR)
    assert grant(world, other.id, request_key="job-1").id > late.id


def test_pin_is_set_once_and_removed(world: World) -> None:
    s = world.add()
    pin = world.catalog.pin(s.id, "root", NOW, note="do not touch")
    assert world.catalog.pin(s.id, "bob", NOW + HOUR) == pin
    assert pin.expires_at is None
    assert world.catalog.holds(s.id, now=NOW + 9999 * HOUR) == [pin]
    with pytest.raises(Conflict):
        world.catalog.end_lease(pin.id, NOW)
    with pytest.raises(Conflict):
        world.catalog.renew_lease(pin.id, HOUR, NOW)
    assert world.catalog.unpin(s.id, NOW)
    assert not world.catalog.unpin(s.id, NOW)
    assert not world.catalog.hold(pin.id).is_active(NOW)
    assert world.catalog.pin(s.id, "bob", NOW).id != pin.id
    assert world.kinds()[1:] == ["pin.set", "pin.removed", "pin.set"]


def test_unknown_and_senseless_holds_are_refused(world: World) -> None:
    s = world.add()
    for ttl in (timedelta(0), -HOUR, timedelta.max):
        with pytest.raises(InvalidRequest):
            grant(world, s.id, ttl=ttl)
    with pytest.raises(NotFound):
        grant(world, SnapshotId(99))
    with pytest.raises(NotFound):
        world.catalog.pin(SnapshotId(99), "x", NOW)
    for call in (world.catalog.hold, lambda h: world.catalog.end_lease(h, NOW)):
        with pytest.raises(NotFound):
            call(HoldId(99))
    world.catalog.mark_gone(s.id, NOW)
    with pytest.raises(Conflict, match="gone"):
        grant(world, s.id)
