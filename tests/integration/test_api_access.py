"""Over TCP and the socket: who gets in, what a browser may do, and what every response carries."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.api_world import TOKENS, ApiWorld, api_world, client_of, connect, listening
from tierd.config import ApiConfig
from tierd.errors import Conflict
from tierd.serve import ApiServer

PIN = "/v1/snapshots/imagenet/v1/pin"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ApiWorld]:
    with api_world(tmp_path) as made:
        made.add("v1")
        yield made


@pytest.fixture
def tcp(world: ApiWorld) -> Iterator[httpx.Client]:
    with listening(world, listen="127.0.0.1:0") as server:
        assert server.tcp_address is not None
        host, port = server.tcp_address
        with httpx.Client(base_url=f"http://{host}:{port}", timeout=10) as client:
            yield client


def bearer(role: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKENS[role]}"}


def test_tcp_needs_a_token_except_for_probes(tcp: httpx.Client) -> None:
    refused = tcp.get("/v1/status")
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
    assert "Bearer" in refused.headers["www-authenticate"]
    assert tcp.get("/", headers={"accept": "text/html"}).status_code == tcp.get("/metrics").status_code == 401
    assert tcp.get("/v1/status", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert tcp.get("/healthz").status_code == tcp.get("/openapi.json").status_code == 200
    assert tcp.get("/", auth=("me", TOKENS["read"])).status_code == 200


def test_each_role_includes_the_ones_before_it(tcp: httpx.Client) -> None:
    statuses = {
        role: (
            tcp.get("/v1/status", headers=bearer(role)).status_code,
            tcp.post("/v1/snapshots/imagenet/v1/warm", headers=bearer(role)).status_code,
            tcp.post("/v1/access", json={"accesses": [{"ref": "imagenet/v1"}]}, headers=bearer(role)).status_code,
            tcp.post(PIN, headers=bearer(role)).status_code,
        )
        for role in TOKENS
    }
    assert statuses == {"read": (200, 403, 403, 403), "warm": (200, 200, 202, 403), "admin": (200, 200, 202, 200)}


def test_a_page_of_another_origin_changes_nothing(world: ApiWorld, tcp: httpx.Client) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        response = tcp.post(PIN, headers=bearer("admin") | headers)
        assert (response.status_code, response.json()["code"]) == (403, "forbidden")
        assert response.headers["content-security-policy"]
    assert world.catalog.holds(now=world.now) == []
    own = {"Origin": str(tcp.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    assert tcp.post(PIN, headers=bearer("admin") | own).status_code == 200


def test_every_response_carries_the_security_headers(tcp: httpx.Client) -> None:
    for path in ("/v1/status", "/nope", "/healthz", "/openapi.json", "/static/tierd.css"):
        headers = tcp.get(path, headers=bearer("read")).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "server" not in tcp.get("/healthz").headers


def test_the_page_allows_no_script_but_its_own(tcp: httpx.Client) -> None:
    policy = tcp.get("/", headers=bearer("read")).headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "http:" not in policy


def test_the_socket_tells_who_calls(world: ApiWorld) -> None:
    with client_of(world) as client:
        lease = client.post("/v1/snapshots/imagenet/v1/warm").json()["lease"]
    assert lease["holder"].endswith(f"@{socket.gethostname()}:{os.getpid()}")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can call as somebody else")
def test_another_user_on_the_socket_may_warm_but_not_pin(world: ApiWorld) -> None:
    script = (
        "import http.client, os, socket, sys\n"
        "sock = socket.socket(socket.AF_UNIX); os.setgid(65534); os.setuid(65534); sock.connect(sys.argv[1])\n"
        "call = http.client.HTTPConnection('tierd'); call.sock = sock\n"
        "for verb in ('warm', 'pin'):\n"
        "    call.request('POST', '/v1/snapshots/imagenet/v1/' + verb); answer = call.getresponse()\n"
        "    answer.read(); print(answer.status)\n"
    )
    with listening(world) as server:
        assert server.socket is not None
        server.socket.parent.chmod(0o755)
        command = [sys.executable, "-c", script, str(server.socket)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == ["200", "403"]


def test_the_socket_has_its_mode_and_is_not_taken_from_a_living_daemon(world: ApiWorld) -> None:
    with listening(world, socket_mode=0o660) as server:
        assert server.socket is not None
        assert stat.S_IMODE(server.socket.stat().st_mode) == 0o660
        second = ApiServer(world.app(), ApiConfig(socket=server.socket))
        with pytest.raises(Conflict, match="another daemon answers"):
            second.start()
        second.stop()
        with connect(server) as client:
            assert client.get("/healthz").status_code == 200


def test_the_socket_of_a_killed_daemon_is_replaced(world: ApiWorld) -> None:
    with listening(world) as server:
        path = server.socket
        assert path is not None
    with socket.socket(socket.AF_UNIX) as dead:
        path.parent.mkdir(exist_ok=True)
        dead.bind(str(path))
    again = ApiServer(world.app(), ApiConfig(socket=path))
    again.start()
    assert again.stop()
    assert not path.exists()
    path.parent.rmdir()
