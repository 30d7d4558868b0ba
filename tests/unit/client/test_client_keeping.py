"""The lease of a warm in the background: renewed, granted anew, given back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.api_world import ApiWorld
from tierd.client import Tierd
from tierd.serve import ApiServer

TTL_S = 3.0


def eventually(is_true: Callable[[], bool], *, within_s: float = 15.0) -> bool:
    deadline = time.monotonic() + within_s
    while not is_true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_lease_is_renewed_long_before_it_ends(world: ApiWorld, tierd: Tierd) -> None:
    world.add("v3")
    handle = tierd.warm("imagenet/v3", lease=TTL_S)
    began = time.monotonic()
    assert eventually(lambda: handle.lease is not None and handle.lease.generation >= 2)
    assert time.monotonic() - began < 0.9 * TTL_S
    handle.end()


def test_a_lease_is_renewed_across_a_restart(world: ApiWorld, server: ApiServer, tierd: Tierd) -> None:
    world.add("v3")
    handle = tierd.warm("imagenet/v3", lease=TTL_S)
    assert handle.lease is not None
    first = handle.lease
    server.stop()
    assert eventually(lambda: handle.trouble is not None)
    successor = ApiServer(world.app(), replace(world.config.api, socket=server.socket))
    successor.start()
    try:
        assert eventually(lambda: handle.trouble is None)
        assert handle.lease.id == first.id
        handle.end()
    finally:
        successor.stop()


def test_a_lease_that_ran_out_while_the_daemon_was_away_is_granted_anew(
    world: ApiWorld, server: ApiServer, tierd: Tierd
) -> None:
    world.add("v3")
    handle = tierd.warm("imagenet/v3", lease=TTL_S, request_key="rank-0")
    assert handle.lease is not None
    first = handle.lease
    server.stop()
    time.sleep(TTL_S)  # the client measures the lease by its own clock
    world.later(hours=1)
    world.catalog.expire_leases(world.now)
    successor = ApiServer(world.app(), replace(world.config.api, socket=server.socket))
    successor.start()
    try:
        assert eventually(lambda: handle.lease is not None and handle.lease.id != first.id)
        assert [h.id for h in world.catalog.holds(now=world.now)] == [handle.lease.id]
        handle.end()
        assert world.catalog.holds(now=world.now) == []
    finally:
        successor.stop()


def test_a_lease_that_somebody_ended_is_not_granted_anew(world: ApiWorld, tierd: Tierd) -> None:
    world.add("v3")
    handle = tierd.warm("imagenet/v3", lease=TTL_S)
    assert handle.lease is not None
    tierd.end_lease(handle.lease.id)
    assert eventually(lambda: handle.trouble is not None)
    assert "not renewed any longer" in str(handle.trouble)
    assert world.catalog.holds(now=world.now) == []
    handle.end()


def test_leaving_while_the_daemon_is_away_is_no_error(world: ApiWorld, server: ApiServer, tierd: Tierd) -> None:
    world.add("v3")
    with tierd.warm("imagenet/v3"):
        server.stop()
    (left,) = world.catalog.holds(now=world.now)
    assert left.expires_at == world.now + timedelta(hours=1)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_end_the_lease_of_its_parent(world: ApiWorld, tierd: Tierd) -> None:
    world.add("v3")
    handle = tierd.warm("imagenet/v3")
    child = os.fork()
    if child == 0:
        handle.end()
        os._exit(0)
    os.waitpid(child, 0)
    assert len(world.catalog.holds(now=world.now)) == 1
    handle.end()
