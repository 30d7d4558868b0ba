"""The operator's page: what it shows, and that a hostile name stays a name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.api_world import GB, ApiWorld, S, api_world, client_of
from tierd.model.transfer import TransferKind
from tierd.serve import Progress

HOSTILE = "<script>alert(1)<&\"'"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ApiWorld]:
    with api_world(tmp_path) as made:
        yield made


@pytest.fixture
def client(world: ApiWorld) -> Iterator[httpx.Client]:
    with client_of(world) as made:
        yield made


def test_the_page_shows_what_is_where_what_moves_and_what_is_held(world: ApiWorld, client: httpx.Client) -> None:
    v2 = world.add_migrated("v2", size=4 * GB)
    moving = world.run(world.enqueue(v2, TransferKind.RECALL), S.COPYING)
    world.ports.in_progress[moving.id] = Progress(
        bytes_done=GB, files_done=1, rate_bytes_per_s=2**20 * 100, eta_s=90, step="copying"
    )
    world.catalog.pin(world.add("v1").id, "alice", world.now, note="for the paper")
    text = client.get("/").text
    for shown in ("imagenet/v1", "imagenet/v2", "alice", "for the paper", "100 MiB/s", "1m 30s", "40.0", "pin.set"):
        assert shown in text
    assert client.get("/page").text in text


def test_an_empty_daemon_has_a_page_too(client: httpx.Client) -> None:
    text = client.get("/").text
    assert "Nothing moves." in text
    assert "No snapshot was found yet." in text


def test_hostile_names_stay_names(world: ApiWorld, client: httpx.Client) -> None:
    world.add(HOSTILE, problem=f"problem {HOSTILE}")
    v1 = world.add("v1")
    world.enqueue(v1)
    world.catalog.pin(v1.id, HOSTILE, world.now, note=HOSTILE)
    world.catalog.add_event("tier.offline", now=world.now, message=HOSTILE)
    text = client.get("/").text
    assert HOSTILE not in text
    assert "&lt;script&gt;alert(1)" in text
    assert text.count("<script") == 1  # the page's own file


def test_the_policy_of_the_page_is_kept_by_the_page(world: ApiWorld, client: httpx.Client) -> None:
    world.enqueue(world.add("v1"))
    text = client.get("/").text
    assert not re.search(r"\sstyle=|<style|\son[a-z]+=|<script(?! src=)", text)
    for address in re.findall(r'(?:src|href)="([^"]+)"', text):
        assert address.startswith("/")
        response = client.get(address)
        assert response.status_code == 200
        assert "http://" not in response.text.replace("http://www.w3.org/2000/svg", "")


def test_files_are_only_those_that_belong_to_the_page(client: httpx.Client) -> None:
    for name in ("app.py", "..%2fapp.py", "%2e%2e/app.py", "tierd.css%00"):
        assert client.get(f"/static/{name}").status_code == 404
    first = client.get("/static/tierd.js")
    again = client.get("/static/tierd.js", headers={"if-none-match": first.headers["etag"]})
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
