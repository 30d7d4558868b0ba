"""This machine's own tree, booted by a real systemd as a throw-away container, with the Debian package at hand."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

NEEDS = [
    pytest.mark.skipif(os.geteuid() != 0, reason="boots a container, needs root"),
    pytest.mark.skipif(shutil.which("systemd-nspawn") is None, reason="systemd-container is not installed"),
    pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg is not installed"),
]
"""The marks of a module that boots one."""

_CALLS = "fanotify_init fanotify_mark open_by_handle_at"
"""Refused by containers, unlike by machines."""
_BEGIN = r"""
exec 2>/out/trace; set -x
say() { echo "$1=$2" >>/out/facts; }
pid() { systemctl show tierd -p MainPID --value; }
ask() { python3 /out/ask.py "$@"; }
until_true() { end=$((SECONDS + 60)); until "$@"; do [ $SECONDS -lt $end ] || return 1; sleep 0.1; done; }
answers() { ask /v1/status version >&2; }
copying() { [ "$(ask "/v1/transfers/$id" state)" = copying ] && [ "$(ask "/v1/transfers/$id" bytes_done)" -gt 0 ]; }
is_new() { now=$(pid); [ "$now" != 0 ] && [ "$now" != "$old" ]; }
begin() { tierd migrate "$1" --json >/out/transfer.json; }
begun() { python3 -c 'import json; print(json.load(open("/out/transfer.json"))["id"])'; }
ended() { [ "$(ask "/v1/transfers/$id" state)" = done ]; }
sums() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum); }
"""
"""What all steps know; `id` is that of a transfer, `old` the process of a daemon that is to be followed by another."""
_ASK = """
import functools, http.client, json, socket, sys

class Api(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect("/run/tierd/tierd.sock")

try:
    api = Api("tierd")
    api.request("GET", sys.argv[1])
    found = json.loads(api.getresponse().read())
    print(functools.reduce(dict.__getitem__, sys.argv[2].split("."), found))
except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
    sys.exit(f"no answer: {error!r}")
"""
"""`ask PATH FIELD`: a field of what the API answers, without what tierd itself needs to start."""
AT_STOP = """
[Service]
ExecStop=tierd backup /root/at-stop.db
"""
"""A drop-in of an administrator that makes Python compile modules of the package while the service stops."""

_UNIT = """
[Unit]
After=basic.target
[Service]
Type=oneshot
ExecStart=/bin/bash /out/steps
ExecStopPost=/bin/systemctl --no-block poweroff
"""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a container left behind: the facts that its steps said, and the directory /out with all they wrote."""

    facts: Mapping[str, str]
    out: Path

    def __getitem__(self, fact: str) -> str:
        """A fact; the trace is shown where the steps did not come as far."""
        assert fact in self.facts, f"{fact} was never said: {(self.out / 'trace').read_text()[-3000:]}"
        return self.facts[fact]


def package(factory: pytest.TempPathFactory) -> Path:
    """The package of this source, built once per session, for all workers of pytest-xdist together."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    place = shared / "tierd-package"
    place.mkdir(exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (built := place / "tierd.deb").exists():
            command = [REPOSITORY / "deploy/packaging/build-deb", place]
            made = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
            Path(made).rename(built)
    return built


def unpacked(factory: pytest.TempPathFactory) -> Path:
    """The tree in the package, for an .rpm: packing it again is cheaper than making it again. It may be changed."""
    tree = factory.mktemp("tree") / "tree"
    subprocess.run(["dpkg-deb", "-x", package(factory), tree], check=True)
    return tree


def build_rpm(tree: Path, out: Path, *, release: int = 1) -> Path:
    """The .rpm of a tree."""
    command = [REPOSITORY / "deploy/packaging/build-rpm", out]
    environment = os.environ | {"STAGED": str(tree), "RELEASE": str(release)}
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return Path(made.stdout.strip())


def system_python() -> str:
    """The version of the Python that packages are built with, like "3.11"."""
    command = ["/usr/bin/python3", "-c", "import sys; print('3.%d' % sys.version_info[1])"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def run_in_container(out: Path, steps: str, *, binds: Mapping[Path, str] | None = None, timeout_s: float = 120) -> Ran:
    """Boot, run the steps (bash as root; `say FACT VALUE` tells something), power off.

    The package, if `out` has one, is /out/tierd.deb. Nothing of this machine is changed, and no network is reached.
    Where the machine refuses overlay mounts or containers, the test is skipped.

    Args:
        out: a directory of the test, /out in the container.
        binds: more paths of this machine, and where they are in the container.
    """
    (out / "steps").write_text(_BEGIN + steps)
    (out / "ask.py").write_text(_ASK)
    (out / "facts").touch()
    with _tree() as root:
        (root / "etc/machine-id").write_text("")
        units = root / "etc/systemd/system"
        (units / "steps.service").write_text(_UNIT)
        (units / "steps.target").write_text("[Unit]\nRequires=basic.target steps.service\n")
        command = ["systemd-nspawn", "-D", root, "--register=no", "--keep-unit", "--private-network"]
        command += ["--console=pipe", f"--bind={out}:/out", f"--system-call-filter={_CALLS}"]
        command += [f"--bind={path}:{place}" for path, place in (binds or {}).items()]
        command += ["--boot", "systemd.unit=steps.target"]
        environment = os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        ran = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if not (out / "trace").exists():  # systemd never came as far as the first step
            pytest.skip(f"no container boots on this machine: {ran.stdout.strip()[-300:]}")
    lines = (out / "facts").read_text().splitlines()
    return Ran(facts=dict(line.split("=", 1) for line in lines if "=" in line), out=out)


@contextmanager
def _tree() -> Iterator[Path]:
    """This machine's root directory with an upper layer in memory, where changes go."""
    lower = Path("/dev/shm") / f"tierd-container-{uuid.uuid4().hex[:12]}"
    for name in ("up", "work", "root"):
        (lower / name).mkdir(parents=True)
    try:
        options = f"lowerdir=/,upperdir={lower}/up,workdir={lower}/work"
        command = ["mount", "-t", "overlay", "overlay", "-o", options, lower / "root"]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode != 0:
            pytest.skip(f"this machine refuses overlay mounts: {mounted.stderr.strip()}")
        try:
            (lower / "root/out").mkdir(exist_ok=True)
            yield lower / "root"
        finally:
            subprocess.run(["umount", lower / "root"], check=True)
    finally:
        shutil.rmtree(lower)
