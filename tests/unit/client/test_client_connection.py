"""Addresses, and what is said when nobody or somebody else answers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from tests.api_world import TOKENS, ApiWorld, listening
from tierd.client import Tierd
from tierd.client.connection import Address, Connection
from tierd.client.shapes import Transfer, decode
from tierd.errors import DaemonUnreachable, Forbidden, InvalidRequest, TierdError, Unauthorized


@pytest.mark.parametrize("url", ["unix:///run/t.sock", "/run/t.sock"])
def test_a_socket_is_a_path(url: str) -> None:
    assert Address.parse(url) == Address("unix:///run/t.sock", Path("/run/t.sock"))


@pytest.mark.parametrize("url", ["unix://run/t.sock", "ftp://host", "host:80", "http://", "", "unix://" + "/x" * 80])
def test_what_is_no_address_is_told(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Address.parse(url)
    assert caught.value.hint


def test_the_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERD_URL", "http://node7:8080/")
    assert Tierd().connection.address.url == "http://node7:8080"


def test_no_socket_means_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable, match="there is no socket") as caught:
        Tierd(f"unix://{tmp_path}/t.sock").status()
    assert str(tmp_path) in caught.value.message
    assert "tierd run" in str(caught.value.hint)


def test_a_socket_left_behind_means_no_daemon(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "t.sock"))
    with pytest.raises(DaemonUnreachable, match="nobody listens"):
        Tierd(f"unix://{tmp_path}/t.sock").status()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to call as somebody else")
def test_a_socket_that_may_not_be_opened_is_told_apart() -> None:
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as private:
        private.bind(f"{directory}/t.sock")
        private.listen()
        os.chmod(directory, 0o755)
        os.chmod(f"{directory}/t.sock", 0o600)
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            try:
                Tierd(f"unix://{directory}/t.sock").status()
            except Forbidden as e:
                os._exit(0 if "permission denied" in e.message and "socket_mode" in str(e.hint) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class Stranger(BaseHTTPRequestHandler):
    """A web server that is no tierd."""

    def do_GET(self) -> None:
        status, kind, body = {
            "/v1/status": (404, "text/html", b"<h1>not here</h1>"),
            "/v1/plan": (502, "text/html", b"<h1>bad gateway</h1>"),
            "/v1/tiers": (200, "text/html", b"<h1>welcome</h1>"),
            "/v1/leases": (200, "application/json", b'{"items": [{"id": "one"}]}'),
        }[self.path]
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def stranger() -> Iterator[Tierd]:
    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Tierd(f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()


def test_a_stranger_is_told_from_a_daemon() -> None:
    with stranger() as tierd:
        with pytest.raises(TierdError, match="not as a tierd daemon does"):
            tierd.status()
        with pytest.raises(DaemonUnreachable, match="502"):
            tierd.plan()
        with pytest.raises(TierdError, match="not as a tierd daemon does"):
            tierd.tiers()
        with pytest.raises(TierdError, match="is no Lease"):
            tierd.leases()


def test_an_unknown_key_is_no_error() -> None:
    content = {"id": 1, "ref": "a/b", "kind": "recall", "state": "thinking", "source": "x", "destination": "y"}
    found = decode(Transfer, content | {"created_at": "2026-03-01T12:00:00Z", "mood": "good"})
    assert (found.state, found.attempt, found.is_finished) == ("thinking", 1, False)
    assert found.created_at.utcoffset() is not None


def test_a_problem_becomes_the_class_with_its_code() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        content = {"code": "from_the_future", "detail": "something new", "hint": "Do this."}
        return httpx.Response(418, json=content, headers={"content-type": "application/problem+json"})

    client = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://tierd")
    with pytest.raises(TierdError, match="something new") as caught:
        Tierd(connection=Connection("http://tierd", client=client)).status()
    assert (type(caught.value), caught.value.hint) == (TierdError, "Do this.")


def test_tokens_over_tcp(world: ApiWorld) -> None:
    world.add("v3")
    with listening(world, listen="127.0.0.1:0") as server:
        assert server.tcp_address is not None
        url = "http://{}:{}".format(*server.tcp_address)
        with pytest.raises(Unauthorized):
            Tierd(url).status()
        with pytest.raises(Forbidden):
            Tierd(url, TOKENS["read"]).pin("imagenet/v3")
        assert Tierd(url, TOKENS["admin"]).pin("imagenet/v3").kind == "pin"


def test_a_proxy_in_the_environment_does_not_come_between(world: ApiWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with listening(world) as server:
        assert Tierd(f"unix://{server.socket}").status().live_transfers == 0


def test_training_scripts_load_little() -> None:
    heavy = {"sqlalchemy", "fastapi", "pydantic", "uvicorn", "prometheus_client", "watchdog", "blake3"}
    code = "import sys, tierd.client; print(*{m.partition('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())
