"""What people see of buckets: archived copies, restores, and what is left of deleted snapshots."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.api_world import ApiWorld, S
from tests.integration.test_api_s3 import archive, delete, with_vault
from tests.unit.cli.conftest import Call
from tierd.model.transfer import TransferKind


@pytest.fixture
def world(world: ApiWorld) -> ApiWorld:
    return with_vault(world, keep_deleted=timedelta(days=30))


def test_a_warm_of_an_archived_copy_names_hours_money_and_the_flag(world: ApiWorld, call: Call) -> None:
    archive(world, world.add("v1"))
    result = call("warm", "imagenet/v1")
    assert result.exit_code == 5
    assert "takes about 12h and costs about 0.02 EUR" in result.stderr
    assert "tierd warm imagenet/v1 --restore" in result.stderr
    assert result.stdout == ""


def test_with_the_flag_it_is_on_its_way_and_not_promised_to_be_readable(world: ApiWorld, call: Call) -> None:
    snapshot = world.add("v1")
    archive(world, snapshot)
    result = call("warm", "imagenet/v1", "--restore")
    assert result.exit_code == 0
    assert result.stdout == f"{snapshot.path}\n"
    assert "until then it cannot be read" in result.stderr


def test_a_copy_on_the_hdd_is_still_promised_to_be_readable(world: ApiWorld, call: Call) -> None:
    world.add_migrated("v1")
    assert "until then reads come from the cold copy" in call("warm", "imagenet/v1").stderr


def test_transfers_tell_when_a_restore_is_expected(world: ApiWorld, call: Call) -> None:
    world.now = datetime.now(UTC)
    snapshot = world.add("v1")
    archive(world, snapshot)
    call("warm", "imagenet/v1", "--restore")
    (t,) = world.live(snapshot)
    until = world.now + timedelta(hours=12, minutes=1)
    world.catalog.wait_for_restore(
        t.id, t.state, message="0 of 9 packs are readable", until=until, not_before=until, now=world.now
    )
    listed = call("transfers").stdout
    assert "restoring" in listed
    assert f"until {until.astimezone():%Y-%m-%d %H:%M %Z}" in listed
    one = call("transfers", str(t.id)).stdout
    assert "0 of 9 packs are readable" in one
    assert "in 12h" in one
    assert "was estimated to cost 0.02" in one
    world.later(seconds=2)
    assert "expected in 12h" in call("ls").stdout


def test_status_shows_a_bucket_without_a_limit(world: ApiWorld, call: Call) -> None:
    (line,) = [line for line in call("status").stdout.splitlines() if line.startswith("vault")]
    assert line.split("  ")[0] == "vault"
    assert "2.79 GiB" in line
    assert "no limit" in line
    assert line.endswith("s3://cold/lab/7")


def test_ls_shows_orphans_and_how_long_they_stay(world: ApiWorld, call: Call) -> None:
    gone = world.add("v1")
    world.put_cold_copy(gone)
    delete(world, gone)
    until = world.now + timedelta(days=30)
    (_, line) = call("ls").stdout.splitlines()
    assert "orphaned" in line
    assert f"what is left is kept until {until.astimezone():%Y-%m-%d %H:%M %Z} at least" in line
    assert call("ls", "--residency", "resident").stdout.count("\n") == 1
    assert "deleted" in call("ls", "imagenet/v1").stdout


def test_a_removal_is_named_by_the_one_tier_it_is_about(world: ApiWorld, call: Call) -> None:
    gone = world.add("v1")
    world.put_cold_copy(gone)
    delete(world, gone)
    t, _ = world.catalog.enqueue(
        snapshot_id=gone.id,
        kind=TransferKind.REMOVE,
        source=world.config.tiers[1].name,
        destination=world.config.tiers[1].name,
        reason="kept for 30d",
        requested_by="policy",
        bytes_total=1,
        files_total=1,
        now=world.now,
    )
    world.run(t, S.RELEASING)
    assert "remove from hdd" in call("transfers").stdout
    assert f"transfer {t.id}: remove from hdd, releasing" in call("ls").stdout
