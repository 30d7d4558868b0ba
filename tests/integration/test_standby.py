"""Transfers by workers that were started ahead."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.seaweed import Seaweed
from tests.world import Trap, World, digest_tree, is_done, s3_settings
from tierd.config import MoverConfig
from tierd.model.transfer import TransferKind
from tierd.move.messages import Report

_NICE = 7


@pytest.fixture
def world(tmp_path: Path, seaweed: Seaweed) -> Iterator[World]:
    settings = MoverConfig(backoff_s=0.0, release_wait_s=0.5, nice=_NICE, io_class="idle", busy_io=None)
    world = World(tmp_path, s3=s3_settings(tmp_path, seaweed.endpoint), mover=settings)
    yield world
    world.close()


def workers() -> set[int]:
    """Worker processes of this one that live."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            if b"tierd.move.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(int(pid))
    return found


def the_worker() -> int:
    """The only one, once its program is loaded: before that it has no command line."""
    deadline = time.monotonic() + 60
    while len(found := workers()) != 1:
        assert time.monotonic() < deadline, f"{len(found)} workers"
        time.sleep(0.01)
    return found.pop()


def state_of(pid: int) -> tuple[int, str, str]:
    """Niceness, I/O class and file creation mask of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    (umask,) = (line.split()[1] for line in status.splitlines() if line.startswith("Umask:"))
    io_class = subprocess.run(["ionice", "-p", str(pid)], check=True, stdout=subprocess.PIPE, text=True).stdout
    return os.getpriority(os.PRIO_PROCESS, pid), io_class.strip(), umask


def test_the_next_transfer_is_carried_out_by_the_one_that_is_ready(world: World) -> None:
    snapshot, seen = world.make(), dict[int, tuple[int, str, str]]()

    def look(message: object) -> None:
        if isinstance(message, Report):
            seen.update({pid: state_of(pid) for pid in workers()})

    before = digest_tree(snapshot.path)
    world.attempts.hook = staticmethod(look)
    assert is_done(world.release(snapshot))
    (first,) = seen
    assert workers() == set()
    world.mover.look_ahead()
    ready = the_worker()
    assert is_done(world.recall(snapshot))
    assert set(seen) == {first, ready}
    assert seen[first] == seen[ready] == (_NICE, "idle", "0000")
    assert digest_tree(snapshot.path) == before
    assert world.litter() == []


def test_one_that_was_killed_while_it_waited_costs_nothing(world: World) -> None:
    snapshot = world.make()
    assert is_done(world.release(snapshot))
    world.mover.look_ahead()
    ready = the_worker()
    os.kill(ready, signal.SIGKILL)
    assert is_done(world.recall(snapshot))  # in one attempt
    assert not [event for event in world.catalog.events() if event.kind == "transfer.interrupted"]


def test_a_transfer_goes_on_when_its_worker_dies_that_was_started_ahead(world: World) -> None:
    snapshot = world.make()
    before = digest_tree(snapshot.path)
    assert is_done(world.release(snapshot))
    for request in (1, 3, 5):
        world.mover.look_ahead()
        recall = world.order(snapshot, TransferKind.RECALL)
        trap = Trap(at=request)
        world.step(trap=trap)
        assert trap.fired
        world.mover.look_ahead()
        assert is_done(world.finish(recall))
        assert digest_tree(snapshot.path) == before
        assert is_done(world.release(snapshot))
    assert world.litter() == []


def test_none_is_left_when_the_mover_stops(world: World) -> None:
    assert is_done(world.release(world.make()))
    world.mover.look_ahead()
    the_worker()
    world.mover.stop(5)
    assert workers() == set()
