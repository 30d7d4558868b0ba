"""Archived copies, as a training script meets them."""

from __future__ import annotations

import pytest

from tests.api_world import ApiWorld
from tests.integration.test_api_s3 import archive, with_vault
from tierd.client import Tierd
from tierd.errors import RestoreNeeded
from tierd.serve import ApiServer


@pytest.fixture
def world(world: ApiWorld) -> ApiWorld:
    return with_vault(world)


def test_a_restore_has_to_be_asked_for(world: ApiWorld, tierd: Tierd) -> None:
    archive(world, world.add("v3"))
    with pytest.raises(RestoreNeeded, match="takes about 12h and costs about"):
        tierd.warm("imagenet/v3")
    assert world.catalog.holds(now=world.now) == []


def test_a_restore_that_is_asked_for_is_waited_for_to_the_receipt(world: ApiWorld, tierd: Tierd) -> None:
    snapshot = world.add("v3")
    archive(world, snapshot)
    handle = tierd.warm("imagenet/v3", restore=True, wait=False)
    assert handle.transfer is not None
    assert handle.transfer.restore_cost is not None
    (live,) = world.live(snapshot)
    world.finish_recall(live)
    receipt = handle.wait("20s")
    assert receipt is not None
    assert receipt.resident_ratio == 1.0
    handle.end()


def test_an_archived_copy_is_no_fallback(world: ApiWorld, tierd: Tierd) -> None:
    """Its path leads nowhere: a job that reads there would fail, or worse, find an empty directory."""
    archive(world, world.add("v3"))
    with pytest.raises(RestoreNeeded):
        tierd.warm("imagenet/v3", fallback=True)


def test_status_and_snapshots_keep_their_shapes(world: ApiWorld, server: ApiServer) -> None:
    gone = world.add("v1")
    world.put_cold_copy(gone)
    world.catalog.mark_gone(gone.id, world.now)
    tierd = Tierd(f"unix://{server.socket}")
    assert [t.root for t in tierd.status().tiers][-1] == "s3://cold/lab/7"
    (found,) = tierd.snapshots()
    assert (found.residency, found.gone_at, found.kept_until) == ("orphaned", world.now, None)
    assert tierd.dataset("imagenet").policy.migrate_after_to_s == {"vault": 90 * 86400.0}
