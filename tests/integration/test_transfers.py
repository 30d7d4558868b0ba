"""Transfers with real workers on real directories: what a user sees before, between and after."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.world import FLASH, HDD, Trap, World, digest_tree, is_done
from tierd.config import MoverConfig
from tierd.model.placement import Residency
from tierd.model.tier import TierName
from tierd.model.transfer import TransferKind, TransferState


@pytest.fixture(params=[FLASH, HDD], ids=["home-flash", "home-hdd"])
def home(request: pytest.FixtureRequest) -> TierName:
    return TierName(request.param)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[World]:
    """A dataset at home on the HDD tier."""
    world = World(tmp_path, home=HDD)
    yield world
    world.close()


def test_a_premigrated_snapshot_stays_where_it_is_and_has_a_plain_copy(world: World) -> None:
    snapshot = world.make()
    before = digest_tree(snapshot.path)
    assert is_done(world.migrate(snapshot))
    assert world.residency(snapshot) is Residency.PREMIGRATED
    assert not snapshot.path.is_symlink()
    assert digest_tree(world.roots[HDD] / "ds" / "v1") == before == digest_tree(snapshot.path)
    assert world.litter() == []


def test_a_finished_transfer_tells_how_much_it_copied(world: World) -> None:
    snapshot = world.make(files=7, size=5000)
    transfer = world.migrate(snapshot)
    assert (transfer.bytes_done, transfer.files_done) == (35_000, 7)


def test_a_released_snapshot_is_read_from_the_cold_tier_at_the_same_path(world: World) -> None:
    snapshot = world.make()
    before = digest_tree(snapshot.path)
    assert is_done(world.release(snapshot))
    assert world.residency(snapshot) is Residency.MIGRATED
    assert snapshot.path.readlink() == world.roots[HDD] / "ds" / "v1"
    assert digest_tree(snapshot.path) == before
    assert world.litter() == []


def test_a_recalled_snapshot_is_a_directory_again_and_keeps_its_cold_copy(world: World) -> None:
    snapshot = world.make()
    before = digest_tree(snapshot.path)
    world.release(snapshot)
    assert is_done(world.recall(snapshot))
    assert world.residency(snapshot) is Residency.PREMIGRATED
    assert not snapshot.path.is_symlink()
    assert digest_tree(snapshot.path) == before
    assert world.litter() == []


def test_a_clean_snapshot_is_released_again_without_copying(world: World) -> None:
    snapshot = world.make()
    world.release(snapshot)
    world.recall(snapshot)
    transfer = world.release(snapshot)
    assert is_done(transfer)
    states = [e.kind for e in world.catalog.events(limit=1000) if e.transfer_id == transfer.id]
    assert "transfer.releasing" in states
    assert "transfer.copying" not in states


def test_a_snapshot_changed_after_its_recall_is_copied_anew(world: World) -> None:
    snapshot = world.make()
    world.release(snapshot)
    world.recall(snapshot)
    (snapshot.path / "new").write_bytes(b"written after the recall")
    after = digest_tree(snapshot.path)
    assert is_done(world.finish(world.release(snapshot)))
    assert snapshot.path.is_symlink()
    assert digest_tree(snapshot.path) == after
    assert world.litter() == []


def test_what_is_written_through_the_link_is_kept_by_the_recall(world: World) -> None:
    snapshot = world.make()
    world.release(snapshot)
    (snapshot.path / "f0").write_bytes(b"written on the cold tier")
    after = digest_tree(snapshot.path)
    assert is_done(world.finish(world.recall(snapshot)))
    assert digest_tree(snapshot.path) == after


def test_a_snapshot_at_home_on_hdd_is_warmed_and_released_the_same_way(archive: World) -> None:
    snapshot = archive.make()
    before = digest_tree(snapshot.path)
    assert is_done(archive.recall(snapshot))
    assert snapshot.path.readlink() == archive.roots[FLASH] / "ds" / "v1"
    assert digest_tree(snapshot.path) == before
    assert archive.residency(snapshot) is Residency.PREMIGRATED
    assert is_done(archive.release(snapshot))
    assert not snapshot.path.is_symlink()
    assert digest_tree(snapshot.path) == before
    assert archive.residency(snapshot) is Residency.MIGRATED
    assert not (archive.roots[FLASH] / "ds" / "v1").exists()
    assert archive.litter() == []


def test_what_is_written_to_a_warmed_archive_comes_home(archive: World) -> None:
    snapshot = archive.make()
    archive.recall(snapshot)
    (snapshot.path / "sub" / "f1").write_bytes(b"new result")
    after = digest_tree(snapshot.path)
    assert is_done(archive.finish(archive.release(snapshot)))
    assert not snapshot.path.is_symlink()
    assert digest_tree(snapshot.path) == after
    assert archive.litter() == []


def test_a_whole_dataset_can_be_the_snapshot(tmp_path: Path) -> None:
    world = World(tmp_path, pattern=None)
    (world.data / "a").write_bytes(b"x" * 10_000)
    snapshot = world.add("self")
    before = digest_tree(world.data)
    assert is_done(world.release(snapshot))
    assert world.data.is_symlink()
    assert digest_tree(world.data) == before
    assert is_done(world.recall(snapshot))
    assert digest_tree(world.data) == before
    world.close()


def test_workers_leave_processor_and_disks_to_the_training(tmp_path: Path) -> None:
    world = World(tmp_path, mover=MoverConfig(nice=7, io_class="idle"))
    seen: list[tuple[int, str]] = []

    def look(message: object) -> None:
        if getattr(message, "step", "") == "verify":
            workers = [pid for pid in _children(os.getpid()) if _is_worker(pid)]
            seen.extend((os.getpriority(os.PRIO_PROCESS, pid), _io_class(pid)) for pid in workers)

    world.attempts.hook = staticmethod(look)
    assert is_done(world.migrate(world.make()))
    assert seen
    assert set(seen) == {(7, "idle")}
    world.close()


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()]


def _is_worker(pid: int) -> bool:
    """Servers that other tests use are children, too."""
    return b"tierd.move.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()


def _io_class(pid: int) -> str:
    answer = subprocess.run(["ionice", "-p", str(pid)], capture_output=True, text=True, check=True)
    return answer.stdout.partition(":")[0].strip()


def test_a_rate_limit_holds(tmp_path: Path) -> None:
    world = World(tmp_path, hdd_rate=2_000_000)
    snapshot = world.make(files=4, size=1_000_000)
    begin = time.monotonic()
    assert is_done(world.migrate(snapshot))
    # The tier's rate is shared evenly over the two slots: 4 MB at 1 MB/s, with what may pass at once in the beginning.
    assert time.monotonic() - begin > 2
    world.close()


def test_several_transfers_run_at_once(world: World) -> None:
    orders = [world.order(world.make(name, files=2), TransferKind.MIGRATE) for name in ("v1", "v2", "v3")]
    running: set[int] = set()

    def look(_message: object) -> None:
        running.add(world.mover.running)

    world.attempts.hook = staticmethod(look)
    world.step()
    assert max(running) == world.config.mover.workers == 2
    for order in orders:
        assert is_done(world.finish(world.catalog.transfer(order.id)))


# -- other people ---------------------------------------------------------------------------------------------


def test_a_lease_stops_a_release_and_leaves_the_flash_copy_at_the_path(world: World) -> None:
    snapshot = world.make()
    world.catalog.grant_lease(snapshot_id=snapshot.id, holder="job", ttl=timedelta(hours=1), now=world.now)
    transfer = world.release(snapshot)
    assert transfer.state is TransferState.CANCELLED
    assert "job" in (transfer.error or "") or any("job" in e.message for e in world.catalog.events(limit=1000))
    assert not snapshot.path.is_symlink()
    assert world.residency(snapshot) is Residency.PREMIGRATED


def test_a_lease_granted_at_the_last_moment_brings_the_flash_copy_back(world: World) -> None:
    snapshot = world.make()
    before = digest_tree(snapshot.path)
    granted = []

    def grant(message: object) -> None:
        if getattr(message, "step", "") == "let go":
            assert snapshot.path.is_symlink()
            granted.append(
                world.catalog.grant_lease(
                    snapshot_id=snapshot.id, holder="late job", ttl=timedelta(hours=1), now=world.now
                )
            )

    world.attempts.hook = staticmethod(grant)
    transfer = world.release(snapshot)
    assert granted
    assert transfer.state is TransferState.CANCELLED
    assert not snapshot.path.is_symlink()
    assert digest_tree(snapshot.path) == before
    assert world.litter() == []


def _opener(path: Path, mode: str) -> subprocess.Popen[bytes]:
    """A process that holds a file (or, for mode "cwd", the directory) until its standard input closes."""
    script = {
        "read": "f = open(sys.argv[1], 'rb')",
        "write": "f = open(sys.argv[1], 'r+b')",
        "map": "import mmap; f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0); f.close()",
        "cwd": "os.chdir(sys.argv[1])",
    }[mode]
    code = f"import os, sys\n{script}\nprint('ready', flush=True)\nsys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.parametrize("mode", ["read", "write", "map", "cwd"])
def test_a_snapshot_in_use_is_not_released_and_says_by_whom(world: World, mode: str) -> None:
    snapshot = world.make()
    target = snapshot.path if mode == "cwd" else snapshot.path / "f0"
    user = _opener(target, mode)
    try:
        transfer = world.release(snapshot)
        assert transfer.state is TransferState.QUEUED
        assert transfer.error_code == "source_busy"
        assert not snapshot.path.is_symlink()
    finally:
        user.communicate(b"")
    assert is_done(world.finish(transfer))
    assert world.litter() == []


def test_a_file_opened_for_writing_between_verify_and_exchange_is_not_lost(world: World) -> None:
    snapshot = world.make()
    opened = []

    def open_late(message: object) -> None:
        if getattr(message, "step", "") == "switch the path" and not opened:
            opened.append(_opener(snapshot.path / "f0", "write"))

    world.attempts.hook = staticmethod(open_late)
    transfer = world.release(snapshot)
    assert opened
    assert transfer.error_code == "source_busy"
    assert not snapshot.path.is_symlink()
    opened[0].communicate(b"")


def test_a_write_between_proof_and_exchange_is_found_and_kept(world: World) -> None:
    snapshot = world.make()
    written = []

    def write_late(message: object) -> None:
        if getattr(message, "step", "") == "switch the path" and not written:
            (snapshot.path / "f0").write_bytes(b"the newest bytes")
            written.append(True)

    world.attempts.hook = staticmethod(write_late)
    transfer = world.release(snapshot)
    assert transfer.error_code == "source_changed"
    assert (snapshot.path / "f0").read_bytes() == b"the newest bytes"
    assert not snapshot.path.is_symlink()
    assert is_done(world.finish(transfer))
    assert (snapshot.path / "f0").read_bytes() == b"the newest bytes"
    assert world.litter() == []


def test_a_source_changed_during_the_copy_is_copied_again(world: World) -> None:
    snapshot = world.make()
    written = []

    def write(message: object) -> None:
        if getattr(message, "step", "") == "verify" and not written:
            (snapshot.path / "f0").write_bytes(b"changed while it was copied")
            written.append(True)

    world.attempts.hook = staticmethod(write)
    transfer = world.migrate(snapshot)
    assert transfer.error_code == "source_changed"
    assert is_done(world.finish(transfer))
    assert (world.roots[HDD] / "ds" / "v1" / "f0").read_bytes() == b"changed while it was copied"


def test_a_path_replaced_by_its_owner_is_never_touched(world: World) -> None:
    snapshot = world.make()
    before = digest_tree(snapshot.path)

    def replace(message: object) -> None:
        if getattr(message, "step", "") == "switch the path" and not (world.data / "mine").exists():
            snapshot.path.rename(world.data / "mine")
            snapshot.path.mkdir()
            (snapshot.path / "other").write_bytes(b"another tree")

    world.attempts.hook = staticmethod(replace)
    transfer = world.release(snapshot)
    assert transfer.state is not TransferState.DONE
    assert (snapshot.path / "other").read_bytes() == b"another tree"
    assert digest_tree(world.data / "mine") == before


def test_an_open_file_stays_readable_when_its_snapshot_is_recalled(world: World) -> None:
    snapshot = world.make()
    content = (snapshot.path / "f0").read_bytes()
    world.release(snapshot)
    with (snapshot.path / "f0").open("rb") as file:
        assert file.read(10) == content[:10]
        assert is_done(world.recall(snapshot))
        assert file.read() == content[10:]
    assert (snapshot.path / "f0").read_bytes() == content


# -- damage -----------------------------------------------------------------------------------------------------


def test_a_rotten_cold_file_is_not_brought_to_flash(world: World) -> None:
    snapshot = world.make()
    world.release(snapshot)
    cold = world.roots[HDD] / "ds" / "v1" / "f0"
    st = cold.stat()
    frozen = world.store(HDD)
    manifest_path = frozen.private / "manifests" / f"{snapshot.key}.db"
    # A bit flips below the file system: the bytes differ, inode, size and times do not. Simulated by editing the
    # file and recording the new times as if they had been there all along.
    sound = cold.read_bytes()
    cold.write_bytes(bytes([sound[0] ^ 1]) + sound[1:])
    os.utime(cold, ns=(st.st_atime_ns, st.st_mtime_ns))
    import sqlite3

    with sqlite3.connect(manifest_path) as db:
        db.execute("UPDATE entry SET copy_ctime_ns = ? WHERE path = ?", (cold.stat().st_ctime_ns, b"f0"))
    db.close()
    transfer = world.recall(snapshot)
    assert transfer.error_code == "corrupt"
    assert "f0" in (transfer.error or "")
    assert snapshot.path.is_symlink()


def test_a_damaged_cold_copy_stops_the_release(world: World) -> None:
    snapshot = world.make()
    world.migrate(snapshot)
    (world.roots[HDD] / "ds" / "v1" / "f0").unlink()
    transfer = world.release(snapshot)
    assert transfer.state is not TransferState.DONE
    assert not snapshot.path.is_symlink()
    assert (snapshot.path / "f0").exists()


def test_cancel_removes_the_unfinished_copy_and_says_so(world: World) -> None:
    snapshot = world.make(files=20)
    transfer = world.order(snapshot, TransferKind.MIGRATE)

    def cancel(message: object) -> None:
        if getattr(message, "step", "") == "verify":
            world.catalog.request_cancel(transfer.id, world.now)

    world.attempts.hook = staticmethod(cancel)
    transfer = world.run(transfer)
    assert transfer.state is TransferState.CANCELLED
    assert world.litter() == []
    assert world.residency(snapshot) is Residency.RESIDENT


def test_a_paused_transfer_goes_on_where_it_was(world: World) -> None:
    snapshot = world.make(files=20)
    transfer = world.order(snapshot, TransferKind.MIGRATE)

    def pause(message: object) -> None:
        if getattr(message, "step", "") == "verify":
            world.catalog.set_paused(transfer.id, True, world.now)

    world.attempts.hook = staticmethod(pause)
    assert world.run(transfer).state is TransferState.QUEUED
    world.step()
    assert world.catalog.transfer(transfer.id).state is TransferState.QUEUED
    world.attempts.hook = None
    world.catalog.set_paused(transfer.id, False, world.now)
    assert is_done(world.finish(world.catalog.transfer(transfer.id)))


# -- kill -9 of a worker at every single request, then of the daemon ---------------------------------------------------

_STORIES = {
    "migrate": (TransferKind.MIGRATE, False),
    "release": (TransferKind.MIGRATE, True),
    "recall": (TransferKind.RECALL, False),
}


def _prepare(world: World, story: str) -> tuple[object, dict[str, tuple[object, ...]]]:
    snapshot = world.make()
    before = digest_tree(snapshot.path)
    if story == "recall" and world.home == FLASH:
        world.release(snapshot)
    if story != "recall" and world.home == HDD:
        world.recall(snapshot)
    return snapshot, before


@pytest.mark.parametrize("story", list(_STORIES))
@pytest.mark.parametrize("daemon_dies", [False, True], ids=["worker", "daemon"])
def test_killed_at_any_request_nothing_is_lost_and_the_transfer_ends(
    tmp_path: Path, home: TierName, story: str, daemon_dies: bool
) -> None:
    kind, release = _STORIES[story]
    for at in range(1, 60):
        world = World(tmp_path / str(at), home=home) if (tmp_path / str(at)).mkdir() is None else None
        assert world is not None
        snapshot, before = _prepare(world, story)
        trap = Trap(at=at)
        transfer = world.order(snapshot, kind, release=release)  # type: ignore[arg-type]
        world.step(trap=trap)
        assert digest_tree(snapshot.path) == before, f"the path is wrong right after the kill at request {at}"  # type: ignore[attr-defined]
        if daemon_dies:
            world.restart()
            assert digest_tree(snapshot.path) == before  # type: ignore[attr-defined]
        assert is_done(world.finish(world.catalog.transfer(transfer.id)))
        assert digest_tree(snapshot.path) == before  # type: ignore[attr-defined]
        world.sweep()
        assert world.litter() == [], f"litter after the kill at request {at}"
        world.close()
        world.wipe()
        if not trap.fired:
            assert at > 2, "the trap must have sprung at several requests before the transfer outlived it"
            return
    pytest.fail("the transfer makes more requests than this test tries")
