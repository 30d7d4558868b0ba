"""Clients that are many, slow or rude: others are served meanwhile, and nothing of them is left when they are gone."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.api_world import ApiWorld, api_world, connect, listening
from tierd.serve import ApiServer, protocol
from tierd.serve.events import LISTENERS

STREAM = b"GET /v1/events/stream HTTP/1.1\r\nhost: tierd\r\n\r\n"
STATUS = b"GET /v1/status HTTP/1.1\r\nhost: tierd\r\n\r\n"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ApiWorld]:
    with api_world(tmp_path) as made:
        yield made


def dial(server: ApiServer, sends: bytes = b"") -> socket.socket:
    """A connection of which the test sees every byte."""
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(60)
    made.connect(str(server.socket))
    made.sendall(sends)
    return made


def read_until(connection: socket.socket, wanted: bytes) -> bytes:
    """What comes until this has come; all there was if it never does."""
    found = b""
    while wanted not in found and (more := connection.recv(65536)):
        found += more
    return found


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.02)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def nothing_is_left(client: httpx.Client) -> Iterator[None]:
    """Descriptors and threads are as many afterwards as before, and the server still answers."""
    # The server's pool of threads is made by its first requests, and stays.
    pool = [threading.Thread(target=lambda: client.get("/v1/status")) for _ in range(8)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join()
    before = descriptors()
    yield
    until(lambda: descriptors() <= before, f"as few descriptors as before ({before})")
    until(lambda: not any(t.name == "tierd-watch" for t in threading.enumerate()), "nobody is waited for")
    assert client.get("/v1/status").status_code == 200


def test_a_thousand_listen_and_hear_everything_while_others_are_served(world: ApiWorld) -> None:
    with listening(world) as server, connect(server) as client:
        with nothing_is_left(client), ExitStack() as open_:
            streams = [open_.enter_context(closing(dial(server, STREAM))) for _ in range(LISTENERS)]
            for stream in streams:
                assert b"200 OK" in read_until(stream, b"retry:")
            refused = client.get("/v1/events/stream")
            assert (refused.status_code, refused.json()["code"]) == (503, "too_many_listeners")
            assert "retry-after" in refused.headers
            world.add("v1")
            world.add("v2")
            assert client.get("/v1/snapshots/imagenet/v1").status_code == 200
            for stream in streams:
                assert read_until(stream, b"imagenet/v2").count(b"imagenet/v1") == 1
            assert client.get("/v1/status").status_code == 200
        # Room for others again.
        with client.stream("GET", "/v1/events/stream") as again:
            assert again.status_code == 200


def test_a_listener_that_reads_nothing_keeps_nothing_from_others(world: ApiWorld) -> None:
    for n in range(300):
        world.catalog.add_event("tier.offline", now=world.now, message=f"{n} " + "x" * 2000)
    replay = STREAM.replace(b"stream", b"stream?after=0")
    with listening(world) as server, connect(server) as client, nothing_is_left(client), ExitStack() as open_:
        for _ in range(20):
            open_.enter_context(closing(dial(server, replay)))
        with closing(dial(server, replay)) as reader:
            assert b"299 xxx" in read_until(reader, b"299 xxx")
        assert client.get("/v1/status").status_code == 200


def test_the_server_stops_although_nobody_reads_what_it_sent(world: ApiWorld) -> None:
    for n in range(300):
        world.catalog.add_event("tier.offline", now=world.now, message=f"{n} " + "x" * 2000)
    before = descriptors()
    with listening(world) as server, ExitStack() as open_:
        deaf = [open_.enter_context(closing(dial(server, STREAM.replace(b"stream", b"stream?after=0")))) for _ in "123"]
        for connection in deaf:
            connection.recv(1)
        assert server.stop()
    until(lambda: descriptors() <= before, "as few descriptors as before the start")


def test_a_request_that_never_ends_is_given_up(world: ApiWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "REQUEST_S", 2.0)
    world.add_migrated("v1")
    warm = b"POST /v1/snapshots/imagenet/v1/warm HTTP/1.1\r\nhost: tierd\r\n"
    unfinished = warm + b"content-type: application/json\r\ncontent-length: 9\r\n\r\n{"
    with listening(world) as server, connect(server) as client:
        with nothing_is_left(client), ExitStack() as open_:
            silent, halting, posting, idle = (
                open_.enter_context(closing(dial(server, begins))) for begins in (b"", b"GET /v1", unfinished, STATUS)
            )
            assert b"200 OK" in read_until(idle, b"}")

            def drip() -> None:
                for byte in b" HTTP/1.1\r\nx-slow: " + b"z" * 10_000:
                    try:
                        halting.send(bytes([byte]))
                    except OSError:
                        return
                    time.sleep(0.05)

            dripping = threading.Thread(target=drip)
            dripping.start()
            assert b" 408 " in read_until(silent, b"\r\n\r\n")
            assert b" 408 " in read_until(halting, b"\r\n\r\n")
            read_until(posting, b"never")  # until the server closes
            dripping.join(60)
            assert not dripping.is_alive()
            # Between two requests a client may rest for longer.
            idle.sendall(STATUS)
            assert b"200 OK" in read_until(idle, b"200 OK")
        assert world.catalog.transfers() == []


def test_whoever_leaves_in_the_middle_of_a_request_fills_no_log(
    world: ApiWorld, caplog: pytest.LogCaptureFixture
) -> None:
    with listening(world) as server, connect(server) as client, nothing_is_left(client):
        for path in (b"/login", b"/v1/snapshots/imagenet/v1/warm", b"/snapshots/imagenet/v1/pin"):
            head = b"POST " + path + b" HTTP/1.1\r\nhost: tierd\r\ncontent-type: application/json\r\n"
            dial(server, head + b"content-length: 9\r\n\r\n{").close()
        until(lambda: 'route="/login"' in client.get("/metrics").text, "the server has noticed")
    assert [r for r in caplog.records if r.levelname == "ERROR"] == []


def test_a_stream_outlives_the_patience_with_requests(world: ApiWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "REQUEST_S", 0.2)
    with listening(world) as server, closing(dial(server, STREAM)) as stream:
        read_until(stream, b"retry:")
        with closing(dial(server)) as silent:
            read_until(silent, b"never")  # its time is up, and so would that of the stream be
        world.add("v1")
        assert b"imagenet/v1" in read_until(stream, b"imagenet/v1")


def test_headers_without_end_are_refused(world: ApiWorld) -> None:
    with listening(world) as server, connect(server) as client, nothing_is_left(client):
        for endless in (b"x" * 1000, b"x-more: y\r\n" * 90):
            with closing(dial(server, b"GET / HTTP/1.1\r\nx-first: ")) as connection:
                found = b""
                try:
                    for _ in range(1000):
                        connection.sendall(endless)
                    found = read_until(connection, b"\r\n\r\n")
                except OSError:
                    continue  # the server has closed before it was told everything
                assert b" 431 " in found


def test_ten_megabytes_are_not_taken_in(world: ApiWorld) -> None:
    world.add_migrated("v1")
    begins = b"POST /v1/snapshots/imagenet/v1/warm HTTP/1.1\r\nhost: tierd\r\n"
    with listening(world) as server, connect(server) as client:
        with nothing_is_left(client):
            for _ in range(20):
                answer = client.post("/v1/snapshots/imagenet/v1/warm", content=b"x" * 10_000_000)
                assert answer.status_code == 413
            # One that does not say how much is to come.
            chunks = b"10000\r\n" + b"x" * 65536 + b"\r\n"
            with closing(dial(server, begins + b"transfer-encoding: chunked\r\n\r\n" + chunks)) as connection:
                connection.sendall(chunks)
                assert b" 413 " in read_until(connection, b"\r\n\r\n")
        assert world.catalog.transfers() == []


def test_what_is_no_request_leaves_nothing(world: ApiWorld) -> None:
    rubbish = (b"\x16\x03\x01\x02\x00\x01", b"\r\n" * 1000, b"GET\r\n\r\n", b"HELO me\r\n\r\n", os.urandom(4096))
    upgrade = STATUS.replace(b"\r\n\r\n", b"\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    with listening(world) as server, connect(server) as client, nothing_is_left(client):
        for sends in (*rubbish, upgrade, STREAM[:-1], STREAM) * 10:
            dial(server, sends).close()
