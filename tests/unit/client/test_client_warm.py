"""Warm, as a training script calls it."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.api_world import FLASH, GB, HDD, ApiWorld
from tierd.client import Progress, Tierd, Warm
from tierd.errors import Corrupt, DaemonUnreachable, Interrupted, InvalidRequest, NotFound, Refused, TooLate
from tierd.model.hold import Hold
from tierd.model.transfer import TransferState
from tierd.serve import ApiServer
from tierd.serve import Progress as Moved


def held(world: ApiWorld) -> list[Hold]:
    return world.catalog.holds(now=world.now)


class Mover:
    """Lets each poll of the waiting client bring the recall one step further."""

    def __init__(self, world: ApiWorld, *steps: str) -> None:
        self._world, self._steps = world, list(steps)
        self.told: list[Progress] = []

    def __call__(self, progress: Progress) -> None:
        self.told.append(progress)
        live = self._world.catalog.transfers(live_only=True)
        if not live or not self._steps:
            return
        catalog, now, t = self._world.catalog, self._world.now, live[0]
        match self._steps.pop(0):
            case "finish":
                self._world.finish_recall(t)
            case "copy":
                self._world.run(t, TransferState.COPYING)
            case "again":
                later = now + timedelta(seconds=30)
                catalog.retry_later(
                    t.id, t.state, error="hdd went away", error_code="tier_offline", not_before=later, now=now
                )
            case "fail":
                catalog.fail(t.id, t.state, error="a bit of b/7 flipped", error_code="corrupt", now=now)
            case "cancel":
                catalog.request_cancel(t.id, now)


def test_a_snapshot_on_flash_is_held_for_the_block_and_no_longer(world: ApiWorld, tierd: Tierd) -> None:
    snapshot = world.add("v3")
    with tierd.warm("imagenet/v3", lease="8h", note="night run") as path:
        assert path == snapshot.path
        (lease,) = held(world)
        assert lease.expires_at == world.now + timedelta(hours=8)
        assert lease.note == "night run"
        assert "pid" in lease.holder
    assert held(world) == []


def test_the_lease_ends_when_the_block_fails(world: ApiWorld, tierd: Tierd) -> None:
    world.add("v3")
    with pytest.raises(ZeroDivisionError), tierd.warm("imagenet/v3"):
        raise ZeroDivisionError
    assert held(world) == []


def test_a_cold_snapshot_is_waited_for_and_ends_with_a_receipt(world: ApiWorld, tierd: Tierd) -> None:
    world.add_migrated("v3")
    mover = Mover(world, "finish")
    handle = tierd.warm("imagenet/v3", on_progress=mover)
    with handle:
        assert handle.is_ready
        assert handle.receipt is not None
        assert (handle.receipt.tier, handle.receipt.content_id) == ("flash", "c0ffee")
        assert handle.progress() is None
    assert mover.told[0].state == "queued"
    assert mover.told[0].bytes_total == GB
    assert mover.told[-1].state == "done"


def test_without_waiting_there_is_a_handle_to_wait_with(world: ApiWorld, tierd: Tierd) -> None:
    snapshot = world.add_migrated("v3")
    with tierd.warm("imagenet/v3", wait=False) as path:
        assert path == snapshot.path
    handle = tierd.warm("imagenet/v3", wait=False)
    assert not handle.is_ready
    progress = handle.progress()
    assert progress is not None
    assert progress.state == "queued"
    receipt = handle.wait(on_progress=Mover(world, "finish"))
    assert receipt is not None
    assert receipt is handle.receipt
    handle.end()
    assert held(world) == []


def test_a_part_can_be_waited_for(world: ApiWorld, tierd: Tierd) -> None:
    """The job begins with a quarter of the bytes; the transfer goes on."""
    snapshot = world.add_migrated("v3")
    handle = tierd.warm("imagenet/v3", wait=False)
    transfer = world.live(snapshot)[0]
    told: list[int] = []

    def copy_on(seen: Progress) -> None:
        told.append(seen.bytes_done)
        done = seen.bytes_done + GB // 10
        world.ports.in_progress[transfer.id] = Moved(bytes_done=done, files_done=0, step="copying")

    handle.wait_until(share=0.25, on_progress=copy_on)
    assert 0.25 * GB <= told[-1] < 0.5 * GB
    assert not handle.is_ready
    with pytest.raises(TimeoutError):
        handle.wait_until(file="train/0.tar", timeout=0.2)  # nothing can be read there yet
    snapshot.path.mkdir(parents=True)
    (snapshot.path / "train").mkdir()
    (snapshot.path / "train" / "0.tar").touch()
    handle.wait_until(file="train/0.tar", timeout=5)
    with pytest.raises(InvalidRequest):
        handle.wait_until(share=25)
    handle.end()


def test_a_part_that_comes_is_noticed_soon_also_when_nobody_is_told(world: ApiWorld, tierd: Tierd) -> None:
    snapshot = world.add_migrated("v3")
    handle = tierd.warm("imagenet/v3", wait=False)
    half = {world.live(snapshot)[0].id: Moved(bytes_done=GB // 2, files_done=0, step="copying")}
    comes = threading.Timer(0.3, world.ports.in_progress.update, [half])
    comes.start()
    began = time.monotonic()
    handle.wait_until(share=0.25, timeout=29)
    assert time.monotonic() - began < 15  # not at the end of a long poll for the whole
    comes.join()
    handle.end()


def test_a_failed_attempt_is_told_and_waited_for(world: ApiWorld, tierd: Tierd) -> None:
    world.add_migrated("v3")
    mover = Mover(world, "copy", "again", "finish")
    with tierd.warm("imagenet/v3", on_progress=mover):
        troubles = [p.trouble for p in mover.told if p.trouble]
    assert any("hdd went away" in trouble and "attempt 2" in trouble for trouble in troubles)


def test_a_failed_transfer_raises_its_error_and_gives_the_lease_back(world: ApiWorld, tierd: Tierd) -> None:
    world.add_migrated("v3")
    with pytest.raises(Corrupt, match="a bit of b/7 flipped") as caught:
        tierd.warm("imagenet/v3", on_progress=Mover(world, "copy", "fail"))
    assert caught.value.hint is not None
    assert held(world) == []


def test_a_cancelled_transfer_is_told_apart(world: ApiWorld, tierd: Tierd) -> None:
    world.add_migrated("v3")
    with pytest.raises(Interrupted, match="was cancelled"):
        tierd.warm("imagenet/v3", on_progress=Mover(world, "cancel"))
    assert held(world) == []


def fill_flash(world: ApiWorld) -> None:
    usage = world.ports.usages[FLASH]
    world.ports.usages[FLASH] = replace(usage, used_bytes=usage.capacity_bytes, free_bytes=0)


def test_a_refusal_says_why_and_leaves_no_lease(world: ApiWorld, tierd: Tierd) -> None:
    world.add_migrated("v3")
    fill_flash(world)
    with pytest.raises(Refused, match=r"imagenet/v3 cannot be warmed: .+"):
        tierd.warm("imagenet/v3")
    assert held(world) == []


def test_a_fallback_gives_the_cold_path_with_the_reason(world: ApiWorld, tierd: Tierd) -> None:
    snapshot = world.add_migrated("v3")
    fill_flash(world)
    handle = tierd.warm("imagenet/v3", fallback=True)
    with handle as path:
        assert path == snapshot.path
    assert handle.is_fallback
    assert "cannot be warmed" in handle.reason
    assert (handle.lease, handle.receipt, handle.is_ready) == (None, None, False)


def test_a_fallback_after_a_failed_transfer_gives_the_lease_back(world: ApiWorld, tierd: Tierd) -> None:
    world.add_migrated("v3")
    handle = tierd.warm("imagenet/v3", fallback=True, on_progress=Mover(world, "copy", "fail"))
    assert handle.is_fallback
    assert "flipped" in handle.reason
    assert held(world) == []


def test_there_is_no_fallback_where_no_copy_can_be_reached(world: ApiWorld, tierd: Tierd) -> None:
    world.add_migrated("v3")
    world.ports.usages[HDD] = replace(world.ports.usages[HDD], is_online=False, offline_reason="not mounted")
    with pytest.raises(Refused):
        tierd.warm("imagenet/v3", fallback=True)


def test_an_unknown_snapshot_is_never_a_fallback(world: ApiWorld, tierd: Tierd) -> None:
    with pytest.raises(NotFound):
        tierd.warm("imagenet/v9", fallback=True)


def test_a_timeout_gives_the_lease_back_and_lets_the_copy_go_on(world: ApiWorld, tierd: Tierd) -> None:
    world.add_migrated("v3")
    with pytest.raises(TimeoutError, match="goes on"):
        tierd.warm("imagenet/v3", timeout="0.1s")
    assert held(world) == []
    assert len(world.catalog.transfers(live_only=True)) == 1


def test_a_timeout_with_fallback_keeps_the_lease_for_when_it_arrives(world: ApiWorld, tierd: Tierd) -> None:
    world.add_migrated("v3")
    handle = tierd.warm("imagenet/v3", timeout="0.1s", fallback=True)
    assert handle.is_fallback
    assert len(held(world)) == 1
    handle.end()


def test_a_kept_lease_outlives_the_handle(world: ApiWorld, tierd: Tierd) -> None:
    world.add("v3")
    handle = tierd.warm("imagenet/v3")
    lease = handle.keep()
    assert lease is not None
    handle.end()
    assert [h.id for h in held(world)] == [lease.id]


def test_ranks_share_one_transfer_and_have_a_lease_each(world: ApiWorld, tierd: Tierd) -> None:
    world.add_migrated("v3")
    handles = [tierd.warm("imagenet/v3", wait=False) for _ in range(5)]
    assert len({h.transfer.id for h in handles if h.transfer is not None}) == 1
    assert len({h.lease.id for h in handles if h.lease is not None}) == 5
    for handle in handles:
        handle.end()


def test_waiting_survives_a_restart_of_the_daemon(world: ApiWorld, server: ApiServer, tierd: Tierd) -> None:
    world.add_migrated("v3")
    successor = ApiServer(world.app(), replace(world.config.api, socket=server.socket))
    mover = Mover(world, "finish")

    def restart_then_finish(progress: Progress) -> None:
        if server.is_running:
            server.stop()
        elif progress.trouble and not successor.is_running:
            successor.start()
        elif successor.is_running:
            mover(progress)

    try:
        with tierd.warm("imagenet/v3", on_progress=restart_then_finish) as path:
            assert path.name == "v3"
    finally:
        successor.stop()
    assert [p.state for p in mover.told][-1] == "done"


def test_a_daemon_that_stays_away_ends_the_wait(world: ApiWorld, server: ApiServer) -> None:
    world.add_migrated("v3")
    tierd = Tierd(f"unix://{server.socket}", patience="0.2s")
    handle = tierd.warm("imagenet/v3", wait=False)
    server.stop()
    with pytest.raises(DaemonUnreachable):
        handle.wait()
    handle.keep()


def test_a_fallback_does_not_need_the_daemon_any_longer(world: ApiWorld, server: ApiServer) -> None:
    snapshot = world.add_migrated("v3")
    tierd = Tierd(f"unix://{server.socket}", patience="0.2s")
    handle = tierd.warm("imagenet/v3", wait=False, fallback=True)
    handle.keep()
    server.stop()
    assert handle.wait() is None
    assert handle.is_fallback
    assert handle.path == snapshot.path


def test_handles_leave_no_thread_behind(world: ApiWorld, tierd: Tierd) -> None:
    world.add("v3")
    with tierd.warm("imagenet/v3"):
        assert any(t.name.startswith("tierd-lease") for t in threading.enumerate())
    assert not any(t.name.startswith("tierd-lease") for t in threading.enumerate())


def test_a_handle_shows_what_it_is(world: ApiWorld, tierd: Tierd) -> None:
    world.add("v3")
    handle: Warm = tierd.warm("imagenet/v3")
    assert repr(handle).startswith("<Warm imagenet/v3 ready at /")
    assert str(handle.ref) == "imagenet/v3"
    handle.end()


def test_a_deadline_is_asked_for_in_words(world: ApiWorld, tierd: Tierd) -> None:
    """The world's tiers give 1 GB/s, and its clock stands in March."""
    world.add_migrated("v3", size=30 * GB)
    with pytest.raises(TooLate, match="cannot be warmed in time"):
        tierd.warm("imagenet/v3", by=world.now + timedelta(seconds=20))
    assert held(world) == []
    handle = tierd.warm("imagenet/v3", by=(world.now + timedelta(minutes=2)).isoformat(), wait=False)
    assert handle.transfer is not None
    assert handle.transfer.due_at == world.now + timedelta(minutes=2)
    assert handle.answer is not None
    assert handle.answer.ready_at == world.now + timedelta(seconds=30)
    handle.end()
