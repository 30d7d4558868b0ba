"""The routes over the real socket: what they show, and how they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api_world import FLASH, GB, HDD, ApiWorld, S, api_world, client_of
from tierd.model.tier import TierUsage
from tierd.model.transfer import TransferKind
from tierd.serve import Progress

SNAPSHOT = "/v1/snapshots/imagenet/v1"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ApiWorld]:
    with api_world(tmp_path) as made:
        yield made


@pytest.fixture
def client(world: ApiWorld) -> Iterator[httpx.Client]:
    with client_of(world) as made:
        yield made


def refused(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["status"], body["code"]) == (status, status, code), body
    assert response.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "detail", "hint", "instance"} <= body.keys()
    return body


def test_status_sums_everything_up(world: ApiWorld, client: httpx.Client) -> None:
    world.add("v1")
    world.add_migrated("v2")
    world.add("odd", problem="a hard link leads outside")
    world.later(hours=1)
    found = client.get("/v1/status").json()
    assert found["counts"]["by_residency"] == {
        "resident": 2,
        "premigrated": 0,
        "migrated": 1,
        "partial": 0,
        "orphaned": 0,
        "gone": 0,
    }
    assert found["problems"] == [{"ref": "imagenet/odd", "problem": "a hard link leads outside"}]
    assert (found["uptime_s"], found["is_paused"], found["tracker"]["name"]) == (3600, False, "watchdog")
    assert found["started_at"] == found["last_scan_at"] == "2026-03-01T12:00:00Z"


def test_tiers_show_room_promised_and_an_offline_one_its_reason(world: ApiWorld, client: httpx.Client) -> None:
    world.enqueue(world.add_migrated("v1", size=3 * GB), TransferKind.RECALL)
    world.ports.usages[HDD] = TierUsage(tier=HDD, is_online=False, offline_reason="not mounted")
    flash, hdd = client.get("/v1/tiers").json()["items"]
    assert (flash["name"], flash["rank"], flash["used_ratio"], flash["reserved_bytes"]) == ("flash", 0, 0.4, 3 * GB)
    assert (hdd["is_online"], hdd["offline_reason"]) == (False, "not mounted")


def test_datasets_are_shown_with_their_policy(world: ApiWorld, client: httpx.Client) -> None:
    world.add("v1")
    world.add("v2")
    imagenet = client.get("/v1/datasets/imagenet").json()
    assert (imagenet["snapshots"], imagenet["size_bytes"]) == (2, 2 * GB)
    assert imagenet["policy"]["migrate_after_s"] == 14 * 86_400
    assert [d["name"] for d in client.get("/v1/datasets").json()["items"]] == ["imagenet", "laion"]
    refused(client.get("/v1/datasets/nope"), 404, "not_found")


def test_one_snapshot_is_shown_whole(world: ApiWorld, client: httpx.Client) -> None:
    v1 = world.add("v1")
    world.put_cold_copy(v1)
    transfer = world.run(world.enqueue(v1), S.COPYING)
    world.ports.in_progress[transfer.id] = Progress(
        bytes_done=GB // 4, files_done=9, rate_bytes_per_s=2.5e8, eta_s=3.0, step="copying"
    )
    client.post(f"{SNAPSHOT}/pin", json={"note": "for the paper"})
    found = client.get(SNAPSHOT).json()
    assert (found["ref"], found["residency"], found["is_settled"]) == ("imagenet/v1", "premigrated", True)
    assert {p["tier"]: p["location"] for p in found["placements"]} == {"flash": None, "hdd": "imagenet/v1"}
    assert [(h["kind"], h["note"]) for h in found["holds"]] == [("pin", "for the paper")]
    shown = found["transfer"]
    assert (shown["bytes_done"], shown["rate_bytes_per_s"], shown["eta_s"]) == (GB // 4, 2.5e8, 3.0)


def test_a_whole_dataset_is_named_self(world: ApiWorld, client: httpx.Client) -> None:
    world.add("self", dataset="laion")
    assert client.get("/v1/snapshots/laion/self").json()["ref"] == "laion"


@pytest.mark.parametrize("sort", ["name", "size", "accessed"])
def test_pages_together_are_the_whole_list_in_order(world: ApiWorld, client: httpx.Client, sort: str) -> None:
    for n in range(7):
        world.add(f"v{n}", size=GB * (n % 3))
    whole = client.get("/v1/snapshots", params={"sort": sort}).json()["items"]
    paged, cursor = [], None
    while True:
        params = {"sort": sort, "limit": "3"} | ({} if cursor is None else {"cursor": cursor})
        page = client.get("/v1/snapshots", params=params).json()
        paged += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert paged == whole
    assert len(whole) == 7
    if sort == "size":
        assert [s["size_bytes"] for s in whole] == sorted((s["size_bytes"] for s in whole), reverse=True)


def test_snapshots_are_filtered(world: ApiWorld, client: httpx.Client) -> None:
    world.add("v1")
    world.add_migrated("v2")
    found = client.get("/v1/snapshots", params={"residency": "migrated", "dataset": "imagenet"}).json()["items"]
    assert [s["ref"] for s in found] == ["imagenet/v2"]
    assert client.get("/v1/snapshots", params={"dataset": "laion"}).json()["items"] == []
    refused(client.get("/v1/snapshots", params={"dataset": "nope"}), 404, "not_found")
    refused(client.get("/v1/snapshots", params={"cursor": "nonsense"}), 404, "not_found")


def test_what_does_not_exist_is_told_with_near_names(world: ApiWorld, client: httpx.Client) -> None:
    world.add("v1")
    assert "imagenet/v1" in refused(client.get("/v1/snapshots/imagenet/v11"), 404, "not_found")["hint"]
    for path in ("/v1/snapshots/%2e%2e/x", "/v1/snapshots/imagenet/a%0Ab", "/v1/nope", "/v1/transfers/99"):
        refused(client.get(path), 404, "not_found")


def test_what_cannot_be_understood_is_refused_without_an_echo(client: httpx.Client) -> None:
    world_knows = refused(client.get("/v1/snapshots", params={"limit": "many"}), 422, "invalid_request")
    assert world_knows["faults"][0]["where"] == "query.limit"
    assert "many" not in str(world_knows)
    refused(client.get("/v1/tiers", params={"colour": "red"}), 422, "invalid_request")
    refused(
        client.post(f"{SNAPSHOT}/warm", content=b"{", headers={"content-type": "application/json"}),
        422,
        "invalid_request",
    )
    refused(client.post(f"{SNAPSHOT}/warm", content=b"x" * 100_000), 413, "invalid_request")
    wrong: tuple[Any, ...] = (
        {"lease_s": True},
        {"lease_s": "60"},
        {"lease_s": -1},
        {"unknown": 1},
        {"holder": "a\u001b[31m"},
        [],
    )
    for body in wrong:
        refused(client.post(f"{SNAPSHOT}/warm", json=body), 422, "invalid_request")
    allowed = client.delete("/v1/status")
    refused(allowed, 405, "invalid_request")
    assert allowed.headers["allow"] == "GET"


def test_migrate_is_queued_and_a_second_one_joins(world: ApiWorld, client: httpx.Client) -> None:
    world.add("v1")
    first = client.post(f"{SNAPSHOT}/migrate")
    assert first.status_code == 202
    assert (first.json()["source"], first.json()["destination"], first.json()["release"]) == (FLASH, HDD, False)
    second = client.post(f"{SNAPSHOT}/release").json()
    assert (second["id"], second["release"]) == (first.json()["id"], True)
    assert world.ports.wakes == 2


def test_migrate_is_refused_where_there_is_nothing_to_do_or_nowhere_to_go(
    world: ApiWorld, client: httpx.Client
) -> None:
    v1 = world.add("v1")
    world.ports.usages[HDD] = TierUsage(tier=HDD, is_online=False, offline_reason="not mounted")
    assert "not mounted" in refused(client.post(f"{SNAPSHOT}/migrate"), 503, "tier_offline")["detail"]
    world.put_cold_copy(v1)
    refused(client.post(f"{SNAPSHOT}/migrate"), 409, "conflict")
    world.add_migrated("v2")
    refused(client.post("/v1/snapshots/imagenet/v2/release"), 409, "conflict")


def test_release_is_refused_while_held_or_being_written(world: ApiWorld, client: httpx.Client) -> None:
    v1 = world.add("v1")
    client.post("/v1/leases", json={"ref": "imagenet/v1", "lease_s": 60, "holder": "job 7"})
    assert "job 7" in refused(client.post(f"{SNAPSHOT}/release"), 409, "held")["detail"]
    assert client.post(f"{SNAPSHOT}/migrate").status_code == 202
    world.catalog.request_cancel(world.live(v1)[0].id, world.now)
    world.later(seconds=61)
    assert client.post(f"{SNAPSHOT}/release").status_code == 202
    fresh = world.catalog.snapshot(v1.ref)
    world.now = fresh.changed_at + timedelta(minutes=1)
    world.add("v2")
    world.now -= timedelta(days=60)
    refused(client.post("/v1/snapshots/imagenet/v2/migrate"), 409, "not_settled")


def test_pins_come_and_go(world: ApiWorld, client: httpx.Client) -> None:
    world.add("v1")
    first = client.post(f"{SNAPSHOT}/pin").json()
    assert (first["kind"], first["expires_at"]) == ("pin", None)
    assert client.post(f"{SNAPSHOT}/pin").json()["id"] == first["id"]
    refused(client.delete(f"/v1/leases/{first['id']}"), 409, "conflict")
    refused(client.put(f"/v1/leases/{first['id']}", json={"lease_s": 5}), 409, "conflict")
    assert client.delete(f"{SNAPSHOT}/pin").status_code == client.delete(f"{SNAPSHOT}/pin").status_code == 204
    assert client.get("/v1/leases").json()["items"] == []


def test_a_lease_lives_is_renewed_and_ends(world: ApiWorld, client: httpx.Client) -> None:
    world.add("v1")
    body = {"ref": "imagenet/v1", "lease_s": 60, "holder": "job 7", "request_key": "k1"}
    granted = client.post("/v1/leases", json=body)
    lease = granted.json()
    assert (granted.status_code, lease["holder"], lease["generation"]) == (201, "job 7", 1)
    assert client.post("/v1/leases", json=body).json()["id"] == lease["id"]
    refused(client.put(f"/v1/leases/{lease['id']}", json={"lease_s": 90, "generation": 1}), 409, "conflict")
    renewed = client.put(f"/v1/leases/{lease['id']}", json={"lease_s": 90, "generation": 2}).json()
    assert (renewed["generation"], renewed["expires_at"]) == (3, "2026-03-01T12:01:30Z")
    assert client.delete(f"/v1/leases/{lease['id']}").status_code == 204
    refused(client.put(f"/v1/leases/{lease['id']}", json={"lease_s": 90}), 409, "conflict")
    refused(client.delete("/v1/leases/77"), 404, "not_found")


def test_transfers_are_paused_resumed_and_cancelled(world: ApiWorld, client: httpx.Client) -> None:
    transfer = world.enqueue(world.add("v1"))
    path = f"/v1/transfers/{transfer.id}"
    assert client.post(f"{path}/pause").json()["is_paused"] is True
    assert client.post(f"{path}/resume").json()["is_paused"] is False
    assert client.get("/v1/transfers", params={"live": True}).json()["items"][0]["id"] == transfer.id
    assert client.post(f"{path}/cancel").json()["state"] == "cancelled"
    refused(client.post(f"{path}/cancel"), 409, "conflict")
    assert client.get("/v1/transfers", params={"live": True}).json()["items"] == []
    assert client.get("/v1/transfers", params={"before": transfer.id}).json()["items"] == []


def test_everything_is_paused_and_resumed(world: ApiWorld, client: httpx.Client) -> None:
    assert client.post("/v1/pause").json() == {"is_paused": True}
    assert world.catalog.all_paused
    assert client.post("/v1/resume").json() == {"is_paused": False}
    assert not world.catalog.all_paused


def test_events_are_paged_by_id(world: ApiWorld, client: httpx.Client) -> None:
    for n in range(5):
        world.add(f"v{n}")
    newest = client.get("/v1/events", params={"limit": 2}).json()
    assert [e["ref"] for e in newest["items"]] == ["imagenet/v3", "imagenet/v4"]
    first = client.get("/v1/events", params={"after": 0, "limit": 2}).json()
    rest = client.get("/v1/events", params={"after": first["last_id"]}).json()
    assert [e["ref"] for e in first["items"] + rest["items"]] == [f"imagenet/v{n}" for n in range(5)]
    again = client.get("/v1/events", params={"after": rest["last_id"]}).json()
    assert again == {"items": [], "last_id": rest["last_id"]}
    assert len(client.get("/v1/events", params={"ref": "imagenet/v2"}).json()["items"]) == 1


def test_plan_and_explain_give_reasons(world: ApiWorld, client: httpx.Client) -> None:
    world.add("v1")
    plan = client.get("/v1/plan").json()
    assert [s["ref"] for s in plan["steps"]] + list(plan["kept"]) == ["imagenet/v1"]
    explained = client.get(f"{SNAPSHOT}/explain").json()
    assert (explained["ref"], explained["residency"]) == ("imagenet/v1", "resident")
    assert explained["findings"]
    assert explained["events"][0]["kind"] == "snapshot.found"


def test_probes_fail_with_what_is_wrong(world: ApiWorld, client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok", "checks": {"control_loop": "ok"}}
    assert client.get("/readyz").status_code == 200
    world.ports.is_fresh = world.ports.is_scanned = False
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 503
    assert client.get("/readyz").json()["checks"] == {"first_scan": "not done yet", "catalog": "ok"}


def test_a_bug_shows_no_traceback(world: ApiWorld, client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("secret inside")

    monkeypatch.setattr(world.ports, "tracker_status", broken)
    response = client.get("/v1/status")
    refused(response, 500, "internal")
    assert "secret" not in response.text
    assert "ZeroDivision" not in response.text
    assert response.headers["x-content-type-options"] == "nosniff"
