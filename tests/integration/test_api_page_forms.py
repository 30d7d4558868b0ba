"""What is done through the page: who may, what is shown first, and what a browser must prove."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.api_world import GB, TOKENS, ApiWorld, S, api_world, client_of, listening
from tierd.config import ApiConfig
from tierd.model.transfer import TransferKind
from tierd.serve.page import LISTENERS

HTML = {"accept": "text/html"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ApiWorld]:
    with api_world(tmp_path) as made:
        yield made


@pytest.fixture
def client(world: ApiWorld) -> Iterator[httpx.Client]:
    with client_of(world) as made:
        yield made


@pytest.fixture
def tcp(world: ApiWorld) -> Iterator[httpx.Client]:
    with listening(world, listen="127.0.0.1:0") as server:
        assert server.tcp_address is not None
        host, port = server.tcp_address
        with httpx.Client(base_url=f"http://{host}:{port}", timeout=10, headers=HTML) as client:
            yield client


def form_token(text: str) -> str:
    found = re.search(r'name="form_token" value="([0-9a-f]+)"', text)
    assert found is not None, text
    return found[1]


def do(client: httpx.Client, path: str, **fields: str) -> httpx.Response:
    """Look at the preview, and confirm it."""
    return client.post(path, data={"form_token": form_token(client.get(path).text), **fields}, headers=HTML)


def test_a_snapshot_has_a_page_with_its_story_and_its_reasons(world: ApiWorld, client: httpx.Client) -> None:
    v1 = world.add("v1")
    world.put_cold_copy(v1)
    world.catalog.pin(v1.id, "alice", world.now, note="for the paper")
    text = client.get("/snapshots/imagenet/v1").text
    for shown in ("premigrated", "alice", "for the paper", "pin.set", "snapshot.found", "hdd"):
        assert shown in text
    assert client.get("/snapshots/imagenet/none", headers=HTML).status_code == 404


def test_warm_pin_unpin_and_cancel(world: ApiWorld, client: httpx.Client) -> None:
    v1 = world.add_migrated("v1")
    assert "accepted" in client.get("/snapshots/imagenet/v1/warm").text
    assert do(client, "/snapshots/imagenet/v1/warm", hours="8").status_code == 303
    (live,) = world.live(v1)
    (lease,) = world.catalog.holds(v1.id, now=world.now)
    assert live.kind is TransferKind.RECALL
    assert lease.expires_at is not None
    assert (lease.expires_at - world.now).total_seconds() == 8 * 3600
    assert do(client, f"/transfers/{live.id}/cancel").status_code == 303
    assert world.live(v1) == []
    assert do(client, "/snapshots/imagenet/v1/pin", note="mine").status_code == 303
    assert len(world.catalog.holds(v1.id, now=world.now)) == 2
    assert do(client, "/snapshots/imagenet/v1/unpin").status_code == 303
    assert len(world.catalog.holds(v1.id, now=world.now)) == 1


def test_the_release_of_a_held_snapshot_is_refused_and_says_by_whom(world: ApiWorld, client: httpx.Client) -> None:
    v1 = world.add("v1")
    world.put_cold_copy(v1)
    world.catalog.pin(v1.id, "alice", world.now)
    assert "pin of alice" in client.get("/snapshots/imagenet/v1/release").text
    refused = do(client, "/snapshots/imagenet/v1/release")
    assert refused.status_code == 409
    assert "alice" in refused.text
    assert world.live(v1) == []


def test_a_form_that_is_not_from_this_page_changes_nothing(world: ApiWorld, client: httpx.Client) -> None:
    v1 = world.add("v1")
    path = "/snapshots/imagenet/v1/pin"
    token = form_token(client.get(path).text)
    for content in (b"", b"form_token=x", b"form_token=%ff", b"\x00\xff\xfe", b"&" * 1000, b"a=b&" * 100):
        assert client.post(path, content=content).status_code in (403, 422)
    assert client.post(path, data={"form_token": token}, headers={"origin": "http://evil.example"}).status_code == 403
    assert client.post(path, content=b"x" * 10_000_000).status_code == 413
    assert client.post("/snapshots/imagenet/v1/explode", data={"form_token": token}).status_code == 404
    assert world.catalog.holds(v1.id, now=world.now) == []


def test_a_browser_signs_in_and_may_do_what_its_token_may(world: ApiWorld, tcp: httpx.Client) -> None:
    world.add("v1")
    asked = tcp.get("/")
    assert asked.status_code == 401
    assert 'action="/login"' in asked.text
    assert "Basic" not in asked.headers["www-authenticate"]  # the browser would ask in a window of its own
    assert tcp.post("/login", data={"token": "wrong"}).status_code == 401
    signed = tcp.post("/login", data={"token": TOKENS["warm"]})
    cookie = signed.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert TOKENS["warm"] not in cookie
    assert "imagenet/v1" in tcp.get("/").text
    assert do(tcp, "/snapshots/imagenet/v1/warm").status_code == 303
    assert "needs the role admin" in tcp.get("/snapshots/imagenet/v1/pin").text
    token = form_token(tcp.get("/snapshots/imagenet/v1/warm").text)
    assert tcp.post("/snapshots/imagenet/v1/pin", data={"form_token": token}).status_code == 403
    # A cookie reads the API, and changes nothing there.
    assert tcp.get("/v1/status").status_code == 200
    assert tcp.post("/v1/snapshots/imagenet/v1/warm").status_code == 401
    tcp.post("/logout")
    assert tcp.get("/").status_code == 401


def test_a_cookie_outlives_a_restart_and_ends_by_itself(world: ApiWorld) -> None:
    cookies = httpx.Cookies()
    for _ in range(2):
        with listening(world, listen="127.0.0.1:0") as server:
            assert server.tcp_address is not None
            host, port = server.tcp_address
            with httpx.Client(base_url=f"http://{host}:{port}", cookies=cookies, headers=HTML) as client:
                if not cookies:
                    # The world's clock stands in the past; the cookie lasts from its time on.
                    assert client.post("/login", data={"token": TOKENS["read"]}).status_code == 303
                    cookies = client.cookies
                assert client.get("/").status_code == 200
                assert httpx.get(f"http://{host}:{port}/", cookies={"tierd_session": "x"}).status_code == 401
                forged = {"tierd_session": "0" * 64 + ".99999999999." + "0" * 64}
                assert httpx.get(f"http://{host}:{port}/", cookies=forged).status_code == 401
    world.later(hours=13)
    with listening(world, listen="127.0.0.1:0") as server:
        assert server.tcp_address is not None
        host, port = server.tcp_address
        assert httpx.get(f"http://{host}:{port}/", cookies=cookies).status_code == 401


def test_another_host_is_refused(world: ApiWorld, client: httpx.Client) -> None:
    world.add("v1")
    for host in ("evil.example", "evil.example:8920", "127.0.0.1.evil.example", "a b", "x@127.0.0.1"):
        response = client.get("/", headers={"host": host})
        assert response.status_code in (400, 403)
        assert "imagenet" not in response.text
    for host in ("localhost:8920", "127.0.0.1:8920", "[::1]:8920", "tierd"):
        assert client.get("/", headers={"host": host}).status_code == 200


def test_anybody_reads_where_that_is_configured(tmp_path: Path) -> None:
    with api_world(tmp_path, api=ApiConfig(read_without_token=True)) as world:
        world.add("v1")
        with listening(world, listen="127.0.0.1:0") as server:
            assert server.tcp_address is not None
            host, port = server.tcp_address
            with httpx.Client(base_url=f"http://{host}:{port}", headers=HTML) as client:
                assert "imagenet/v1" in client.get("/").text
                assert "needs the role warm" in client.get("/snapshots/imagenet/v1/warm").text
                assert client.post("/v1/snapshots/imagenet/v1/warm").status_code == 403


def test_the_table_is_filtered_sorted_and_cut_into_pages(world: ApiWorld, client: httpx.Client) -> None:
    for n in range(60):
        world.add(f"v{n:02}", size=(n + 1) * GB // 100)
    world.add_migrated("cold")
    names = re.compile(r'href="/snapshots/imagenet/([^"/]+)"')
    assert names.findall(client.get("/page/snapshots?q=V1").text) == [f"v1{n}" for n in range(10)]
    assert names.findall(client.get("/page/snapshots?residency=migrated").text) == ["cold"]
    largest = names.findall(client.get("/page/snapshots?sort=size").text)
    assert len(largest) == 50
    assert largest[:3] == ["cold", "v59", "v58"]
    assert names.findall(client.get("/page/snapshots?sort=size&page=2").text)[-1] == "v00"
    for rubbish in ("page=-1", "page=9999999", "page=x", "sort=evil", "residency=%00", "q=%ff%fe", "utm=1"):
        assert client.get(f"/page/snapshots?{rubbish}").status_code == 200


def test_so_many_may_listen_and_no_more_and_all_are_let_go_at_the_stop(world: ApiWorld) -> None:
    moving = world.run(world.enqueue(world.add("v1")), S.COPYING)
    assert moving.is_live
    with ExitStack() as streams, listening(world) as server:
        assert server.socket is not None
        transport = httpx.HTTPTransport(uds=str(server.socket), limits=httpx.Limits(max_connections=None))
        client = streams.enter_context(httpx.Client(transport=transport, base_url="http://tierd", timeout=30))
        for _ in range(LISTENERS):
            stream = streams.enter_context(client.stream("GET", "/page/changes"))
            assert stream.status_code == 200
        refused = client.get("/page/changes")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        began = time.monotonic()
        assert "imagenet/v1" in client.get("/").text
        assert time.monotonic() - began < 20
        assert server.stop()


def test_the_api_is_described_without_any_network(client: httpx.Client) -> None:
    described = client.get("/docs")
    assert described.status_code == 200
    assert "/v1/snapshots/{dataset}/{snapshot}/warm" in described.text
    assert "http://" not in described.text
    assert "https://" not in described.text
