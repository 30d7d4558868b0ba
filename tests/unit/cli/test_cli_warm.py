"""`tierd warm`: the path alone on standard output, whatever else there is to say."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.api_world import FLASH, ApiWorld
from tests.unit.cli.conftest import Call, Started


@contextmanager
def recalls_finish(world: ApiWorld) -> Iterator[None]:
    """Whatever is queued is finished a moment later, as a mover would."""
    stop = threading.Event()

    def move() -> None:
        while not stop.wait(0.05):
            for transfer in world.catalog.transfers(live_only=True):
                world.finish_recall(transfer)

    mover = threading.Thread(target=move)
    mover.start()
    try:
        yield
    finally:
        stop.set()
        mover.join()


def until_waiting(world: ApiWorld) -> None:
    deadline = time.monotonic() + 20
    while not world.catalog.transfers(live_only=True):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def fill_flash(world: ApiWorld) -> None:
    usage = world.ports.usages[FLASH]
    world.ports.usages[FLASH] = replace(usage, used_bytes=usage.capacity_bytes, free_bytes=0)


def test_what_is_printed_is_the_path_and_nothing_else(world: ApiWorld, start: Started) -> None:
    snapshot = world.add_migrated("v3")
    with recalls_finish(world):
        out, err = start("warm", "imagenet/v3", "--wait", "--lease", "8h").communicate(timeout=60)
    assert out == f"{snapshot.path}\n"
    (lease,) = world.catalog.holds(now=world.now)
    assert f"lease {lease.id} holds imagenet/v3 until" in err
    assert f"`tierd lease end {lease.id}` ends it" in err
    assert "imagenet/v3: queued, 0%, 0 B of 954 MiB" in err
    # Its holder is the process that called, which goes on when the command has ended.
    assert f"pid {os.getpid()}" in lease.holder


def test_quiet_is_quiet(world: ApiWorld, call: Call) -> None:
    snapshot = world.add("v3")
    result = call("warm", "imagenet/v3", "--wait", "-q")
    assert (result.stdout, result.stderr, result.exit_code) == (f"{snapshot.path}\n", "", 0)


def test_without_wait_the_path_is_there_at_once(world: ApiWorld, call: Call) -> None:
    snapshot = world.add_migrated("v3")
    result = call("warm", "imagenet/v3", "--note", "night run")
    assert result.stdout == f"{snapshot.path}\n"
    assert "is on its way to flash by transfer 1, in about 1s" in result.stderr
    assert [h.note for h in world.catalog.holds(now=world.now)] == ["night run"]


def test_json_is_the_answer_of_the_daemon(world: ApiWorld, call: Call) -> None:
    world.add("v3")
    answer = json.loads(call("warm", "imagenet/v3", "--wait", "--json").stdout)
    assert (answer["answer"], answer["receipt"]["tier"], answer["lease"]["id"]) == ("ready", "flash", 1)


def test_a_refusal_exits_with_6_and_prints_no_path(world: ApiWorld, call: Call) -> None:
    world.add_migrated("v3")
    fill_flash(world)
    result = call("warm", "imagenet/v3", "--wait")
    assert (result.stdout, result.exit_code) == ("", 6)
    message, hint = result.stderr.splitlines()
    assert message.startswith("tierd: imagenet/v3 cannot be warmed: ")
    assert "tierd explain imagenet/v3" in hint


def test_a_fallback_prints_the_cold_path_and_says_why(world: ApiWorld, call: Call) -> None:
    snapshot = world.add_migrated("v3")
    fill_flash(world)
    result = call("warm", "imagenet/v3", "--wait", "--fallback", "-q")
    assert (result.stdout, result.exit_code) == (f"{snapshot.path}\n", 0)
    assert "this is the cold copy" in result.stderr
    answer = json.loads(call("warm", "imagenet/v3", "--fallback", "--json").stdout)
    assert (answer["answer"], answer["lease"]) == ("fallback", None)


def test_a_timeout_exits_with_124_and_gives_the_lease_back(world: ApiWorld, call: Call) -> None:
    world.add_migrated("v3")
    result = call("warm", "imagenet/v3", "--wait", "--timeout", "0.1s")
    assert (result.stdout, result.exit_code) == ("", 124)
    assert "`tierd cancel 1` stops it" in result.stderr
    assert world.catalog.holds(now=world.now) == []


def test_ctrl_c_exits_with_130_and_gives_the_lease_back(world: ApiWorld, start: Started) -> None:
    world.add_migrated("v3")
    child = start("warm", "imagenet/v3", "--wait")
    until_waiting(world)
    time.sleep(0.5)  # the daemon knows of the transfer a moment before the command knows
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=20)
    assert (out, child.returncode) == ("", 130)
    assert "Traceback" not in err
    assert world.catalog.holds(now=world.now) == []


def test_sigterm_gives_the_lease_back(world: ApiWorld, start: Started) -> None:
    world.add_migrated("v3")
    child = start("warm", "imagenet/v3", "--wait")
    until_waiting(world)
    time.sleep(0.5)
    child.terminate()
    _, err = child.communicate(timeout=20)
    assert (child.returncode, "Traceback" in err) == (143, False)
    assert world.catalog.holds(now=world.now) == []


def test_exec_runs_the_command_with_the_path_and_exits_like_it(world: ApiWorld, start: Started, tmp_path: Path) -> None:
    snapshot = world.add_migrated("v3")
    script = "import os, sys; print(sys.argv[1], os.environ['TIERD_PATH'], sep='|'); sys.exit(7)"
    with recalls_finish(world):
        child = start("warm", "imagenet/v3", "--exec", "--", sys.executable, "-c", script, "--data={}")
        out, _ = child.communicate(timeout=60)
    assert out == f"--data={snapshot.path}|{snapshot.path}\n"
    assert child.returncode == 7
    assert world.catalog.holds(now=world.now) == []
    assert len(world.events_of(snapshot.id)) > 2


def test_exec_holds_the_snapshot_while_the_command_runs(world: ApiWorld, start: Started) -> None:
    world.add("v3")
    child = start("warm", "imagenet/v3", "--exec", "--", "sleep", "60")
    deadline = time.monotonic() + 20
    while not world.catalog.holds(now=world.now):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.5)  # granted; now the command is started
    assert child.poll() is None
    child.terminate()
    child.communicate(timeout=20)
    assert child.returncode == 128 + signal.SIGTERM
    assert world.catalog.holds(now=world.now) == []


def test_exec_of_nothing_that_runs(world: ApiWorld, call: Call, tmp_path: Path) -> None:
    world.add("v3")
    assert call("warm", "imagenet/v3", "--exec", "--", "no-such-command-anywhere").exit_code == 127
    assert call("warm", "imagenet/v3", "--exec", "--", str(tmp_path)).exit_code == 126
    assert call("warm", "imagenet/v3", "--exec").exit_code == 2
    assert call("warm", "imagenet/v3", "--", "ls").exit_code == 2
    assert world.catalog.holds(now=world.now) == []


def test_a_lease_that_is_no_duration_is_told_before_anything_is_asked(call: Call) -> None:
    result = call("warm", "imagenet/v3", "--lease", "soon")
    assert result.exit_code == 2
    assert "'soon' is not a duration" in result.stderr
