"""Archive classes: a copy must be restored before it is read, for hours, over restarts, and again when that expires."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.archive_proxy import ArchiveProxy, Moto
from tests.seaweed import BUCKET
from tests.world import CLOUD, Trap, World, digest_tree, is_done, s3_settings
from tierd.config import MoverConfig
from tierd.model.dataset import Snapshot
from tierd.model.placement import Residency
from tierd.model.transfer import Transfer, TransferKind, TransferState
from tierd.move.attempt import look_again_at
from tierd.move.messages import Report, Request
from tierd.storage.base import Site, Waiting
from tierd.storage.control import Unlimited

S = TransferState
MIB = 1 << 20
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NEXT_LOOK = timedelta(minutes=15)


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    server = Moto().start()
    yield server
    server.kill()


@pytest.fixture
def proxy(moto: Moto) -> Iterator[ArchiveProxy]:
    with ArchiveProxy(moto.port) as proxy:
        yield proxy


@pytest.fixture
def world(tmp_path: Path, proxy: ArchiveProxy) -> Iterator[World]:
    settings = s3_settings(tmp_path, proxy.endpoint, storage_class="DEEP_ARCHIVE", pack_bytes=MIB, pack_up_to=MIB)
    world = World(tmp_path, s3=settings, mover=MoverConfig(workers=1, backoff_s=0.0, release_wait_s=0.5, nice=0))
    yield world
    world.close()


def make_packs(world: World, packs: int = 3) -> Snapshot:
    """A snapshot that fills so many packs, one file each."""
    root = world.data / "v1"
    root.mkdir(parents=True)
    for number in range(packs):
        (root / f"f{number}").write_bytes(os.urandom(MIB))
    return world.add("v1")


def data_keys(world: World) -> list[str]:
    """Full keys of what a recall reads."""
    prefix = world.bucket.settings.prefix
    return [f"{prefix}/{key}" for key in world.keys() if "/packs/0" in key]  # noqa: SIM118  a World is no dict


def start_recall(world: World, snapshot: Snapshot) -> Transfer:
    """Release it, and order its recall until it waits."""
    assert is_done(world.release(snapshot))
    transfer = world.recall(snapshot)
    assert transfer.state is S.RESTORING, transfer.error
    return transfer


def look_again(world: World, transfer: Transfer, pause: timedelta = NEXT_LOOK) -> Transfer:
    world.now += pause
    return world.run(transfer)


def prepare(world: World, snapshot: Snapshot, now: datetime) -> Waiting | None:
    """What the driver says at a time of our choice."""
    placement = next(p for p in world.catalog.placements(snapshot.id) if p.tier == CLOUD)
    site = Site(snapshot_key=snapshot.key, dataset="ds", name="v1", location=placement.location, home_path=None)
    return world.store(CLOUD).prepare_reading(site, now=now, control=Unlimited())


# -- there and back ------------------------------------------------------------------------------------------


def test_only_the_data_is_archived_not_what_describes_it(world: World, proxy: ArchiveProxy) -> None:
    assert is_done(world.release(world.make()))
    listed = proxy.client().list_objects_v2(Bucket=BUCKET, Prefix=world.bucket.settings.prefix)["Contents"]
    archived = {item["Key"].rpartition("/")[2] for item in listed if item["StorageClass"] == "DEEP_ARCHIVE"}
    assert archived == {"00001.tar", "tree.tar"}
    assert {item["StorageClass"] for item in listed} == {"DEEP_ARCHIVE", "STANDARD"}


def test_a_recall_waits_for_the_restore_and_comes_back_equal(world: World, proxy: ArchiveProxy) -> None:
    snapshot = world.make(files=50)
    before = digest_tree(snapshot.path)
    transfer = start_recall(world, snapshot)
    assert transfer.waits_for is not None
    assert "DEEP_ARCHIVE (Standard" in transfer.waits_for
    assert "0 of 1 objects can be read" in transfer.waits_for
    assert transfer.expected_at is not None
    assert abs(transfer.expected_at - datetime.now(UTC) - 12 * HOUR) < timedelta(minutes=2)
    assert transfer.not_before == world.now + NEXT_LOOK
    assert (transfer.attempt, transfer.error) == (1, None)
    assert [(asked.key, asked.days, asked.tier) for asked in proxy.asked] == [(data_keys(world)[0], 7, "Standard")]
    proxy.done()
    assert is_done(look_again(world, transfer))
    assert digest_tree(snapshot.path) == before
    assert world.residency(snapshot) is Residency.PREMIGRATED
    assert proxy.refused == 0
    assert world.litter() == []
    assert world.s3 is not None
    assert os.listdir(world.s3.state / "restores") == []


def test_looking_again_asks_for_nothing_twice_and_keeps_the_time(world: World, proxy: ArchiveProxy) -> None:
    transfer = start_recall(world, make_packs(world))
    asked = list(proxy.asked)
    assert len(asked) == 3
    for _ in range(2):
        again = look_again(world, transfer)
        assert (again.state, again.expected_at, again.attempt) == (S.RESTORING, transfer.expected_at, 1)
    assert proxy.asked == asked
    assert proxy.refused == 0


def test_it_is_not_looked_at_before_it_is_time(world: World, proxy: ArchiveProxy) -> None:
    transfer = start_recall(world, world.make())
    proxy.done()
    assert look_again(world, transfer, NEXT_LOOK - timedelta(seconds=5)).state is S.RESTORING
    assert look_again(world, transfer, timedelta(seconds=5)).state is S.DONE


def test_a_waiting_recall_holds_no_worker(world: World) -> None:
    transfer = start_recall(world, world.make())
    assert world.mover.running == 0
    assert is_done(world.migrate(world.make("v2", files=3)))  # there is one worker only
    assert world.catalog.transfer(transfer.id).state is S.RESTORING


def test_a_restarted_daemon_knows_what_was_asked_for_and_when(world: World, proxy: ArchiveProxy) -> None:
    snapshot = make_packs(world)
    before = digest_tree(snapshot.path)
    transfer = start_recall(world, snapshot)
    asked = list(proxy.asked)
    world.restart()
    again = look_again(world, transfer)
    assert (again.state, again.expected_at) == (S.RESTORING, transfer.expected_at)
    assert proxy.asked == asked
    proxy.done()
    world.restart()
    assert is_done(look_again(world, transfer))
    assert digest_tree(snapshot.path) == before


@pytest.mark.parametrize("step", ["restore: look what can be read", "restore: ask the store", "Wait", "to copying"])
def test_a_worker_killed_around_the_restore_loses_nothing(world: World, proxy: ArchiveProxy, step: str) -> None:
    snapshot = world.make()
    before = digest_tree(snapshot.path)
    assert is_done(world.release(snapshot))
    transfer = world.order(snapshot, TransferKind.RECALL)
    trap = Trap(step=step)
    for _ in range(2):
        world.step(trap=None if trap.fired else trap)
        proxy.done()
        world.now += NEXT_LOOK
    assert trap.fired
    assert is_done(world.finish(transfer))
    assert digest_tree(snapshot.path) == before
    assert len(proxy.asked) == 1
    assert world.litter() == []


# -- some can be read, some not --------------------------------------------------------------------------------


def test_only_what_is_not_restored_yet_is_asked_for(world: World, proxy: ArchiveProxy) -> None:
    snapshot = make_packs(world)
    before = digest_tree(snapshot.path)
    assert is_done(world.release(snapshot))
    first, second, third = data_keys(world)
    other = {"Days": 3, "GlacierJobParameters": {"Tier": "Bulk"}}
    for key in (first, second):
        proxy.client().restore_object(Bucket=BUCKET, Key=key, RestoreRequest=other)
    proxy.done(first)
    transfer = world.recall(snapshot)
    assert "1 of 3 objects can be read" in (transfer.waits_for or "")
    assert [asked.key for asked in proxy.asked[2:]] == [third]
    proxy.done(third)
    transfer = look_again(world, transfer)
    assert "2 of 3 objects can be read" in (transfer.waits_for or "")
    proxy.done()
    assert is_done(look_again(world, transfer))
    assert digest_tree(snapshot.path) == before


def test_a_copy_that_is_restored_already_is_read_at_once(world: World, proxy: ArchiveProxy) -> None:
    snapshot = world.make()
    transfer = start_recall(world, snapshot)
    proxy.done()
    assert is_done(look_again(world, transfer))
    assert is_done(world.release(snapshot))
    assert is_done(world.recall(snapshot))
    assert len(proxy.asked) == 1


def test_nothing_is_paid_for_a_copy_that_is_not_complete(world: World, proxy: ArchiveProxy) -> None:
    snapshot = make_packs(world)
    assert is_done(world.release(snapshot))
    proxy.client().delete_object(Bucket=BUCKET, Key=data_keys(world)[1])
    transfer = world.recall(snapshot)
    assert (transfer.state, transfer.error_code) == (S.FAILED, "source_gone")
    assert "00002.tar is missing" in (transfer.error or "")
    assert proxy.asked == []


def test_a_missing_right_to_restore_is_named_and_the_recall_tries_again(world: World, proxy: ArchiveProxy) -> None:
    snapshot = world.make()
    assert is_done(world.release(snapshot))
    proxy.may_restore = False
    transfer = world.recall(snapshot)
    assert (transfer.state, transfer.error_code, transfer.attempt) == (S.QUEUED, "denied", 2)
    assert "s3:RestoreObject" in (transfer.error or "")
    proxy.may_restore = True
    assert world.run(transfer).state is S.RESTORING


def test_what_a_lifecycle_rule_archived_is_not_restored_unasked(tmp_path: Path, proxy: ArchiveProxy) -> None:
    """The tier is none of an archive class: nobody was told of hours and money."""
    world = World(tmp_path, s3=s3_settings(tmp_path, proxy.endpoint))
    snapshot = world.make()
    assert is_done(world.release(snapshot))
    (key,) = data_keys(world)
    source = {"Bucket": BUCKET, "Key": key}
    proxy.client().copy_object(Bucket=BUCKET, Key=key, CopySource=source, StorageClass="GLACIER")
    transfer = world.recall(snapshot)
    assert (transfer.state, transfer.error_code, transfer.attempt) == (S.QUEUED, "archived", 2)
    assert proxy.asked == []
    world.close()


# -- what was restored is archived again -----------------------------------------------------------------------


def test_a_restore_that_expired_before_anybody_looked_is_asked_for_again(world: World, proxy: ArchiveProxy) -> None:
    snapshot = world.make()
    before = digest_tree(snapshot.path)
    transfer = start_recall(world, snapshot)
    proxy.done()
    proxy.expire(*data_keys(world))
    again = look_again(world, transfer)
    assert again.state is S.RESTORING
    assert again.expected_at is not None
    assert transfer.expected_at is not None
    assert again.expected_at > transfer.expected_at
    assert len(proxy.asked) == 2
    proxy.done()
    assert is_done(look_again(world, transfer))
    assert digest_tree(snapshot.path) == before


def test_objects_archived_again_in_the_middle_of_a_recall_are_waited_for_again(
    world: World, proxy: ArchiveProxy
) -> None:
    snapshot = make_packs(world, packs=5)
    before = digest_tree(snapshot.path)
    transfer = start_recall(world, snapshot)
    proxy.done()
    proxy.expire_after(reads=2)
    transfer = look_again(world, transfer)
    assert (transfer.state, transfer.attempt, transfer.error) == (S.RESTORING, 1, None)
    assert "0 of 5" in (transfer.waits_for or "")
    assert proxy.refused > 0
    assert any("archived again" in event.message for event in world.catalog.events(newest_first=True))
    proxy.done()
    assert is_done(look_again(world, transfer))
    assert digest_tree(snapshot.path) == before
    assert world.litter() == []


def test_what_would_expire_during_the_recall_is_restored_for_longer(world: World, proxy: ArchiveProxy) -> None:
    snapshot = world.make()
    start_recall(world, snapshot)
    proxy.done()
    now = datetime.now(UTC)
    assert prepare(world, snapshot, now + 6 * DAY) is None
    assert len(proxy.asked) == 1
    assert prepare(world, snapshot, now + 7 * DAY - 6 * HOUR) is None  # it can be read meanwhile
    assert len(proxy.asked) == 2
    assert prepare(world, snapshot, now + 8 * DAY) is not None
    assert len(proxy.asked) == 3


def test_a_restore_that_takes_longer_than_usual_says_so(world: World) -> None:
    snapshot = world.make()
    start_recall(world, snapshot)
    waiting = prepare(world, snapshot, datetime.now(UTC) + 13 * HOUR)
    assert waiting is not None
    assert waiting.until is None
    assert waiting.message.endswith("it takes longer than usual")


def test_without_its_note_the_time_begins_anew(world: World, proxy: ArchiveProxy) -> None:
    snapshot = world.make()
    start_recall(world, snapshot)
    assert world.s3 is not None
    (world.s3.state / "restores" / f"{snapshot.key}.json").write_text("")
    now = datetime.now(UTC) + 3 * HOUR
    waiting = prepare(world, snapshot, now)
    assert waiting is not None
    assert waiting.until == now + 12 * HOUR
    assert len(proxy.asked) == 1


# -- people ---------------------------------------------------------------------------------------------------


def test_a_cancelled_restore_ends_at_once_and_says_what_it_cost(world: World, proxy: ArchiveProxy) -> None:
    snapshot = world.make()
    transfer = start_recall(world, snapshot)
    ended = world.catalog.request_cancel(transfer.id, world.now)
    assert ended.state is S.CANCELLED
    assert "charged" in world.catalog.events(newest_first=True)[0].message
    assert world.residency(snapshot) is Residency.MIGRATED
    assert world.litter() == []
    again = world.recall(snapshot)  # what was paid for is not asked for again
    assert (again.state, again.expected_at) == (S.RESTORING, transfer.expected_at)
    assert len(proxy.asked) == 1


def test_a_recall_cancelled_while_a_worker_looks_asks_for_nothing(
    world: World, proxy: ArchiveProxy, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = world.make()
    assert is_done(world.release(snapshot))
    transfer = world.order(snapshot, TransferKind.RECALL)

    def cancel(message: Request) -> None:
        if isinstance(message, Report) and message.step.startswith("restore: ask"):
            world.attempts.hook = None
            world.catalog.request_cancel(transfer.id, world.now)

    world.attempts.hook = staticmethod(cancel)
    assert world.run(transfer).state is S.CANCELLED
    assert proxy.asked == []
    assert caplog.records == []


def test_a_paused_restore_goes_on_waiting_where_it_was(world: World, proxy: ArchiveProxy) -> None:
    transfer = start_recall(world, world.make())
    world.catalog.set_paused(transfer.id, True, world.now)
    proxy.done()
    assert look_again(world, transfer).state is S.RESTORING
    world.catalog.set_paused(transfer.id, False, world.now)
    assert is_done(look_again(world, transfer))


@pytest.mark.parametrize(
    ("left", "pause"),
    [
        (timedelta(days=2), timedelta(minutes=15)),
        (timedelta(minutes=5), timedelta(seconds=30)),
        (timedelta(seconds=2), timedelta(seconds=1)),
        (timedelta(hours=-1), timedelta(seconds=1)),
        (None, timedelta(minutes=15)),
    ],
)
def test_the_nearer_the_end_the_sooner_it_is_looked_at(left: timedelta | None, pause: timedelta) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert look_again_at(now, None if left is None else now + left) == now + pause
