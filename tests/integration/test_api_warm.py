"""Warm: what is promised is held first, shared by all who ask, and never said too early."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api_world import FLASH, GB, HDD, ApiWorld, S, api_world, client_of, connect, listening
from tierd.model.effect import DropPlacement, PutPart
from tierd.model.observation import AccessBatch
from tierd.model.part import PartSize, location_of
from tierd.model.transfer import TransferId, TransferKind
from tierd.serve import Progress

RANKS = 64
WARM = "/v1/snapshots/imagenet/v1/warm"
RECEIPT = "/v1/snapshots/imagenet/v1/receipt"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ApiWorld]:
    with api_world(tmp_path) as made:
        yield made


@pytest.fixture
def client(world: ApiWorld) -> Iterator[httpx.Client]:
    with client_of(world) as made:
        yield made


def ok(response: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = response.json()
    assert response.status_code == 200, body
    return body


def test_what_is_on_flash_is_ready_with_lease_and_receipt(world: ApiWorld, client: httpx.Client) -> None:
    v1 = world.add("v1")
    answer = ok(client.post(WARM, json={"lease_s": 8 * 3600, "holder": "alice", "note": "run 7"}))
    assert (answer["answer"], answer["eta_s"], answer["transfer"]) == ("ready", 0, None)
    assert (answer["path"], answer["receipt"]) == (str(v1.path), ok(client.get(RECEIPT)))
    assert (answer["receipt"]["resident_ratio"], answer["receipt"]["tier"]) == (1.0, FLASH)
    lease = answer["lease"]
    assert (lease["holder"], lease["note"], lease["expires_at"]) == ("alice", "run 7", "2026-03-01T20:00:00Z")
    assert client.post("/v1/snapshots/imagenet/v1/release").json()["code"] == "held"


def test_a_call_without_a_body_holds_for_an_hour_in_the_callers_name(world: ApiWorld, client: httpx.Client) -> None:
    world.add("v1")
    lease = ok(client.post(WARM))["lease"]
    assert lease["expires_at"] == "2026-03-01T13:00:00Z"
    assert lease["holder"].startswith("root@") or "@" in lease["holder"]


def test_what_is_migrated_is_recalled_and_ready_only_at_the_end(world: ApiWorld, client: httpx.Client) -> None:
    v1 = world.add_migrated("v1", size=5 * GB)
    answer = ok(client.post(WARM))
    assert (answer["answer"], answer["eta_s"], answer["receipt"]) == ("accepted", 5.0, None)
    transfer = answer["transfer"]
    assert (transfer["kind"], transfer["source"], transfer["destination"]) == ("recall", HDD, FLASH)
    assert client.get(RECEIPT).status_code == 409
    assert world.events_of(v1.id)[-2:] == ["lease.granted", "transfer.queued"]  # in this order
    world.ports.in_progress[transfer["id"]] = Progress(bytes_done=GB, files_done=1, eta_s=42.0)
    again = ok(client.post(WARM))
    assert (again["transfer"]["id"], again["eta_s"], again["answer"]) == (transfer["id"], 42.0, "accepted")
    world.finish_recall(world.live(v1)[0])
    assert ok(client.post(WARM))["answer"] == "ready"
    assert ok(client.get(RECEIPT))["content_id"] == "c0ffee"


def test_a_copy_on_flash_whose_path_is_not_switched_yet_is_not_ready(world: ApiWorld, client: httpx.Client) -> None:
    v1 = world.add("v1")
    world.put_cold_copy(v1)
    world.run(world.enqueue(v1, TransferKind.RECALL), S.COPYING, S.VERIFYING, S.COMMITTED)
    assert ok(client.post(WARM))["answer"] == "accepted"
    assert client.get(RECEIPT).status_code == 409


def test_a_refusal_says_why_and_leaves_no_lease(world: ApiWorld, client: httpx.Client) -> None:
    world.add_migrated("v1", size=500 * GB)
    response = client.post(WARM)
    body = response.json()
    assert (response.status_code, body["code"]) == (507, "refused")
    assert body["detail"]
    assert body["hint"]
    assert client.get("/v1/leases").json()["items"] == []
    assert world.catalog.transfers() == []


def test_the_same_request_key_holds_once(world: ApiWorld, client: httpx.Client) -> None:
    world.add("v1")
    first = ok(client.post(WARM, json={"request_key": "job-7"}))["lease"]
    second = ok(client.post(WARM, json={"request_key": "job-7"}))["lease"]
    assert (second["id"], second["generation"]) == (first["id"], 2)


def test_two_warms_are_not_promised_the_same_room(world: ApiWorld, client: httpx.Client) -> None:
    world.add_migrated("v1", size=30 * GB)
    world.add_migrated("v2", size=30 * GB)
    flash = world.ports.usages[FLASH]
    assert flash.free_bytes == 60 * GB  # of 100, and the high watermark is at 90 %: room for one of them
    codes = sorted(client.post(f"/v1/snapshots/imagenet/{v}/warm").status_code for v in ("v1", "v2"))
    assert codes == [200, 507]


def test_a_warm_stops_a_release_that_can_still_be_stopped(world: ApiWorld, client: httpx.Client) -> None:
    v1 = world.add("v1")
    world.put_cold_copy(v1)
    releasing = world.run(world.enqueue(v1, release=True), S.RELEASING)

    def roll_back_when_asked() -> None:
        while not world.catalog.transfer(releasing.id).cancel_requested:
            world.catalog.wait_for_event(world.catalog.last_event_id(), 0.05)
        world.catalog.cancelled(releasing.id, S.RELEASING, message="the path leads to flash", now=world.now)

    mover = threading.Thread(target=roll_back_when_asked)
    mover.start()
    answer = ok(client.post(WARM))
    mover.join()
    assert (answer["answer"], len(client.get("/v1/leases").json()["items"])) == ("ready", 1)


def test_a_warm_recalls_what_could_not_be_kept_any_more(world: ApiWorld, client: httpx.Client) -> None:
    v1 = world.add("v1")
    world.put_cold_copy(v1)
    releasing = world.run(world.enqueue(v1, release=True), S.RELEASING)

    def finish_anyway() -> None:
        while not world.catalog.transfer(releasing.id).cancel_requested:
            world.catalog.wait_for_event(world.catalog.last_event_id(), 0.05)
        gone = [DropPlacement(tier=FLASH)]
        world.catalog.advance(releasing.id, S.RELEASING, S.DONE, now=world.now, effects=gone)

    mover = threading.Thread(target=finish_anyway)
    mover.start()
    answer = ok(client.post(WARM))
    mover.join()
    assert (answer["answer"], answer["transfer"]["kind"]) == ("accepted", "recall")


def test_a_snapshot_that_is_only_being_copied_down_is_ready(world: ApiWorld, client: httpx.Client) -> None:
    world.run(world.enqueue(world.add("v1"), release=True), S.COPYING)
    assert ok(client.post(WARM))["answer"] == "ready"


def test_64_ranks_join_one_transfer_and_each_holds_a_lease(world: ApiWorld) -> None:
    v1 = world.add_migrated("v1")
    with listening(world) as server, connect(server) as client, ThreadPoolExecutor(RANKS) as pool:
        start = threading.Barrier(RANKS)

        def rank(n: int) -> dict[str, Any]:
            start.wait()
            return ok(client.post(WARM, json={"holder": f"rank {n}", "request_key": f"job-7/{n}"}))

        answers = list(pool.map(rank, range(RANKS)))
        assert {a["answer"] for a in answers} == {"accepted"}
        assert len({a["transfer"]["id"] for a in answers}) == 1
        assert {a["lease"]["holder"] for a in answers} == {f"rank {n}" for n in range(RANKS)}
        assert len(world.catalog.holds(v1.id, now=world.now)) == RANKS
        assert len(world.catalog.transfers()) == 1


# -- deadlines: the world's tiers give 1 GB/s ----------------------------------------------------------------------


def test_a_deadline_is_promised_and_shown(world: ApiWorld, client: httpx.Client) -> None:
    v1 = world.add_migrated("v1", size=30 * GB)
    answer = ok(client.post(WARM, json={"by": "2026-03-01T12:01:00Z"}))
    assert (answer["answer"], answer["ready_at"]) == ("accepted", "2026-03-01T12:00:30Z")
    assert (answer["transfer"]["due_at"], answer["transfer"]["is_late"]) == ("2026-03-01T12:01:00Z", False)
    assert "promised by 2026-03-01 12:01:00 UTC" in answer["reason"]
    world.later(seconds=40)
    assert client.get(f"/v1/transfers/{answer['transfer']['id']}").json()["is_late"]  # nothing has begun yet
    world.finish_recall(world.live(v1)[0])
    assert 'tierd_deadlines_total{outcome="met"} 1.0' in client.get("/metrics").text


def test_what_cannot_be_there_in_time_is_refused_with_the_earliest_time(world: ApiWorld, client: httpx.Client) -> None:
    world.add_migrated("v1", size=30 * GB)
    response = client.post(WARM, json={"by": "2026-03-01T12:00:10Z"})
    body = response.json()
    assert (response.status_code, body["code"]) == (409, "too_late")
    assert "12:00:30" in body["hint"]
    assert world.catalog.transfers() == []
    assert client.get("/v1/leases").json()["items"] == []
    assert 'tierd_deadlines_total{outcome="refused"} 1.0' in client.get("/metrics").text
    granted = client.post(WARM, json={"by": "2026-03-01T12:00:30Z"})
    assert granted.status_code == 200


def test_a_promise_is_not_broken_by_a_later_wish(world: ApiWorld, client: httpx.Client) -> None:
    world.add_migrated("v1", size=20 * GB)
    world.add_migrated("v2", size=20 * GB)
    ok(client.post(WARM, json={"by": "2026-03-01T12:00:25Z"}))
    later = client.post("/v1/snapshots/imagenet/v2/warm", json={"by": "2026-03-01T12:00:22Z"})
    assert later.status_code == 409
    assert "imagenet/v1 by" in later.json()["detail"] or "behind 1 recall" in later.json()["detail"]
    assert ok(client.post("/v1/snapshots/imagenet/v2/warm", json={"by": "2026-03-01T12:00:40Z"}))["transfer"]


def test_who_joins_with_an_earlier_time_moves_the_deadline(world: ApiWorld, client: httpx.Client) -> None:
    world.add_migrated("v1", size=30 * GB)
    asked = ok(client.post(WARM))["transfer"]
    for by, due in (("12:10", "12:10"), ("12:05", "12:05"), ("12:10", "12:05")):
        found = ok(client.post(WARM, json={"by": f"2026-03-01T{by}:00Z"}))["transfer"]
        assert (found["id"], found["due_at"]) == (asked["id"], f"2026-03-01T{due}:00Z")
    (live,) = world.catalog.transfers()
    assert not live.cancel_requested
    too_soon = client.post(WARM, json={"by": "2026-03-01T12:00:10Z"})
    assert too_soon.status_code == 409
    assert [t.id for t in world.catalog.transfers(live_only=True)] == [asked["id"]]  # it goes on as promised


def test_the_earliest_deadline_is_carried_out_first(world: ApiWorld, client: httpx.Client) -> None:
    for name, by in (("v1", None), ("v2", "2026-03-01T13:00:00Z"), ("v3", "2026-03-01T12:30:00Z")):
        world.add_migrated(name, size=GB)
        ok(client.post(f"/v1/snapshots/imagenet/{name}/warm", json={} if by is None else {"by": by}))
    world.add_migrated("v4", size=GB)
    ok(client.post("/v1/snapshots/imagenet/v4/warm", json={"urgency": 3}))
    order = [world.catalog.snapshot_by_id(t.snapshot_id).ref.name for t in world.catalog.claimable(world.now, 9)]
    assert order == ["v3", "v2", "v4", "v1"]


@pytest.mark.parametrize("by", ["2026-03-01T11:59:59Z", "2026-03-01T12:00:00Z"])
def test_a_time_that_is_over_is_refused(world: ApiWorld, client: httpx.Client, by: str) -> None:
    world.add("v1")
    response = client.post(WARM, json={"by": by})
    assert (response.status_code, response.json()["code"]) == (409, "too_late")
    assert "is over" in response.json()["detail"]


# -- parts -----------------------------------------------------------------------------------------------------------


def part_comes(world: ApiWorld, number: int) -> None:
    """Take a recall of a part to its end, as the mover does."""
    t = world.catalog.transfer(TransferId(number))
    for expected, new in pairwise((S.QUEUED, S.COPYING, S.VERIFYING)):
        world.catalog.advance(t.id, expected, new, now=world.now)
    where = location_of("imagenet", t.key)
    put = PutPart(transfer_id=t.id, tier=FLASH, location=where, content_id="beef", entries=3, size_bytes=GB)
    world.catalog.advance(t.id, S.VERIFYING, S.COMMITTED, now=world.now, effects=[put])
    world.catalog.advance(t.id, S.COMMITTED, S.DONE, now=world.now)


def test_a_part_comes_where_the_whole_has_no_room(world: ApiWorld, client: httpx.Client) -> None:
    world.add_migrated("v1", size=10_000 * GB)
    world.ports.parts[("val",)] = PartSize(files=2, size_bytes=GB)
    assert client.post(WARM).status_code == 507
    answer = ok(client.post(WARM, json={"only": ["val"]}))
    transfer = answer["transfer"]
    assert (answer["answer"], transfer["only"], transfer["bytes_total"]) == ("accepted", ["val"], GB)
    assert (transfer["files_total"], answer["receipt"]) == (2, None)
    part_comes(world, transfer["id"])
    ready = ok(client.post(WARM, json={"only": ["val"]}))
    assert (ready["answer"], ready["path"], ready["transfer"]) == ("ready", answer["path"], None)
    assert ready["path"].startswith(f"{world.config.tiers[0].root}/.tierd-parts/imagenet/")
    assert (ready["receipt"]["only"], ready["receipt"]["size_bytes"], ready["receipt"]["tier"]) == (["val"], GB, FLASH)
    assert client.get(RECEIPT).status_code == 409  # the snapshot itself is where it was
    (told,) = ok(client.get("/v1/snapshots/imagenet/v1/explain"))["parts"]
    assert (told["only"], told["path"], told["size_bytes"]) == (["val"], ready["path"], GB)
    assert ok(client.get("/v1/snapshots/imagenet/v1"))["residency"] == "migrated"


def test_what_no_file_matches_is_refused_and_holds_nothing(world: ApiWorld, client: httpx.Client) -> None:
    v1 = world.add_migrated("v1")
    refused = client.post(WARM, json={"only": ["nothing*"]})
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
    assert "nothing*" in refused.json()["detail"]
    assert world.catalog.holds(v1.id, now=world.now) == []


def test_a_part_of_what_is_on_flash_is_the_whole_at_its_path(world: ApiWorld, client: httpx.Client) -> None:
    v1 = world.add("v1")
    answer = ok(client.post(WARM, json={"only": ["val"]}))
    assert (answer["answer"], answer["path"]) == ("ready", str(v1.path))


def test_a_wish_for_a_part_joins_the_recall_of_the_whole(world: ApiWorld, client: httpx.Client) -> None:
    v1 = world.add_migrated("v1")
    world.ports.parts[("val",)] = PartSize(files=2, size_bytes=GB)
    whole = ok(client.post(WARM))["transfer"]
    answer = ok(client.post(WARM, json={"only": ["val"]}))
    assert (answer["transfer"]["id"], answer["transfer"]["only"]) == (whole["id"], [])
    assert answer["path"] == str(v1.path)


def test_the_whole_comes_after_a_part_that_is_under_way(world: ApiWorld, client: httpx.Client) -> None:
    world.add_migrated("v1")
    world.ports.parts[("val",)] = PartSize(files=2, size_bytes=GB)
    part = ok(client.post(WARM, json={"only": ["val"]}))["transfer"]
    waiting = ok(client.post(WARM))
    assert (waiting["answer"], waiting["transfer"]["id"], waiting["receipt"]) == ("accepted", part["id"], None)
    part_comes(world, part["id"])
    whole = ok(client.post(WARM))["transfer"]
    assert (whole["only"], whole["id"] > part["id"]) == ([], True)


def test_parts_go_with_the_last_hold(world: ApiWorld, client: httpx.Client) -> None:
    world.add_migrated("v1")
    world.ports.parts[("val",)] = PartSize(files=2, size_bytes=GB)
    answer = ok(client.post(WARM, json={"only": ["val"]}))
    part_comes(world, answer["transfer"]["id"])
    second = client.post("/v1/leases", json={"ref": "imagenet/v1", "lease_s": 600}).json()
    client.delete(f"/v1/leases/{answer['lease']['id']}")
    assert world.catalog.drop_parts(world.now) == []
    client.delete(f"/v1/leases/{second['id']}")
    assert [part.only for part in world.catalog.drop_parts(world.now)] == [("val",)]
    assert ok(client.post(WARM, json={"only": ["val"]}))["answer"] == "accepted"


def test_a_part_of_what_was_written_to_since_is_brought_anew(world: ApiWorld, client: httpx.Client) -> None:
    v1 = world.add_migrated("v1")
    world.ports.parts[("val",)] = PartSize(files=2, size_bytes=GB)
    first = ok(client.post(WARM, json={"only": ["val"]}))
    part_comes(world, first["transfer"]["id"])
    world.later(minutes=5)
    seen = AccessBatch(snapshot_id=v1.id, written_at=world.now, writes=1)
    world.catalog.record_access([seen], now=world.now)
    world.later(minutes=5)
    again = ok(client.post(WARM, json={"only": ["val"]}))
    assert (again["answer"], again["path"] != first["path"]) == ("accepted", True)
    part_comes(world, again["transfer"]["id"])
    ready = ok(client.post(WARM, json={"only": ["val"]}))
    assert (ready["answer"], ready["path"]) == ("ready", again["path"])


def test_a_part_that_somebody_wrote_to_is_given_to_nobody_else(world: ApiWorld, client: httpx.Client) -> None:
    world.add_migrated("v1")
    world.ports.parts[("val",)] = PartSize(files=2, size_bytes=GB)
    first = ok(client.post(WARM, json={"only": ["val"]}))
    part_comes(world, first["transfer"]["id"])
    world.ports.touched.add(world.catalog.parts()[0].key)
    again = ok(client.post(WARM, json={"only": ["val"]}))
    assert (again["answer"], again["path"] != first["path"]) == ("accepted", True)
    part_comes(world, again["transfer"]["id"])
    ready = ok(client.post(WARM, json={"only": ["val"]}))
    assert (ready["answer"], ready["path"]) == ("ready", again["path"])
    assert len(world.catalog.parts()) == 2  # whoever has the first keeps it
