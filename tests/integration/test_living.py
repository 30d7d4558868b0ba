"""Leases end with what they are tied to: a process that is killed, a job that is over, a machine that was booted."""

from __future__ import annotations

import contextlib
import os
import resource
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from tests.api_world import ApiWorld, api_world, listening
from tierd.catalog.schema import hold
from tierd.client import Tie, Tierd
from tierd.daemon.living import Living, tie_to
from tierd.daemon.slurm import Jobs
from tierd.errors import Conflict, Held
from tierd.model.dataset import SnapshotRef
from tierd.model.hold import Hold
from tierd.model.transfer import TransferKind, TransferState


def eventually(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ApiWorld]:
    with api_world(tmp_path) as made:
        made.add("v1")
        yield made


@pytest.fixture
def tierd(world: ApiWorld, tmp_path: Path) -> Iterator[Tierd]:
    with listening(world) as server:
        yield Tierd(f"unix://{server.socket}")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def living(world: ApiWorld, jobs: Jobs | None = None) -> Living:
    return Living(world.catalog, world.clock, jobs)


def held(world: ApiWorld) -> list[Hold]:
    return world.catalog.holds(now=world.now)


def test_a_lease_ends_when_its_process_is_killed(
    world: ApiWorld, tierd: Tierd, sleeper: subprocess.Popen[bytes]
) -> None:
    lease = tierd.grant_lease("imagenet/v1", "8h", tie=Tie(pid=sleeper.pid))
    assert lease.pid == sleeper.pid
    watcher = living(world)
    watcher.look()
    assert [h.id for h in held(world)] == [lease.id]
    sleeper.kill()  # not waited for: what is left of it is no holder
    eventually(lambda: Path(f"/proc/{sleeper.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
    watcher.look()
    assert held(world) == []
    told = [e for e in world.catalog.events(limit=99) if e.kind == "lease.ended"]
    assert told[-1].message == f"process {sleeper.pid} ended"
    watcher.stop()


def test_a_lease_goes_on_while_its_process_lives(
    world: ApiWorld, tierd: Tierd, sleeper: subprocess.Popen[bytes]
) -> None:
    """Also over a time in which no daemon ran: the process is still there."""
    tierd.grant_lease("imagenet/v1", "1h", tie=Tie(pid=sleeper.pid))
    world.later(hours=30)
    watcher = living(world)
    watcher.look()
    assert world.catalog.expire_leases(world.now) == []
    (lease,) = held(world)
    assert lease.expires_at is not None
    assert (lease.expires_at - world.now).total_seconds() == 3600
    watcher.stop()


@pytest.mark.parametrize("changed", [{"pid_started": 12}, {"boot_id": "another"}])
def test_another_process_of_the_same_number_holds_nothing(
    world: ApiWorld, tierd: Tierd, sleeper: subprocess.Popen[bytes], changed: dict[str, object]
) -> None:
    tierd.grant_lease("imagenet/v1", "8h", tie=Tie(pid=sleeper.pid))
    with world.catalog._writing() as conn:
        conn.execute(update(hold).values(**changed))
    watcher = living(world)
    watcher.look()
    assert held(world) == []
    watcher.stop()


def test_exec_keeps_the_lease_and_children_do_not_matter(world: ApiWorld, tierd: Tierd) -> None:
    script = "import os, sys; os.fork() or os._exit(0); sys.stdin.read(1); os.execvp('cat', ['cat'])"
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE)
    assert process.stdin is not None
    tierd.grant_lease("imagenet/v1", "8h", tie=Tie(pid=process.pid))
    watcher = living(world)
    watcher.look()
    process.stdin.write(b"x")
    process.stdin.flush()
    eventually(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "cat\n")
    watcher.look()
    assert len(held(world)) == 1
    process.stdin.close()
    process.wait()
    watcher.look()
    assert held(world) == []
    watcher.stop()


def test_a_thousand_leases_of_one_process_take_one_descriptor(
    world: ApiWorld, sleeper: subprocess.Popen[bytes]
) -> None:
    snapshot = world.catalog.snapshot(SnapshotRef("imagenet", "v1"))
    tie = tie_to(sleeper.pid)
    for _ in range(1000):
        world.catalog.grant_lease(snapshot_id=snapshot.id, holder="job", ttl=timedelta(hours=1), now=world.now, tie=tie)
    before = len(os.listdir("/proc/self/fd"))
    watcher = living(world)
    watcher.look()
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    sleeper.kill()
    sleeper.wait()
    watcher.look()
    assert held(world) == []
    watcher.stop()


def test_want_of_descriptors_ends_no_lease(world: ApiWorld, sleeper: subprocess.Popen[bytes]) -> None:
    """What cannot be asked is not dead; once there are descriptors again, it is watched."""
    snapshot = world.catalog.snapshot(SnapshotRef("imagenet", "v1"))
    world.catalog.grant_lease(
        snapshot_id=snapshot.id, holder="job", ttl=timedelta(hours=1), now=world.now, tie=tie_to(sleeper.pid)
    )
    watcher, taken = living(world), list[int]()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    watcher.look()  # the catalog has its connection by now
    watcher.stop()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
        with contextlib.suppress(OSError):  # until there is none left
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        watcher.look()
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(held(world)) == 1
    watcher.look()
    sleeper.kill()
    sleeper.wait()
    watcher.look()
    assert held(world) == []
    watcher.stop()


def test_a_dead_process_cannot_hold(tierd: Tierd) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(Conflict, match=f"there is no process {gone.pid}"):
        tierd.grant_lease("imagenet/v1", "8h", tie=Tie(pid=gone.pid))


def test_a_containers_number_of_a_process_is_refused_and_its_script_is_known_all_the_same(
    world: ApiWorld, tierd: Tierd
) -> None:
    """In a namespace of its own the script is process 1; named by itself it would hold for as long as init lives."""
    if os.getuid() != 0:
        pytest.skip("making a namespace of process numbers needs root")
    script = f"""
import os, sys, time
from tierd.client import Tie, Tierd
from tierd.errors import Conflict
tierd = Tierd({tierd.connection.address.url!r})
try:
    tierd.grant_lease("imagenet/v1", "8h", tie=Tie(pid=os.getpid()))
except Conflict as e:
    print(os.getpid(), "refused" if "container" in e.message else e, flush=True)
tierd.warm("imagenet/v1", lease="8h")
print("warm", flush=True)
time.sleep(600)
"""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", script]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "1 refused\n"
    assert process.stdout.readline() == "warm\n"
    (lease,) = held(world)
    assert lease.tie is not None
    assert lease.tie.pid not in (1, None)
    watcher = living(world)
    watcher.look()
    assert len(held(world)) == 1
    process.kill()  # and with it what is in its namespace
    process.communicate()
    eventually(lambda: not Path(f"/proc/{lease.tie.pid}").exists())
    watcher.look()
    assert held(world) == []
    watcher.stop()


def test_a_warm_ends_with_its_script_even_when_that_is_killed(world: ApiWorld, tierd: Tierd) -> None:
    """kill -9 leaves no time to give the lease back."""
    script = f"""
import sys, time
from tierd.client import Tierd
Tierd({tierd.connection.address.url!r}).warm("imagenet/v1", lease="8h")
print("warm", flush=True)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"warm\n"
    (lease,) = held(world)
    assert lease.tie is not None
    assert lease.tie.pid == process.pid
    watcher = living(world)
    watcher.look()
    process.kill()
    process.communicate()
    watcher.look()
    assert held(world) == []
    watcher.stop()


def test_a_lease_that_is_kept_outlives_its_script(world: ApiWorld, tierd: Tierd) -> None:
    handle = tierd.warm("imagenet/v1", lease="8h")
    (before,) = held(world)
    assert before.tie is not None
    handle.keep()
    (after,) = held(world)
    assert (after.id, after.tie, after.holder) == (before.id, None, before.holder)


def test_a_hand_over_leaves_no_gap(world: ApiWorld, tierd: Tierd, sleeper: subprocess.Popen[bytes]) -> None:
    """A release that is asked for again and again never gets through between two holders."""
    snapshot = world.catalog.snapshot(SnapshotRef("imagenet", "v1"))
    world.put_cold_copy(snapshot)
    lease = tierd.grant_lease("imagenet/v1", "8h", holder="prolog")
    t = world.enqueue(snapshot, TransferKind.MIGRATE, release=True)
    is_over, let_through = threading.Event(), []

    def release() -> None:
        while not is_over.is_set():
            try:
                world.catalog.advance(t.id, TransferState.QUEUED, TransferState.RELEASING, now=world.now)
            except Held:
                continue
            let_through.append(True)
            return

    thread = threading.Thread(target=release)
    thread.start()
    for number in range(20):
        tie = Tie(pid=sleeper.pid) if number % 2 else None
        lease = tierd.hand_over(lease.id, "8h", holder=f"holder {number}", tie=tie, generation=lease.generation)
    is_over.set()
    thread.join()
    assert not let_through
    assert (held(world)[0].holder, lease.generation) == ("holder 19", 21)
    with pytest.raises(Conflict, match="generation"):
        tierd.hand_over(lease.id, "8h", generation=3)
    tierd.end_lease(lease.id)
    with pytest.raises(Conflict, match="has ended"):
        tierd.hand_over(lease.id, "8h")


def test_what_was_handed_over_meanwhile_does_not_end_with_its_former_holder(
    world: ApiWorld, tierd: Tierd, sleeper: subprocess.Popen[bytes]
) -> None:
    """The look at who lives and the hand-over cross each other."""
    lease = tierd.grant_lease("imagenet/v1", "8h", tie=Tie(pid=sleeper.pid))
    seen = world.catalog.tied_leases()
    tierd.hand_over(lease.id, "8h", holder="the job")
    world.catalog.end_tied(seen, world.now, "process ended")
    assert [h.holder for h in held(world)] == ["the job"]


# -- jobs ----------------------------------------------------------------------------------------------------


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A squeue that prints what stands in a file; without the file it fails."""
    said = tmp_path / "said"
    program = tmp_path / "bin" / "squeue"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\ncat "{said}" || {{ echo "controller is down" >&2; exit 1; }}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return said


def test_a_lease_ends_when_its_job_is_over(world: ApiWorld, tierd: Tierd, squeue: Path) -> None:
    lease = tierd.grant_lease("imagenet/v1", "1h", tie=Tie(job="991"))
    other = tierd.grant_lease("imagenet/v1", "1h", tie=Tie(job="992_7"))
    assert (lease.job, other.job) == ("991", "992_7")
    jobs = Jobs(every_s=0.05)
    watcher = living(world, jobs)
    watcher.look()
    eventually(lambda: jobs.trouble is not None)  # the controller cannot be asked: nothing ends
    watcher.look()
    assert len(held(world)) == 2
    squeue.write_text("991 991 RUNNING\n992_7 1003 PENDING\n")
    eventually(lambda: jobs.states({"991", "992_7"}) == {"991": True, "992_7": True})
    world.later(minutes=50)
    watcher.look()
    world.later(minutes=50)
    assert world.catalog.expire_leases(world.now) == []  # they went on
    squeue.write_text("992_7 1003 COMPLETED\n")
    eventually(lambda: jobs.states({"991", "992_7"}) == {"991": False, "992_7": False})
    watcher.look()
    assert held(world) == []
    watcher.stop()


def test_a_job_without_slurm_holds_for_its_time(
    world: ApiWorld, tierd: Tierd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    tierd.grant_lease("imagenet/v1", "1h", tie=Tie(job="991"))
    jobs = Jobs(every_s=0.05)
    watcher = living(world, jobs)
    watcher.look()
    eventually(lambda: jobs.trouble == "there is no squeue in PATH")
    world.later(hours=2)
    watcher.look()
    assert len(world.catalog.expire_leases(world.now)) == 1
    watcher.stop()
