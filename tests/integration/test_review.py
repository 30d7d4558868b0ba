"""Bad luck and bad intent between any two steps of a transfer: no byte is lost, none leaves the snapshot."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.world import FLASH, HDD, Trap, World, digest_tree, is_done
from tierd.daemon.observer import Observer
from tierd.daemon.sweeper import Sweeper
from tierd.daemon.tiers import Tiers
from tierd.model.dataset import SnapshotRef
from tierd.model.effect import MarkStale
from tierd.model.placement import Residency
from tierd.model.transfer import TransferKind, TransferState
from tierd.observe.choose import choose
from tierd.storage.base import Site
from tierd.storage.manifest import Entry, Manifest


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


def _everything(world: World) -> dict[bytes, Path]:
    """Contents of every file on both tiers, tierd's private directories included."""
    found: dict[bytes, Path] = {}
    for root in world.roots.values():
        for directory, _, files in os.walk(root):
            for name in files:
                path = Path(directory) / name
                if path.suffix != ".db" and not path.is_symlink():
                    found[path.read_bytes()] = path
    return found


def _at(step: str, action: object) -> object:
    done: list[bool] = []

    def hook(message: object) -> None:
        if getattr(message, "step", "") == step and not done:
            done.append(True)
            action()  # type: ignore[operator]

    return staticmethod(hook)


def _at_advance(new: TransferState, action: object) -> object:
    done: list[bool] = []

    def hook(message: object) -> None:
        if getattr(message, "new", None) is new and not done:
            done.append(True)
            action()  # type: ignore[operator]

    return staticmethod(hook)


# -- written while the path had been switched already ---------------------------------------------------------------


def test_written_at_the_path_while_tierd_was_down_in_the_middle_of_a_release(world: World) -> None:
    snapshot = world.make()
    world.migrate(snapshot)
    transfer = world.order(snapshot, TransferKind.MIGRATE, release=True)
    world.step(trap=Trap(step="check again"))
    assert snapshot.path.is_symlink()
    (snapshot.path / "f0").write_bytes(b"written through the link")
    (snapshot.path / "results").write_bytes(b"new through the link")
    world.restart()
    ended = world.run(transfer, attempts=3)
    assert (ended.state, ended.error_code) == (TransferState.FAILED, "superseded")
    assert ended.error is not None
    assert "Warm it" in ended.error
    assert (snapshot.path / "f0").read_bytes() == b"written through the link"
    assert (snapshot.path / "results").read_bytes() == b"new through the link"
    assert world.residency(snapshot) is Residency.MIGRATED
    newest = digest_tree(snapshot.path)
    assert is_done(world.finish(world.recall(snapshot)))
    assert not snapshot.path.is_symlink()
    assert digest_tree(snapshot.path) == newest
    assert is_done(world.finish(world.release(snapshot)))
    assert digest_tree(snapshot.path) == newest
    assert world.litter() == []


def test_written_at_the_path_before_a_late_lease_stops_the_release(world: World) -> None:
    snapshot = world.make()

    def write_and_hold() -> None:
        (snapshot.path / "results").write_bytes(b"new through the link")
        world.catalog.pin(snapshot.id, "operator", world.now)

    world.attempts.hook = _at("let go", write_and_hold)  # type: ignore[assignment]
    transfer = world.release(snapshot)
    assert transfer.state is not TransferState.DONE
    assert (snapshot.path / "results").read_bytes() == b"new through the link"


def test_written_at_the_path_before_a_recall_is_undone(world: World) -> None:
    snapshot = world.make()
    world.release(snapshot)
    cold = world.roots[HDD] / "ds" / "v1"

    def write_both() -> None:
        (cold / "log").write_bytes(b"by one who still is in the cold tree")
        (snapshot.path / "results").write_bytes(b"new at the path")

    world.attempts.hook = _at("check again", write_both)  # type: ignore[assignment]
    transfer = world.recall(snapshot)
    assert (snapshot.path / "results").read_bytes() == b"new at the path"
    world.attempts.hook = None
    world.run(transfer, attempts=10)
    assert (snapshot.path / "results").read_bytes() == b"new at the path"
    world.sweep()
    assert b"by one who still is in the cold tree" in _everything(world)


def test_written_by_a_process_whose_working_directory_is_in_the_cold_tree(world: World) -> None:
    snapshot = world.make()
    world.release(snapshot)
    code = "import os, sys; os.chdir(sys.argv[1]); print(); input(); open('mine', 'w').write('of the shell'); print()"
    command = [sys.executable, "-c", code, str(snapshot.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        shell.stdout.readline()
        assert is_done(world.recall(snapshot))
        shell.communicate(b"\n")
    assert b"of the shell" in _everything(world)
    (snapshot.path / "newer").write_bytes(b"newer")
    assert is_done(world.finish(world.release(snapshot)))
    world.sweep()
    assert b"of the shell" in _everything(world)
    assert (snapshot.path / "newer").read_bytes() == b"newer"


# -- the catalog says no -------------------------------------------------------------------------------------------


def test_a_release_that_the_catalog_refuses_at_the_last_moment_is_undone(world: World) -> None:
    snapshot = world.make()
    before = digest_tree(snapshot.path)

    def stale() -> None:
        world.catalog.apply(snapshot.id, [MarkStale(tier=HDD)], now=world.now)

    world.attempts.hook = _at("let go", stale)  # type: ignore[assignment]
    world.release(snapshot)
    assert not snapshot.path.is_symlink()
    assert digest_tree(snapshot.path) == before


def test_a_damaged_cold_copy_is_not_called_a_copy_any_more_and_is_made_anew(world: World) -> None:
    snapshot = world.make()
    before = digest_tree(snapshot.path)
    world.migrate(snapshot)
    (world.roots[HDD] / "ds" / "v1" / "f0").unlink()
    transfer = world.release(snapshot)
    assert not world.has(snapshot, HDD)
    assert is_done(world.finish(transfer))
    assert snapshot.path.is_symlink()
    assert digest_tree(snapshot.path) == before


def test_a_release_ordered_while_the_copy_is_made_is_not_forgotten(world: World) -> None:
    snapshot = world.make()
    transfer = world.order(snapshot, TransferKind.MIGRATE)

    def order() -> None:
        world.order(snapshot, TransferKind.MIGRATE, release=True)

    world.attempts.hook = _at("verify", order)  # type: ignore[assignment]
    assert is_done(world.finish(transfer))
    assert world.residency(snapshot) is Residency.MIGRATED


# -- where copies go ------------------------------------------------------------


def test_a_copy_never_takes_the_place_of_another_snapshots_copy(world: World) -> None:
    first = world.make("v1")
    before_first = digest_tree(first.path)
    transfer = world.order(first, TransferKind.MIGRATE)
    world.step(trap=Trap(step="publish"))  # dies, and is paused, with its place chosen but not taken
    world.catalog.set_paused(transfer.id, True, world.now)
    staged = next((world.roots[HDD] / ".tierd" / "staging").iterdir())

    with Manifest.open(staged / "manifest.db") as manifest:
        manifest.set_meta({"location": "ds/v1", "transfer": transfer.key, "side": "copy"})
    first.path.rename(world.data / "old")
    world.catalog.rename_snapshot(first.id, SnapshotRef("ds", "old"), world.data / "old", world.now)
    second = world.make("v1")
    before_second = digest_tree(second.path)
    assert is_done(world.finish(world.release(second)))
    world.catalog.set_paused(transfer.id, False, world.now)
    world.finish(world.catalog.transfer(transfer.id))
    assert digest_tree(second.path) == before_second
    assert digest_tree(world.data / "old") == before_first


def test_an_archive_that_comes_home_changed_is_still_the_same_snapshot(archive: World) -> None:
    snapshot = archive.make()
    archive.recall(snapshot)
    (snapshot.path / "sub" / "f1").write_bytes(b"new result")
    assert is_done(archive.finish(archive.release(snapshot)))
    assert archive.catalog.snapshot_by_id(snapshot.id).root_inode == snapshot.path.lstat().st_ino


def test_a_copy_published_but_not_named_is_finished_even_when_cancelled(world: World) -> None:
    snapshot = world.make()
    transfer = world.order(snapshot, TransferKind.MIGRATE)
    world.step(trap=Trap(step="to committed"))
    world.catalog.request_cancel(transfer.id, world.now)
    world.finish(transfer)
    there = world.roots[HDD] / "ds" / "v1"
    assert there.exists() == world.has(snapshot, HDD)


def test_a_copy_published_but_not_named_is_not_made_twice_when_paused(world: World) -> None:
    snapshot = world.make()
    transfer = world.order(snapshot, TransferKind.MIGRATE)
    world.step(trap=Trap(step="to committed"))
    world.attempts.hook = _at("publish", lambda: world.catalog.set_paused(transfer.id, True, world.now))  # type: ignore[assignment]
    world.step()
    world.attempts.hook = None
    if world.catalog.transfer(transfer.id).is_live:
        world.catalog.set_paused(transfer.id, False, world.now)
        world.finish(transfer)
    assert sorted(os.listdir(world.roots[HDD] / "ds")) == ["v1"]


def test_a_publish_that_failed_is_done_again_with_what_the_source_is_then(world: World) -> None:
    snapshot = world.make()
    blocker = world.roots[HDD] / "ds"
    blocker.write_bytes(b"in the way")
    transfer = world.migrate(snapshot)
    assert transfer.state is TransferState.QUEUED, transfer.error
    blocker.unlink()
    (snapshot.path / "f0").write_bytes(b"written meanwhile")
    assert is_done(world.finish(transfer))
    assert digest_tree(blocker / "v1") == digest_tree(snapshot.path)


def test_a_cold_copy_is_not_open_to_more_people_than_the_dataset(world: World) -> None:
    snapshot = world.make()
    world.data.chmod(0o700)
    assert is_done(world.migrate(snapshot))
    assert not stat.S_IMODE((world.roots[HDD] / "ds").stat().st_mode) & 0o077


# -- hostile owners -----------------------------------------------------------------------------------------------


def test_a_dataset_directory_swapped_for_a_link_is_not_followed(tmp_path: Path) -> None:
    world = World(tmp_path)
    (tmp_path / "private").mkdir(mode=0o700)
    victim = tmp_path / "private" / "v1"
    victim.mkdir()
    (victim / "secret").write_bytes(b"secret of another user")
    snapshot = world.make()
    transfer = world.order(snapshot, TransferKind.MIGRATE, release=True)
    world.data.rename(world.data.with_name("hidden"))
    world.data.symlink_to(victim.parent)
    before = digest_tree(victim)
    world.run(transfer, attempts=3)
    assert not victim.is_symlink()
    assert digest_tree(victim) == before
    assert list(_everything(world)).count(b"secret of another user") == 0
    world.close()


def test_another_tree_at_the_path_is_not_copied_as_the_snapshot(world: World) -> None:
    snapshot = world.make()
    transfer = world.order(snapshot, TransferKind.MIGRATE, release=True)
    snapshot.path.rename(world.data / "mine")
    snapshot.path.mkdir()
    (snapshot.path / "other").write_bytes(b"another snapshot")
    world.run(transfer, attempts=2)
    assert not snapshot.path.is_symlink()
    assert not (world.roots[HDD] / "ds" / "v1").exists()


# -- writers that leave no trace in the times --------------------------------------------------------------------------


@pytest.mark.mounts
def test_stores_into_a_mapping_after_the_copy_are_found(tmp_path: Path, ext4: Path, xfs: Path) -> None:
    base = tmp_path / "world"
    base.mkdir()
    world = World(base, flash=xfs / tmp_path.name, hdd=ext4 / tmp_path.name)
    snapshot = world.make(size=8192)
    code = """
import mmap, sys
f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0); f.close()
m[0] = 65
print(flush=True); sys.stdin.readline()
m[1] = 66
m.close()
print(flush=True)
"""
    command = [sys.executable, "-c", code, str(snapshot.path / "f0")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdin is not None
        writer.stdout.readline()

        def store() -> None:
            writer.stdin.write(b"\n")  # type: ignore[union-attr]
            writer.stdin.flush()  # type: ignore[union-attr]
            writer.stdout.readline()  # type: ignore[union-attr]

        world.attempts.hook = _at("copy: directories", store)  # type: ignore[assignment]
        transfer = world.migrate(snapshot)
        world.attempts.hook = None
        writer.communicate()
    world.finish(transfer)
    assert (world.roots[HDD] / "ds" / "v1" / "f0").read_bytes() == (snapshot.path / "f0").read_bytes()
    world.close()


# -- configuration -----------------------------------------------------------------------------------------------------


def test_a_dataset_taken_out_of_the_configuration_in_the_middle_of_a_release(world: World) -> None:
    snapshot = world.make()
    before = digest_tree(snapshot.path)
    transfer = world.order(snapshot, TransferKind.MIGRATE, release=True)
    world.step(trap=Trap(step="check again"))
    with_dataset = world.config
    world.config = replace(with_dataset, datasets=())
    world.restart()
    world.step()
    assert digest_tree(snapshot.path) == before
    world.config = with_dataset
    world.restart()
    assert is_done(world.finish(transfer))
    assert digest_tree(snapshot.path) == before
    assert world.residency(snapshot) is Residency.MIGRATED
    assert world.litter() == []


def test_changes_made_between_a_crash_and_the_next_start_are_not_taken_for_backed_up(world: World) -> None:
    snapshot = world.make()
    transfer = world.order(snapshot, TransferKind.MIGRATE)
    world.step(trap=Trap(step="to committed"))
    written_at = datetime.now(UTC)
    world.restart()
    assert is_done(world.finish(transfer))
    cold = next(p for p in world.catalog.placements(snapshot.id) if p.tier == HDD)
    assert cold.verified_at is not None
    assert cold.verified_at < written_at


def test_a_dataset_owner_reads_the_cold_copies_and_others_do_not(world: World) -> None:
    snapshot = world.make()
    (snapshot.path / "f0").chmod(0o644)
    for path in (world.data, snapshot.path):
        os.chown(path, 4321, 4321)
    snapshot.path.chmod(0o755)
    world.data.chmod(0o700)
    assert is_done(world.migrate(snapshot))
    cold = world.roots[HDD] / "ds"
    assert cold.stat().st_uid == os.geteuid()

    def can(user: int, action: str) -> bool:
        code = f"import os; os.setgroups([]); os.setgid({user}); os.setuid({user}); {action}"
        return subprocess.run([sys.executable, "-c", code], cwd=cold, capture_output=True, check=False).returncode == 0

    assert can(4321, "open('v1/f0', 'rb').read()")
    assert not can(4321, "os.rename('v1', 'v2')")
    assert not can(4322, "open('v1/f0', 'rb').read()")


def test_a_directory_above_the_dataset_swapped_for_a_link_is_not_followed(tmp_path: Path) -> None:
    world = World(tmp_path)
    victim = tmp_path / "private" / "ds" / "v1"
    victim.mkdir(parents=True)
    (victim / "secret").write_bytes(b"secret of another user")
    snapshot = world.make()
    transfer = world.order(snapshot, TransferKind.MIGRATE, release=True)
    above = world.data.parent
    above.rename(above.with_name("hidden"))
    above.symlink_to(tmp_path / "private")
    os.utime(victim, ns=(1, 1))
    before = digest_tree(victim)
    world.run(transfer, attempts=3)
    assert not victim.is_symlink()
    assert digest_tree(victim) == before
    assert b"secret of another user" not in _everything(world)
    world.close()


def test_the_daemon_becomes_ready_after_a_recall_that_was_cut_off_and_written_to(world: World) -> None:
    snapshot = world.make()
    world.release(snapshot)
    transfer = world.order(snapshot, TransferKind.RECALL)
    world.step(trap=Trap(step="check again"))
    assert not snapshot.path.is_symlink()
    (snapshot.path / "results").write_bytes(b"written before the restart")
    world.restart()
    observer = Observer(
        world.config,
        world.catalog,
        choose(world.config.observe, clock=lambda: datetime.now(UTC)),
        lambda: datetime.now(UTC),
        is_online=lambda _name: True,
        on_change=lambda: None,
    )
    observer.tick()
    assert observer.is_ready
    assert is_done(world.finish(transfer))
    assert (snapshot.path / "results").read_bytes() == b"written before the restart"
    assert world.catalog.snapshot(snapshot.ref).id == snapshot.id


def test_an_unfinished_copy_of_a_transfer_cancelled_while_it_waits_is_swept_while_the_daemon_runs(world: World) -> None:
    snapshot = world.make()
    transfer = world.order(snapshot, TransferKind.MIGRATE)
    world.attempts.hook = _at("verify", lambda: (snapshot.path / "f0").write_bytes(b"changed"))  # type: ignore[assignment]
    assert world.run(transfer).state is TransferState.QUEUED
    running = world.order(world.make("v2"), TransferKind.MIGRATE)
    world.catalog.set_paused(running.id, True, world.now)
    world.catalog.request_cancel(transfer.id, world.now)
    assert len(world.litter()) == 1
    tiers = Tiers(world.config.tiers, world.catalog, lambda: world.now, lambda _name: 0)
    tiers.look()
    sweeper = Sweeper(tiers, world.mover.live_keys)
    sweeper.start()
    for _ in range(100):
        if not world.litter():
            break
        time.sleep(0.05)
    sweeper.stop()
    assert world.litter() == []


def test_a_manifest_replaces_one_whose_writer_was_killed(world: World) -> None:
    """SQLite keeps a journal beside the file, by name: it must not be played back into another manifest."""
    snapshot = world.make()
    site = Site(snapshot_key=snapshot.key, dataset="ds", name="v1", location=None, home_path=bytes(snapshot.path))
    store = world.store(FLASH)

    def made(count: int, size: int) -> Path:
        path = world.base / f"{count}.db"
        with Manifest.create(path) as manifest:
            row = {"type": "f", "size": size, "mode": 0, "uid": 0, "gid": 0, "mtime_ns": 0, "atime_ns": 0}
            manifest.add(Entry(path=b"%06d" % n, **row) for n in range(count))  # type: ignore[arg-type]
            manifest.commit()
        return path

    with Manifest.open(made(20_000, 1)) as old, Manifest.open(made(19_000, 2)) as new:
        store.save_manifest(site, old, "source")
        path = store.private / "manifests" / f"{snapshot.key}.db"
        code = """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("PRAGMA cache_size = 10")
db.execute("UPDATE entry SET size = 3")
os.kill(os.getpid(), signal.SIGKILL)
"""
        subprocess.run([sys.executable, "-c", code, str(path)], check=False)
        assert path.with_name(path.name + "-journal").exists()
        store.save_manifest(site, new, "source")
        found = store.manifest(site)
        assert found is not None
        with found:
            assert [e.size for e in found.entries()] == [2] * 19_000
            assert found.content_id() == new.content_id()


# -- containers ---------------------------------------------------------------------------------------------------


@pytest.mark.mounts
@pytest.mark.parametrize("part", [".", "sub", "f0"])
def test_a_snapshot_that_a_container_has_mounted_is_not_released(
    world: World, needs_root: None, tmp_path: Path, part: str
) -> None:
    """The container keeps the flash tree whatever becomes of the path, also while it has nothing open."""
    snapshot = world.make()
    inside = tmp_path / "data in the container"
    if part == "f0":
        inside.touch()
    else:
        inside.mkdir()
    code = """
import subprocess, sys
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
subprocess.run(["mount", "--bind", sys.argv[1], sys.argv[2]], check=True)
print(flush=True)
sys.stdin.read()
"""
    command = ["unshare", "--mount", sys.executable, "-c", code, str(snapshot.path / part), str(inside)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as container:
        assert container.stdout is not None
        assert container.stdout.readline() == b"\n"
        transfer = world.release(snapshot)
        assert transfer.error_code == "source_busy", transfer.error
        assert "data in the container" in (transfer.error or "")
        assert not snapshot.path.is_symlink()
        container.communicate(b"")
    assert is_done(world.finish(transfer))
    assert snapshot.path.is_symlink()
