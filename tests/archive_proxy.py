"""An S3 server with archive classes (moto's) and a proxy before it that lets restores take time.

moto refuses to read archived objects and restores them at once. The proxy makes that last: what was asked for is being
restored until the test says that it is `done`, and restored objects are archived again when it says `expire`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import boto3

from tests.seaweed import ACCESS_KEY, BUCKET, SECRET_KEY, free_ports

_READY_S = 60.0
_ONGOING = 'ongoing-request="true"'


class Moto:
    """moto's server with one bucket. What it holds is gone with it."""

    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Moto:
        """Start it and wait until it has the bucket."""
        beside = Path(sys.executable).parent / "moto_server"
        command = str(beside) if beside.exists() else shutil.which("moto_server")
        if command is None:
            raise RuntimeError("the package moto[server] is not installed (it is in the extra `dev`)")
        self._process = subprocess.Popen(
            [command, "-H", "127.0.0.1", "-p", str(self.port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _READY_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("moto's server did not start")
            time.sleep(0.05)
        return self

    def _is_ready(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("PUT", f"/{BUCKET}")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@dataclass(frozen=True)
class Asked:
    """A request to restore an object (its full key)."""

    key: str
    days: int
    tier: str


class ArchiveProxy:
    """See the module.

    Attributes:
        asked: every request to restore something, in order.
        refused: how often an archived object was to be read.
        may_restore: whether our credentials have the right to restore.
    """

    def __init__(self, target_port: int) -> None:
        self.asked: list[Asked] = []
        self.refused = 0
        self.may_restore = True
        self._target = target_port
        self._lock = threading.Lock()
        self._ongoing: set[str] = set()
        self._expired: set[str] = set()
        self._reads_until_expiry: int | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> ArchiveProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def client(self) -> Any:
        """A plain boto3 client for what a test wants to do behind tierd's back."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
        )

    # -- what the test says ------------------------------------------------------------------------------

    def done(self, *keys: str) -> None:
        """The restore of these objects is finished; without any: of all that were asked for."""
        with self._lock:
            self._ongoing -= set(keys) or set(self._ongoing)

    def expire(self, *keys: str) -> None:
        """These objects are archived again."""
        with self._lock:
            self._expired |= set(keys)

    def expire_after(self, reads: int) -> None:
        """After so many reads of restored objects all of them are archived again."""
        with self._lock:
            self._reads_until_expiry = reads

    # -- what the handler asks ----------------------------------------------------------------------------

    def may_read(self, key: str, restore: str | None) -> bool:
        """Whether a GET passes; counts it."""
        with self._lock:
            if restore is not None and self._reads_until_expiry is not None:
                self._reads_until_expiry -= 1
                if self._reads_until_expiry < 0:
                    self._expired |= {asked.key for asked in self.asked}
                    self._reads_until_expiry = None
            allowed = key not in self._ongoing | self._expired
            self.refused += not allowed
            return allowed

    def shown(self, key: str, restore: str | None) -> str | None:
        """What HEAD tells of a restore, by what the server would tell."""
        with self._lock:
            if key in self._ongoing:
                return _ONGOING
            return None if key in self._expired else restore

    def note(self, key: str, body: bytes) -> bool:
        """A request to restore; False when that is under way."""
        days, tier = re.search(rb"<Days>(\d+)<", body), re.search(rb"<Tier>(\w+)<", body)
        assert days is not None
        assert tier is not None
        with self._lock:
            self.asked.append(Asked(key, int(days[1]), tier[1].decode()))
            if key in self._ongoing:
                return False
            self._expired.discard(key)
            return True

    def begin(self, key: str, *, is_extension: bool) -> None:
        """The server accepted a request to restore."""
        with self._lock:
            if not is_extension:
                self._ongoing.add(key)

    def was_expired(self, key: str) -> bool:
        with self._lock:
            return key in self._expired


def _error(code: str, message: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


def _handler(proxy: ArchiveProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            self.server_side = HTTPConnection("127.0.0.1", proxy._target)

        def finish(self) -> None:
            self.server_side.close()
            super().finish()

        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            key = unquote(parts.path).removeprefix(f"/{BUCKET}/")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.command == "POST" and "restore" in parts.query.split("&"):
                self._restore(key, body)
                return
            response, data = self._forward(body)
            restore = response.getheader("x-amz-restore")
            if self.command == "GET" and response.status < 300 and not proxy.may_read(key, restore):
                message = "The operation is not valid for the object's storage class"
                self._answer(403, [], _error("InvalidObjectState", message))
                return
            headers = [(name, value) for name, value in response.getheaders() if name.lower() != "x-amz-restore"]
            shown = proxy.shown(key, restore)
            if shown is not None:
                headers.append(("x-amz-restore", shown))
            self._answer(response.status, headers, data)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815  the names http.server calls

        def _restore(self, key: str, body: bytes) -> None:
            if not proxy.may_restore:
                self._answer(403, [], _error("AccessDenied", "Access Denied"))
                return
            was_expired = proxy.was_expired(key)
            if not proxy.note(key, body):
                self._answer(409, [], _error("RestoreAlreadyInProgress", "Object restore is already in progress"))
                return
            response, data = self._forward(body)
            # 200: it was restored already, and is now for longer.
            if response.status in (200, 202):
                proxy.begin(key, is_extension=response.status == 200 and not was_expired)
            self._answer(response.status, response.getheaders(), data)

        def _forward(self, body: bytes) -> tuple[HTTPResponse, bytes]:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            if "x-amz-checksum-crc64nvme" in self.headers:  # moto keeps the checksum only when it is named once more
                headers["x-amz-sdk-checksum-algorithm"] = "CRC64NVME"
            self.server_side.request(self.command, self.path, body=body, headers=headers)
            response = self.server_side.getresponse()
            return response, response.read()

        def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
            self.send_response_only(status)
            is_head = self.command == "HEAD"
            for name, value in headers:
                if name.lower() not in ("connection", "transfer-encoding") and (
                    is_head or name.lower() != "content-length"
                ):
                    self.send_header(name, value)
            if not is_head and status not in (204, 304):
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if not is_head:
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name in the base class
            pass

    return Handler
