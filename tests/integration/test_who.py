"""Who a process is, asked of real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tierd.model.observation import Reader
from tierd.observe.who import Ignored, Process, Who

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="other users, namespaces and control groups need root")

_STAYS = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"
_NAMED = "import ctypes; ctypes.CDLL(None).prctl(15, {name!r}.encode(), 0, 0, 0); "


@contextmanager
def running(code: str = _STAYS, *, name: str | None = None) -> Iterator[int]:
    """A process that stays until the end of the block."""
    begin = "" if name is None else _NAMED.format(name=name)
    command = [sys.executable, "-c", begin + code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()


def outsider(**more: object) -> Who:
    """One for whom nothing is our own."""
    return Who(ours=None, **more)  # type: ignore[arg-type]


def test_a_process_is_known_by_name_and_user() -> None:
    with running(name="train (v2) x") as pid:
        found = outsider().look(pid)
    assert (found.reader.program, found.reader.uid) == ("train (v2) x", os.geteuid())
    assert (found.is_ours, found.is_ignored, found.is_gone) == (False, False, False)


@needs_root
def test_the_user_is_the_one_whose_rights_it_has() -> None:
    with running("import os; os.setresuid(0, 65534, 0); " + _STAYS) as pid:
        assert outsider().look(pid).reader.uid == 65534


def test_a_name_cannot_hold_what_terminals_obey() -> None:
    with running(name="a\x1b[2Jb\nc") as pid:
        assert outsider().look(pid).reader.program == "a?[2Jb?c"


def test_the_daemon_and_all_below_it_are_ours() -> None:
    who = Who()
    assert who.look(os.getpid()).is_ours
    grandchild = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_STAYS!r}])"
    with running() as child, running(grandchild) as below:
        assert who.look(child).is_ours
        assert who.look(below).is_ours
    assert not who.look(1).is_ours


def test_programs_and_users_that_are_ignored() -> None:
    with running(name="restic") as pid:
        assert outsider(ignored=Ignored(programs=["rest*"])).look(pid).is_ignored
        assert outsider(ignored=Ignored(users=[os.geteuid()])).look(pid).is_ignored
        assert not outsider(ignored=Ignored(programs=["borg"], users=[4711])).look(pid).is_ignored


@needs_root
def test_control_groups_name_the_job_and_can_be_ignored() -> None:
    base = next((p for p in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup/cpu")) if p.is_dir()), None)
    base = base or Path("/sys/fs/cgroup")
    group = base / "slurm" / "uid_0" / f"job_{os.getpid()}"
    try:
        group.mkdir(parents=True)
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        with running() as pid:
            (group / "cgroup.procs").write_text(str(pid))
            assert outsider().look(pid).reader.job == f"slurm:{os.getpid()}"
            assert outsider(ignored=Ignored(cgroups=["/slurm/*"])).look(pid).is_ignored
    finally:
        for directory in (group, group.parent, group.parent.parent):
            for _ in range(100):  # a group is busy until the kernel has buried its last process
                try:
                    directory.rmdir()
                    break
                except OSError:
                    time.sleep(0.01)


def test_without_attribution_nothing_about_persons_is_kept() -> None:
    who = outsider(names_readers=False, ignored=Ignored(programs=["restic"]))
    with running(name="python3") as pid, running(name="restic") as backup:
        assert who.look(pid) == Process()
        assert who.look(backup).is_ignored
    assert Who(names_readers=False).look(os.getpid()).is_ours


def test_a_process_that_is_gone_is_nobody_unless_it_was_known() -> None:
    who = outsider()
    with running(name="known") as pid:
        assert who.look(pid).reader.program == "known"
    assert who.look(pid).reader.program == "known"
    fresh = outsider().look(pid)
    assert (fresh.is_gone, fresh.reader) == (True, Reader())
    assert outsider().look(0).is_gone
    assert outsider().look(2**30).is_gone


_NUMBERED = """
import ctypes, os, sys, time
sys.path.insert(0, {root!r})
from tierd.observe import who as module
from tierd.observe.who import Ignored, Who
wait, ready = os.pipe()
def child(number, name, then=None):
    with open("/proc/sys/kernel/ns_last_pid", "w") as last:
        last.write(str(number - 1))
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(15, name, 0, 0, 0)
        if then is not None:
            then()
        os.write(ready, b".")
        time.sleep(60)
    os.read(wait, 1)
    return pid
def end(pid):
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    time.sleep(0.02)  # start times count in hundredths of a second
"""


def numbered(code: str, *, is_first: bool = False) -> str:
    """What it prints in a namespace in which numbers can be given out anew; `is_first`: as process number 1."""
    command = [sys.executable, "-c", _NUMBERED.format(root=str(Path(__file__).parents[2])) + code]
    if not is_first:
        command = ["sh", "-c", '"$@"; exit $?', "sh", *command]
    command = ["unshare", "--pid", "--fork", "--mount-proc", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "ns_last_pid" in done.stderr:
        pytest.skip("this kernel does not let process numbers be chosen")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_root
def test_another_process_with_the_same_number_is_another() -> None:
    code = """
module._FRESH_S = 0.0
who = Who(ours=None)
for uid in (1000, 2000):
    pid = child(5000, b"train", lambda: os.setresuid(0, uid, 0))
    print(pid, who.look(pid).reader.program, who.look(pid).reader.uid)
    end(pid)
"""
    assert numbered(code) == "5000 train 1000\n5000 train 2000"


@needs_root
def test_the_children_of_one_that_has_the_number_of_an_old_worker_are_not_ours() -> None:
    code = """
who = Who()
worker = child(5000, b"worker")
print(who.look(worker).is_ours)
end(worker)
who.ours = 4000  # so that whatever is started from here is somebody else's
shell = child(5000, b"shell", lambda: child(6000, b"train"))
print(who.look(6000).is_ours, who.look(6000).reader.program)
"""
    assert numbered(code) == "True\nFalse train"


@needs_root
def test_a_stranger_that_ended_too_soon_is_not_taken_for_the_one_that_had_its_number_long_ago() -> None:
    code = """
who = Who()
worker = child(5000, b"worker")
end(worker) if who.look(worker).is_ours else None
print(who.look(worker).is_ours)
monotonic = time.monotonic
time.monotonic = lambda: monotonic() + 60.0
print(who.look(worker).is_ours, who.look(worker).is_gone)
"""
    assert numbered(code) == "True\nFalse True"


@needs_root
def test_the_workers_of_a_daemon_that_is_the_first_process_of_a_container_are_ours() -> None:
    code = """
worker = child(5000, b"worker", lambda: child(6000, b"below"))
who = Who()
print(os.getpid(), who.look(1).is_ours, who.look(worker).is_ours, who.look(6000).is_ours)
"""
    assert numbered(code, is_first=True) == "1 True True True"


@needs_root
def test_a_process_that_becomes_another_program_is_that_program() -> None:
    """A shell opens a file, and then executes the backup."""
    code = """
module._FRESH_S = 0.0
who = Who(ours=None, ignored=Ignored(programs=["restic"]))
go, gone = os.pipe()
def backup():
    os.write(ready, b".")
    os.read(go, 1)
    os.execv("/bin/sh", ["sh", "-c", "printf restic >/proc/$$/comm; echo >&%d; read forever" % ready])
os.set_inheritable(ready, True)
pid = child(5000, b"sh", backup)
print(who.look(pid).is_ignored)
os.write(gone, b".")
os.read(wait, 1)
print(who.look(pid).is_ignored)
end(pid)
"""
    assert numbered(code) == "False\nTrue"


@needs_root
def test_who_a_process_is_is_asked_anew_after_a_while() -> None:
    """It may be put into a job, or take another user, long after it was first seen."""
    code = """
who = Who(ours=None)
def changes():
    os.write(ready, b".")
    os.read(go, 1)
    os.setresuid(0, 65534, 0)
go, gone = os.pipe()
pid = child(5000, b"train", changes)
print(who.look(pid).reader.uid)
os.write(gone, b".")
os.read(wait, 1)
monotonic = time.monotonic
time.monotonic = lambda: monotonic() + 60.0
print(who.look(pid).reader.uid)
end(pid)
"""
    assert numbered(code) == "0\n65534"


def test_a_storm_of_forks_keeps_little() -> None:
    who = outsider()
    with running() as pid:
        for number in range(100_000):
            who.look(pid if number % 1000 == 0 else 3_000_000 + number)
        assert len(who._known) <= 4096
        assert who.look(pid).reader.uid == os.geteuid()  # the known are still answered when there is no time to ask
