"""Waiting for transfers and events: nobody waits too long, and those who wait keep nobody else from being served."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api_world import ApiWorld, S, api_world, client_of, connect, listening

RANKS = 64


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ApiWorld]:
    with api_world(tmp_path) as made:
        yield made


def frames(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """The events of a stream as they come."""
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def test_a_wait_ends_with_the_transfer(world: ApiWorld) -> None:
    transfer = world.enqueue(world.add("v1"))
    with client_of(world) as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.get, f"/v1/transfers/{transfer.id}", params={"wait_s": 20})
        world.wait_for_waiters(1)
        transfer = world.run(transfer, S.COPYING, S.VERIFYING, S.COMMITTED)
        assert not waiting.done()
        world.run(transfer, S.DONE)
        assert waiting.result(timeout=5).json()["state"] == "done"


def test_a_wait_ends_when_its_time_is_up(world: ApiWorld) -> None:
    transfer = world.enqueue(world.add("v1"))
    with client_of(world) as client:
        began = time.monotonic()
        assert client.get(f"/v1/transfers/{transfer.id}", params={"wait_s": 0.3}).json()["state"] == "queued"
        assert 0.3 <= time.monotonic() - began < 3
        assert client.get(f"/v1/transfers/{transfer.id}", params={"wait_s": 61}).status_code == 422


def test_64_ranks_wait_while_others_are_served_at_once(world: ApiWorld) -> None:
    transfer = world.enqueue(world.add("v1"))
    path = f"/v1/transfers/{transfer.id}"
    with listening(world) as server, connect(server) as client, ThreadPoolExecutor(RANKS) as pool:
        waiting = [pool.submit(client.get, path, params={"wait_s": 60}) for _ in range(RANKS)]
        world.wait_for_waiters(RANKS)
        for _ in range(50):
            assert client.get("/v1/snapshots/imagenet/v1").status_code == 200
        # A pool that the ranks use up would serve the others only when a wait has ended.
        assert not any(rank.done() for rank in waiting)
        world.run(transfer, S.COPYING, S.CANCELLED)
        assert {w.result(timeout=10).json()["state"] for w in waiting} == {"cancelled"}


def test_a_stream_shows_every_event_once_also_after_a_reconnection(world: ApiWorld) -> None:
    world.add("before")
    with client_of(world) as client:
        with client.stream("GET", "/v1/events/stream") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            stream = frames(response)
            world.add("v1")
            first = next(stream)
            assert (first["kind"], first["ref"]) == ("snapshot.found", "imagenet/v1")
        world.add("v2")
        headers = {"Last-Event-ID": str(first["id"])}
        with client.stream("GET", "/v1/events/stream", headers=headers) as response:
            stream = frames(response)
            assert next(stream)["ref"] == "imagenet/v2"
            world.add("v3")
            assert next(stream)["ref"] == "imagenet/v3"
        with client.stream("GET", "/v1/events/stream", params={"after": 0}) as response:
            refs = [e["ref"] for _, e in zip(range(4), frames(response), strict=False)]
            assert refs == [f"imagenet/{n}" for n in ("before", "v1", "v2", "v3")]


def test_a_name_cannot_end_its_frame(world: ApiWorld) -> None:
    with client_of(world) as client, client.stream("GET", "/v1/events/stream") as response:
        world.catalog.add_event("tier.offline", now=world.now, message="a\n\nid: 9\ndata: forged\r\n")
        assert next(frames(response))["message"] == "a\n\nid: 9\ndata: forged\r\n"


def test_the_server_stops_within_seconds_with_streams_and_waits_open(world: ApiWorld) -> None:
    transfer = world.enqueue(world.add("v1"))
    with listening(world) as server, connect(server) as client, ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(client.get, f"/v1/transfers/{transfer.id}", params={"wait_s": 60})
        streaming = pool.submit(lambda: client.get("/v1/events/stream").text)
        world.wait_for_waiters(2)
        began = time.monotonic()
        assert server.stop()
        assert time.monotonic() - began < 30  # half of the wait that is open
        assert waiting.result(timeout=5).json()["state"] == "queued"
        assert streaming.result(timeout=5).startswith("retry:")
        assert server.socket is not None
        assert not server.socket.exists()


def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(world: ApiWorld) -> None:
    with listening(world) as server, connect(server) as client:
        for _ in range(5):
            with client.stream("GET", "/v1/events/stream") as response:
                next(response.iter_lines())
        assert client.get("/healthz").status_code == 200
        world.wait_for_waiters(0)
