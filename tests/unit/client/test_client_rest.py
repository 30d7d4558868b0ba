"""Every call against the real API: what is sent is understood, what is answered becomes a shape."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from tests.api_world import ApiWorld
from tierd.client import Tierd
from tierd.client.shapes import Event, encode
from tierd.errors import Conflict, Held, InvalidRequest, NotFound
from tierd.model.transfer import TransferKind
from tierd.serve import ApiServer


def test_the_status_shows_tiers_and_counts(world: ApiWorld, tierd: Tierd) -> None:
    world.add("v1")
    world.add_migrated("v2")
    found = tierd.status()
    assert [t.name for t in found.tiers] == ["flash", "hdd"]
    assert (found.counts.by_residency["resident"], found.counts.by_residency["migrated"]) == (1, 1)
    assert found.tracker.name == "watchdog"
    assert [t.name for t in tierd.tiers()] == ["flash", "hdd"]


def test_datasets_and_their_policies(tierd: Tierd) -> None:
    assert [d.name for d in tierd.datasets()] == ["imagenet", "laion"]
    policy = tierd.dataset("imagenet").policy
    assert policy.migrate_after_s == timedelta(days=14).total_seconds()
    with pytest.raises(NotFound):
        tierd.dataset("nothing")


def test_snapshots_come_page_by_page(world: ApiWorld, tierd: Tierd) -> None:
    for number in range(230):
        world.add(f"v{number:03}")
    refs = [s.ref for s in tierd.snapshots("imagenet")]
    assert refs == [f"imagenet/v{n:03}" for n in range(230)]


def test_a_dataset_that_is_the_snapshot(world: ApiWorld, tierd: Tierd) -> None:
    world.add("self", dataset="laion")
    assert tierd.snapshot("laion").ref == "laion"


def test_names_that_need_quoting(world: ApiWorld, tierd: Tierd) -> None:
    world.add("50% größe?#2")
    assert tierd.snapshot("imagenet/50% größe?#2").name == "50% größe?#2"


def test_an_unknown_snapshot_is_not_found_with_a_hint(world: ApiWorld, tierd: Tierd) -> None:
    world.add("v3")
    with pytest.raises(NotFound) as caught:
        tierd.snapshot("imagenet/v4")
    assert "imagenet/v4" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("ref", ["", "imagenet/", "/etc/passwd", "a/../b"])
def test_what_is_no_name_never_leaves_the_client(ref: str) -> None:
    with pytest.raises(InvalidRequest):
        Tierd("unix:///nowhere").snapshot(ref)


def test_plan_and_explain(world: ApiWorld, tierd: Tierd) -> None:
    world.add("v3")
    assert tierd.plan().made_at == world.now
    explained = tierd.explain("imagenet/v3")
    assert explained.residency == "resident"
    assert explained.findings


def test_leases_are_granted_renewed_and_ended(world: ApiWorld, tierd: Tierd) -> None:
    world.add("v3")
    lease = tierd.grant_lease("imagenet/v3", "8h", holder="alice", note="n", request_key="k")
    assert (lease.holder, lease.note, lease.expires_at) == ("alice", "n", world.now + timedelta(hours=8))
    assert tierd.grant_lease("imagenet/v3", "8h", request_key="k").id == lease.id
    assert tierd.renew(lease.id, "9h").expires_at == world.now + timedelta(hours=9)
    assert [h.id for h in tierd.leases()] == [lease.id]
    tierd.end_lease(lease.id)
    tierd.end_lease(lease.id)
    assert tierd.leases() == []
    with pytest.raises(Conflict, match="has ended"):
        tierd.renew(lease.id, "9h")


def test_a_lease_of_no_time_is_refused_here() -> None:
    with pytest.raises(InvalidRequest):
        Tierd("unix:///nowhere").grant_lease("imagenet/v3", 0)


def test_pins(world: ApiWorld, tierd: Tierd) -> None:
    world.add("v3")
    pin = tierd.pin("imagenet/v3", note="demo")
    assert (pin.kind, pin.expires_at) == ("pin", None)
    with pytest.raises(Held):
        tierd.release("imagenet/v3")
    tierd.unpin("imagenet/v3")
    tierd.unpin("imagenet/v3")
    assert tierd.leases() == []


def test_transfers_are_made_steered_and_listed(world: ApiWorld, tierd: Tierd) -> None:
    world.add("v1")
    world.add("v2")
    first, second = tierd.migrate("imagenet/v1"), tierd.release("imagenet/v2")
    assert (first.kind, first.release, second.release) == (TransferKind.MIGRATE, False, True)
    assert tierd.pause(first.id).is_paused
    assert not tierd.resume(first.id).is_paused
    assert tierd.cancel(first.id).state == "cancelled"
    assert [t.id for t in tierd.transfers()] == [second.id, first.id]
    assert [t.id for t in tierd.transfers(live=True)] == [second.id]
    assert [t.id for t in tierd.transfers(before=second.id)] == [first.id]
    assert tierd.pause_all() is True
    assert tierd.status().is_paused
    assert tierd.resume_all() is False


def test_a_receipt_only_of_what_is_on_flash(world: ApiWorld, tierd: Tierd) -> None:
    world.add("v1")
    world.add_migrated("v2")
    assert tierd.receipt("imagenet/v1").resident_ratio == 1.0
    with pytest.raises(Conflict):
        tierd.receipt("imagenet/v2")


def test_events_and_where_to_go_on(world: ApiWorld, tierd: Tierd) -> None:
    world.add("v1")
    world.add("v2")
    found = tierd.events(limit=1)
    assert [e.ref for e in found.items] == ["imagenet/v2"]
    assert [e.ref for e in tierd.events(ref="imagenet/v1").items] == ["imagenet/v1"]
    assert tierd.events(after=found.last_id).items == []


def test_events_are_followed_across_a_restart(world: ApiWorld, server: ApiServer, tierd: Tierd) -> None:
    world.add("v1")
    followed = tierd.follow(after=0)
    assert next(followed).ref == "imagenet/v1"
    successor = ApiServer(world.app(), server._config)
    restarted = threading.Thread(target=lambda: (server.stop(), world.add("v2"), successor.start()))
    restarted.start()
    try:
        assert next(followed).ref == "imagenet/v2"
    finally:
        followed.close()
        restarted.join()
        successor.stop()


def test_a_shape_becomes_the_json_it_came_from(world: ApiWorld, tierd: Tierd) -> None:
    world.add("v3")
    tierd.pin("imagenet/v3")
    world.enqueue(world.catalog.snapshots()[0])
    assert encode(tierd.snapshot("imagenet/v3")) == tierd.connection.ask("GET", "/v1/snapshots/imagenet/v3")
    assert encode(tierd.status()) == tierd.connection.ask("GET", "/v1/status") | {"uptime_s": 0.0}
    event: Event = tierd.events(limit=1).items[0]
    assert encode(event)["at"] == "2026-03-01T12:00:00Z"
