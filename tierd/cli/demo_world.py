"""The demo's small world: a directory as flash, one as HDD, snapshots of real files, and the real daemon over them.

Where an S3 server can run, its bucket is a third tier, and a second dataset goes on to there.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tierd.cli.demo_server import BUCKET, REGION, DemoServer
from tierd.client import Tierd
from tierd.errors import DaemonUnreachable, TierdError
from tierd.model.units import format_size

SNAPSHOTS = ("v1", "v2", "v3")
RUN = "runs/2024"
PREFIX = "demo"
SMALL_FILES = 2_500
LARGE_BYTES = 160 * 2**20
CHECKPOINT_BYTES = 24 * 2**20
_NEEDS_BYTES = 1_400 * 2**20
_LARGEST_SMALL_BYTES = 256 * 1024
_START_S = 20.0
_STOP_S = 15.0

CONFIG = """\
# Made by `tierd demo`: everything happens within seconds, where a server would wait for days.
database = "{root}/state/tierd.db"
view = "{root}/view"
decide_interval = "500ms"

[[tiers]]
name = "flash"
root = "{root}/flash"
rank = 0

[[tiers]]
name = "hdd"
root = "{root}/hdd"
rank = 1
# As slow as a disk, so that there is something to see.
read_rate = "120 MB/s"
write_rate = "80 MB/s"

[[datasets]]
name = "library"
path = "{root}/flash/datasets/library"

[defaults]
settle_after = "1s"
migrate_after = "3s"
release_after = "5s"
min_residency = "1m"

[mover]
workers = 3

[api]
socket = "{root}/state/api.sock"
listen = "127.0.0.1:{port}"

[api.tokens]
"{digest}" = "admin"

[log]
level = "warning"
"""

CLOUD_CONFIG = """
[[tiers]]
name = "cloud"
kind = "s3"
rank = 2
bucket = "{bucket}"
prefix = "{prefix}"
endpoint = "{endpoint}"
region = "{region}"
credentials = "{credentials}"

[[datasets]]
name = "runs"
path = "{root}/flash/datasets/runs"

[datasets.policy]
migrate_after = {{ hdd = "3s", cloud = "6s" }}
release_after = {{ flash = "4s", hdd = "7s" }}
"""


@dataclass(frozen=True, kw_only=True)
class DemoWorld:
    """Where everything is. `address` is the page's, `token` what it asks for; `server` has the bucket of the third
    tier, None where there are only two.
    """

    root: Path
    tierd: Tierd
    address: str
    token: str
    server: DemoServer | None

    def path(self, ref: str) -> Path:
        """Of a snapshot."""
        return self.root / "flash" / "datasets" / ref


@contextmanager
def demo_world(root: Path, server: DemoServer | None) -> Iterator[DemoWorld]:
    """Make the files below a directory, run the daemon, and stop it in the end.

    Raises:
        TierdError: there is no room, or the daemon does not start.
    """
    free = shutil.disk_usage(root).free
    if free < _NEEDS_BYTES:
        hint = f"It needs {format_size(_NEEDS_BYTES)}; name a roomier directory with TMPDIR."
        raise TierdError(f"{root} has only {format_size(free)} free", hint=hint)
    token, port = secrets.token_hex(8), _free_port()
    config = root / "config.toml"
    config.write_text(configuration(root, port, token, server))
    world = DemoWorld(
        root=root,
        tierd=Tierd(f"unix://{root}/state/api.sock"),
        address=f"http://127.0.0.1:{port}/",
        token=token,
        server=server,
    )
    library = world.path("library")
    for directory in (root / "state", root / "hdd", library):
        directory.mkdir(parents=True)
    _make_snapshots(library)
    if server is not None:
        _make_run(world.path(RUN))
    with _running(config, world.tierd, len(SNAPSHOTS) + (server is not None)):
        yield world


def configuration(root: Path, port: int, token: str, server: DemoServer | None) -> str:
    """The daemon's configuration file."""
    text = CONFIG.format(root=root, port=port, digest=hashlib.sha256(token.encode()).hexdigest())
    if server is None:
        return text
    return text + CLOUD_CONFIG.format(
        root=root,
        bucket=BUCKET,
        prefix=PREFIX,
        region=REGION,
        endpoint=server.endpoint,
        credentials=server.credentials,
    )


def tree_digest(root: Path) -> str:
    """A digest over all names and contents below a path, read like a job reads them."""
    from blake3 import blake3

    digest = blake3()
    for directory, below, files in os.walk(root):
        below.sort()
        for name in sorted(files):
            file = Path(directory, name)
            digest.update(os.fsencode(file.relative_to(root)) + b"\0")
            with file.open("rb") as content:
                while chunk := content.read(2**20):
                    digest.update(chunk)
    return digest.hexdigest()[:16]


def _make_snapshots(library: Path) -> None:
    """v1: thousands of small files. v2: fewer, and a large one. v3: small; the one that is in use."""
    for name, share in zip(SNAPSHOTS, (1, 5, 20), strict=True):
        _copy_small_files(library / name, SMALL_FILES // share)
    _write_random(library / "v2" / "model.bin", LARGE_BYTES)


def _make_run(path: Path) -> None:
    """Many small files, and one that is large enough to be an object of its own."""
    _copy_small_files(path / "samples", SMALL_FILES // 2)
    _write_random(path / "checkpoint.bin", CHECKPOINT_BYTES)


def _write_random(file: Path, size_bytes: int) -> None:
    with file.open("wb") as output:
        output.writelines(os.urandom(2**20) for _ in range(size_bytes // 2**20))


def _copy_small_files(destination: Path, count: int) -> None:
    """Real files: Python's standard library, again and again until there are enough of them."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found = [f for f in sorted(library.rglob("*.py")) if "site-packages" not in f.parts and _is_small(f)][:count]
    for number in range(count):
        source = found[number % len(found)]
        target = destination / str(number // len(found)) / source.relative_to(library)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _is_small(file: Path) -> bool:
    return file.is_file() and file.stat().st_size <= _LARGEST_SMALL_BYTES


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _running(config: Path, tierd: Tierd, snapshots: int) -> Iterator[None]:
    log = config.parent / "daemon.log"
    with log.open("wb") as output:
        # A session of its own: Ctrl-C ends the demo, and the demo then stops the daemon.
        daemon = subprocess.Popen(
            [sys.executable, "-m", "tierd", "run", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _await_answer(daemon, tierd, log, snapshots)
        yield
    finally:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _await_answer(daemon: subprocess.Popen[bytes], tierd: Tierd, log: Path, snapshots: int) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            found = list(tierd.snapshots())
            if len(found) == snapshots and all(s.files for s in found):
                return
        except DaemonUnreachable:
            pass
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise TierdError(
                "the daemon did not start", hint=f"It said: {log.read_text()[-2000:].strip() or 'nothing'}"
            )
        time.sleep(0.1)
