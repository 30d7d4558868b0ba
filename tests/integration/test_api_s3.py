"""The API with buckets below the HDD: archived copies, restores, and what is left of deleted snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api_world import FLASH, GB, HDD, ApiWorld, S, api_world, client_of
from tierd.model.dataset import Snapshot
from tierd.model.effect import DropPlacement, PutPlacement
from tierd.model.placement import PlacementState
from tierd.model.s3 import Prices, S3Settings
from tierd.model.tier import Tier, TierKind, TierName, TierUsage
from tierd.model.transfer import TransferKind

VAULT = TierName("vault")
WARM = "/v1/snapshots/imagenet/v1/warm"


def with_vault(world: ApiWorld, *, prices: Prices | None = None, keep_deleted: timedelta | None = None) -> ApiWorld:
    """An archive below the HDD."""
    s3 = S3Settings(
        bucket="cold",
        prefix="lab/7",
        state=world.root / "s3",
        storage_class="DEEP_ARCHIVE",
        prices=prices or Prices(retrieval=0.02, currency="EUR"),
    )
    tier = Tier(name=VAULT, kind=TierKind.S3, root=world.root / "view" / "vault", rank=2, s3=s3)
    datasets = tuple(
        replace(d, policy=replace(d.policy, keep_deleted=keep_deleted, migrate_after_to={VAULT: timedelta(days=90)}))
        for d in world.config.datasets
    )
    world.config = replace(world.config, tiers=(*world.config.tiers, tier), datasets=datasets)
    world.ports.usages[VAULT] = TierUsage(tier=VAULT, is_online=True, used_bytes=3 * GB, free_bytes=1 << 62)
    world.catalog.configure(world.config.tiers, datasets)
    return world


def archive(world: ApiWorld, s: Snapshot, *, only: bool = True) -> None:
    """A copy in the vault; the only one."""
    copy = PutPlacement(
        tier=VAULT,
        state=PlacementState.VERIFIED,
        location=f"{s.ref}/0123456789abcdef",
        content_id="c0ffee",
        size_bytes=s.size_bytes,
        entries=s.entries,
        verified_at=world.now,
    )
    drop = [DropPlacement(FLASH), DropPlacement(HDD)] if only else []
    world.catalog.apply(s.id, [copy, *drop], now=world.now)


def delete(world: ApiWorld, s: Snapshot) -> None:
    """Its owner deletes it at its path."""
    world.catalog.mark_gone(s.id, world.now)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ApiWorld]:
    with api_world(tmp_path) as made:
        yield with_vault(made, keep_deleted=timedelta(days=30))


@pytest.fixture
def client(world: ApiWorld) -> Iterator[httpx.Client]:
    with client_of(world) as made:
        yield made


def ok(response: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = response.json()
    assert response.status_code == 200, body
    return body


# -- archived copies -----------------------------------------------------------------------------------------------


def test_a_warm_of_an_archived_copy_tells_hours_and_money_and_begins_nothing(
    world: ApiWorld, client: httpx.Client
) -> None:
    v1 = world.add("v1", size=50 << 30)
    archive(world, v1)
    response = client.post(WARM)
    body = response.json()
    assert (response.status_code, body["code"]) == (409, "restore_needed")
    assert body["detail"] == (
        "imagenet/v1 cannot be warmed at once: its copy on vault is archived as DEEP_ARCHIVE: "
        "restoring it (Standard) takes about 12h and costs about 1.00 EUR"
    )
    assert "`tierd warm imagenet/v1 --restore`" in body["hint"]
    assert world.live(v1) == []
    assert world.catalog.holds(now=world.now) == []


def test_who_asks_for_the_restore_gets_it(world: ApiWorld, client: httpx.Client) -> None:
    v1 = world.add("v1", size=50 << 30)
    archive(world, v1)
    answer = ok(client.post(WARM, json={"restore": True}))
    assert answer["answer"] == "accepted"
    assert "takes about 12h" in answer["reason"]
    (t,) = world.live(v1)
    assert (t.kind, t.source, t.restore_cost) == (TransferKind.RECALL, VAULT, 1.0)
    assert answer["transfer"]["restore_cost"] == 1.0


def test_the_next_caller_joins_the_restore_that_is_paid_for(world: ApiWorld, client: httpx.Client) -> None:
    v1 = world.add("v1")
    archive(world, v1)
    first = ok(client.post(WARM, json={"restore": True}))
    second = ok(client.post(WARM))
    assert first["transfer"]["id"] == second["transfer"]["id"]
    assert len(world.catalog.holds(now=world.now)) == 2


def test_a_faster_copy_needs_no_restore(world: ApiWorld, client: httpx.Client) -> None:
    v1 = world.add_migrated("v1")
    archive(world, v1, only=False)
    assert ok(client.post(WARM))["transfer"]["source"] == HDD


def test_a_restore_is_shown_with_what_it_waits_for_and_until_when(world: ApiWorld, client: httpx.Client) -> None:
    v1 = world.add("v1")
    archive(world, v1)
    number = ok(client.post(WARM, json={"restore": True}))["transfer"]["id"]
    until = world.now + timedelta(hours=12)
    world.catalog.wait_for_restore(
        number, S.QUEUED, message="0 of 9 packs are readable", until=until, not_before=until, now=world.now
    )
    world.later(hours=2)
    t = ok(client.get(f"/v1/transfers/{number}"))
    assert (t["state"], t["step"]) == ("restoring", "0 of 9 packs are readable")
    assert t["expected_at"] == until.isoformat().replace("+00:00", "Z")
    assert t["eta_s"] == pytest.approx(10 * 3600 + 1)  # and a second for the copy
    assert ok(client.get("/v1/status"))["live_transfers"] == 1
    reserved = {tier["name"]: tier["reserved_bytes"] for tier in ok(client.get("/v1/tiers"))["items"]}
    assert reserved[FLASH] == GB
    assert "0 of 9 packs are readable" in client.get("/", headers={"accept": "text/html"}).text


# -- tiers and policies ----------------------------------------------------------------------------------------------


def test_a_bucket_is_shown_as_people_write_it_and_without_a_limit(client: httpx.Client) -> None:
    tier = next(t for t in ok(client.get("/v1/status"))["tiers"] if t["name"] == VAULT)
    assert (tier["kind"], tier["root"]) == ("s3", "s3://cold/lab/7")
    assert (tier["capacity_bytes"], tier["used_bytes"], tier["used_ratio"]) == (0, 3 * GB, 0.0)
    assert "no limit" in client.get("/", headers={"accept": "text/html"}).text


def test_a_policy_tells_the_ages_of_every_tier(client: httpx.Client) -> None:
    policy = ok(client.get("/v1/datasets/imagenet"))["policy"]
    assert policy["migrate_after_to_s"] == {"vault": 90 * 86400}
    assert policy["release_after_from_s"] == {}
    assert policy["keep_deleted_s"] == 30 * 86400


# -- orphans -----------------------------------------------------------------------------------------------------------


def test_what_is_left_of_a_deleted_snapshot_is_listed_and_counted(world: ApiWorld, client: httpx.Client) -> None:
    v1 = world.add("v1")
    world.put_cold_copy(v1)
    delete(world, v1)
    world.later(days=3)
    (item,) = ok(client.get("/v1/snapshots"))["items"]
    assert (item["ref"], item["residency"]) == ("imagenet/v1", "orphaned")
    assert item["gone_at"] == "2026-03-01T12:00:00Z"
    assert item["kept_until"] == "2026-03-31T12:00:00Z"
    assert ok(client.get("/v1/snapshots", params={"residency": "orphaned"}))["items"] == [item]
    assert ok(client.get("/v1/snapshots/imagenet/v1"))["residency"] == "orphaned"
    assert ok(client.get("/v1/status"))["counts"]["by_residency"]["orphaned"] == 1
    assert "orphaned" in client.get("/", headers={"accept": "text/html"}).text


def test_a_snapshot_that_was_deleted_before_it_had_a_copy_is_only_history(
    world: ApiWorld, client: httpx.Client
) -> None:
    delete(world, world.add("v1"))
    assert ok(client.get("/v1/snapshots"))["items"] == []
    assert ok(client.get("/v1/snapshots/imagenet/v1"))["residency"] == "gone"


def test_a_new_snapshot_of_the_name_is_listed_beside_what_is_left_of_the_old_ones(
    world: ApiWorld, client: httpx.Client
) -> None:
    for _ in range(3):
        old = world.add("v1")
        world.put_cold_copy(old)
        delete(world, old)
    world.add("v1")
    found, cursor = [], None
    while True:  # one a page: equal names must neither repeat nor vanish between pages
        page = ok(client.get("/v1/snapshots", params={"limit": 1} | ({"cursor": cursor} if cursor else {})))
        found += [item["residency"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(found) == ["orphaned", "orphaned", "orphaned", "resident"]
    assert ok(client.get("/v1/snapshots/imagenet/v1"))["residency"] == "resident"


def test_the_plan_and_explain_say_when_it_goes(world: ApiWorld, client: httpx.Client) -> None:
    v1 = world.add("v1")
    world.put_cold_copy(v1)
    delete(world, v1)
    world.later(days=29)
    assert "goes on 2026-03-31 12:00 UTC" in ok(client.get("/v1/plan"))["kept"]["imagenet/v1"]
    world.later(days=2)
    (step,) = ok(client.get("/v1/plan"))["steps"]
    assert (step["action"], step["source"], step["destination"]) == ("remove", HDD, HDD)
    explained = ok(client.get("/v1/snapshots/imagenet/v1/explain"))
    assert explained["residency"] == "orphaned"
    assert explained["next_step"] == step


def test_an_orphan_can_be_neither_warmed_nor_pinned(world: ApiWorld, client: httpx.Client) -> None:
    v1 = world.add("v1")
    world.put_cold_copy(v1)
    delete(world, v1)
    for response in (client.post(WARM), client.post("/v1/snapshots/imagenet/v1/pin")):
        assert response.status_code == 409
        assert "is gone" in response.json()["detail"]


def test_a_removal_under_way_is_a_transfer_of_its_own_kind(world: ApiWorld, client: httpx.Client) -> None:
    v1 = world.add("v1")
    world.put_cold_copy(v1)
    delete(world, v1)
    t, _ = world.catalog.enqueue(
        snapshot_id=v1.id,
        kind=TransferKind.REMOVE,
        source=HDD,
        destination=HDD,
        reason="kept for 30d",
        requested_by="policy",
        bytes_total=v1.size_bytes,
        files_total=v1.files,
        now=world.now,
    )
    world.run(t, S.RELEASING)
    (shown,) = ok(client.get("/v1/transfers", params={"live": True}))["items"]
    assert (shown["kind"], shown["state"], shown["ref"], shown["eta_s"]) == ("remove", "releasing", "imagenet/v1", None)
    assert ok(client.get("/v1/snapshots"))["items"][0]["transfer"]["id"] == t.id
    assert ok(client.get("/v1/tiers"))["items"][1]["reserved_bytes"] == 0
