"""A receiver of webhooks: a real HTTP server that answers as the test says, and checks signatures by the formula."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


@dataclass(frozen=True, kw_only=True)
class Got:
    """One request. `answered`: with which status."""

    path: str
    headers: dict[str, str]
    content: bytes
    answered: int

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.content)
        return found

    @property
    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.document["events"]]

    def is_signed_with(self, key: bytes) -> bool:
        """As Standard Webhooks say: HMAC-SHA256 of id.timestamp.body; one of the signatures must be it."""
        signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + self.content
        wanted = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        is_recent = abs(time.time() - int(self.headers["webhook-timestamp"])) < 300
        return is_recent and wanted in self.headers["webhook-signature"].split(" ")


Reply = tuple[int, dict[str, str]]


@dataclass
class Receiver:
    """What came, in order, and what is answered: `replies` first, one a request, then `otherwise`.

    A status of 0 hangs until the end; -1 drips a header for as long as somebody listens.
    """

    url: str = ""
    got: list[Got] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    otherwise: Reply = (200, {})
    hanging: int = 0
    is_over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def taken(self) -> list[dict[str, Any]]:
        """Events of requests that were answered with 2xx."""
        with self.lock:
            return [e for got in self.got if 200 <= got.answered < 300 for e in got.document["events"]]

    def wait_for(self, condition: Callable[[], bool], what: str, timeout: float = 30) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"not in {timeout} s: {what}; got {self.got}"
            time.sleep(0.02)

    def next_reply(self) -> Reply:
        with self.lock:
            return self.replies.pop(0) if self.replies else self.otherwise


@contextmanager
def receiver(port: int = 0, certificate: Path | None = None) -> Iterator[Receiver]:
    """A receiver that listens on this machine; with a certificate (and its key, in one file) over TLS."""
    made = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            status, headers = made.next_reply()
            with made.lock:
                made.got.append(
                    Got(
                        path=self.path,
                        headers={k.lower(): v for k, v in self.headers.items()},
                        content=content,
                        answered=status,
                    )
                )
            if status == 0:
                made.hanging += 1
                made.is_over.wait(120)
                return
            if status == -1:
                self.drip()
                return
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if status != 204:
                self.wfile.write(b"what the receiver says")

        def drip(self) -> None:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nx-slow: ")
            while not made.is_over.wait(0.05):
                try:
                    self.wfile.write(b"x")
                    self.wfile.flush()
                except OSError:
                    made.hanging -= 1
                    return

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            pass

    server = Server(("127.0.0.1", port), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    made.url = f"http{'' if certificate is None else 's'}://127.0.0.1:{server.server_address[1]}/hook?token=in-the-url"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield made
    finally:
        made.is_over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def free_port() -> int:
    """A port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def secret_file(directory: Path, *keys: bytes) -> Path:
    """A file with these secrets."""
    path = directory / "webhook-secret"
    lines = ["whsec_" + base64.b64encode(key).decode() for key in keys or (KEY,)]
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o600)
    return path
