"""The wire below botocore: sockets that call back while they wait, and bodies that are sent from where they lie.

botocore signs, addresses and understands; its sockets, however, block for as long as a request may take. These here are
waited for in small steps, so that a caller can be told to stop in the middle of a request, and the timeout counts
from the last byte and not from the first.
"""

from __future__ import annotations

import http.client
import io
import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)

Data = bytes | bytearray | memoryview
Wait = Callable[[], None]
"""Called at least every 0.2 s while there is something to wait for; may raise to give up."""

STEP_S = 0.1
_PIECE = 1 << 20
_HEADER = 64 << 10


class Stopped(BaseException):
    """Carries what `Wait` raised past the layers that would take it for a failure of the network."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__(str(reason))
        self.reason = reason


def stopping(wait: Wait) -> Wait:
    """The same, but what it raises goes through all layers."""

    def call() -> None:
        try:
            wait()
        except BaseException as error:  # noqa: BLE001  whatever it is, it is raised again
            raise Stopped(error) from None

    return call


class PatientSocket:
    """A connected socket that waits in small steps. Only what `http.client` and urllib3 ask of a socket.

    Args:
        timeout_s: without a byte for so long, `TimeoutError` is raised.
    """

    def __init__(self, sock: socket.socket, wait: Wait, timeout_s: float) -> None:
        self._sock, self._wait = sock, wait
        self._timeout_s = timeout_s
        self._next_call = 0.0
        sock.setblocking(False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def settimeout(self, timeout: float | None) -> None:
        """Nothing: urllib3 would have it send with the timeout that is meant for connecting."""

    def sendall(self, data: Data) -> None:
        with memoryview(data) as whole, whole.cast("B") as view:
            at = 0
            while at < len(view):
                self.call()
                try:
                    at += self._sock.send(view[at : at + _PIECE])
                except (BlockingIOError, ssl.SSLWantWriteError):
                    self.wait_for(select.POLLOUT)
                except ssl.SSLWantReadError:
                    self.wait_for(select.POLLIN)

    def makefile(self, mode: str) -> io.BufferedReader:
        """For `http.client`, which reads only."""
        return io.BufferedReader(_Reader(self, self._sock.makefile("rb", buffering=0)), _HEADER)

    def call(self) -> None:
        """Call back, if it is time to."""
        now = time.monotonic()
        if now >= self._next_call:
            self._next_call = now + STEP_S
            self._wait()

    def wait_for(self, event: int) -> None:
        """Wait until the socket can be read or written.

        Raises:
            TimeoutError: not within the timeout.
        """
        poll = select.poll()
        poll.register(self._sock.fileno(), event)
        deadline = time.monotonic() + self._timeout_s
        while not poll.poll(STEP_S * 1e3):
            self.call()
            if time.monotonic() > deadline:
                raise TimeoutError("timed out")


class _Reader(io.RawIOBase):
    def __init__(self, sock: PatientSocket, raw: io.RawIOBase) -> None:
        self._sock, self._raw = sock, raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            self._sock.call()
            try:
                count: int | None = self._raw.readinto(buffer)
            except ssl.SSLWantReadError:
                count = None
            if count is not None:
                return count
            self._sock.wait_for(select.POLLIN)

    def close(self) -> None:
        self._raw.close()
        super().close()


def make_patient(client: Any, wait: Wait, timeout_s: float) -> None:
    """Let all connections of a client call `wait`; see `PatientSocket`."""

    def wrap(connection: Any) -> None:
        if isinstance(connection.sock, socket.socket):  # not TLS within TLS, which is no socket
            connection.sock = PatientSocket(connection.sock, wait, timeout_s)

    class Connection(AWSHTTPConnection):
        def connect(self) -> None:
            super().connect()
            wrap(self)

    class SecureConnection(AWSHTTPSConnection):
        def connect(self) -> None:
            super().connect()
            wrap(self)

    class Pool(AWSHTTPConnectionPool):
        ConnectionCls = Connection

    class SecurePool(AWSHTTPSConnectionPool):
        ConnectionCls = SecureConnection

    # botocore has no public way to choose the connections; its managers all look into this one mapping.
    client._endpoint.http_session._pool_classes_by_scheme.update(http=Pool, https=SecurePool)


class Body:
    """A request's body, sent from memory without a copy.

    Args:
        pace: called with the length of each piece before it is sent, or None: it goes in one piece.
    """

    def __init__(self, data: Data, pace: Callable[[int], None] | None) -> None:
        self._view = memoryview(data).cast("B")
        self._pace = pace
        self._at = 0

    def __len__(self) -> int:
        return len(self._view)

    def read(self, size: int = -1) -> memoryview:
        """The next piece; how long it is, is decided here: urllib3 would ask for 16 KiB at a time."""
        piece = self._view[self._at :] if self._pace is None else self._view[self._at : self._at + _PIECE // 4]
        if self._pace is not None and len(piece):
            self._pace(len(piece))
        self._at += len(piece)
        return piece

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._view)}[whence]
        return self._at

    def tell(self) -> int:
        return self._at


def read_body(stream: Any, view: memoryview, pace: Callable[[int], None]) -> None:
    """Read the body of an answer, of just this length, straight into memory.

    Args:
        stream: botocore's `StreamingBody`.
        pace: called with the length of each piece.

    Raises:
        Broken: the connection did, or nothing came for too long.
    """
    raw = stream._raw_stream
    # Three layers above the socket each make a copy; below them `http.client` reads into memory that it is given.
    source = getattr(raw, "_fp", None)
    if not isinstance(source, http.client.HTTPResponse):
        source = stream
    at = 0
    try:
        while at < len(view):
            piece = view[at : at + _PIECE]
            pace(len(piece))
            count = source.readinto(piece)
            if not count:
                raise Broken(at)
            at += count
    except (OSError, http.client.HTTPException) as error:
        stream.close()
        raise Broken(at) from error
    except BaseException:
        stream.close()  # half an answer is left in the connection: nobody else can use it
        raise
    raw.release_conn()


class Broken(Exception):
    """A connection broke in the middle of an answer."""

    def __init__(self, count: int) -> None:
        super().__init__(f"the connection broke after {count} bytes")
        self.count = count
