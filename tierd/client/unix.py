"""HTTP over a Unix socket, one connection a request.

httpx can do that too, but leaves a socket that could not connect to the garbage collector, and takes the time to load
certificates that nobody needs here.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

_CHUNK_BYTES = 64 * 1024


class UnixTransport(httpx.BaseTransport):
    """Sends requests to the server that listens on this socket. Thread-safe: it keeps nothing between requests."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        limits = request.extensions.get("timeout", {})
        connection = _UnixConnection(self._path, limits.get("connect"))
        try:
            with _translated(httpx.ConnectTimeout, httpx.ConnectError):
                connection.connect()
            with _translated(httpx.ReadTimeout, httpx.ReadError):
                connection.sock.settimeout(limits.get("read"))
                response = _exchange(connection, request)
        except BaseException:
            connection.close()
            raise
        return httpx.Response(response.status, headers=response.getheaders(), stream=_Content(connection, response))


def _exchange(connection: http.client.HTTPConnection, request: httpx.Request) -> http.client.HTTPResponse:
    target = request.url.raw_path.decode("ascii")
    connection.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
    for name, value in request.headers.multi_items():
        if name != "connection":
            connection.putheader(name, value)
    connection.putheader("connection", "close")
    connection.endheaders(request.read() or None)
    return connection.getresponse()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("tierd", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            found.settimeout(self.timeout)
            found.connect(str(self._path))
        except BaseException:
            found.close()
            raise
        self.sock = found


class _Content(httpx.SyncByteStream):
    """The content as it arrives; the connection ends with it."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection, self._response = connection, response

    def __iter__(self) -> Iterator[bytes]:
        with _translated(httpx.ReadTimeout, httpx.ReadError):
            while chunk := self._response.read1(_CHUNK_BYTES):
                yield chunk

    def close(self) -> None:
        self._response.close()
        self._connection.close()


@contextmanager
def _translated(late: type[httpx.TransportError], broken: type[httpx.TransportError]) -> Iterator[None]:
    try:
        yield
    except TimeoutError as e:
        raise late(str(e)) from e
    except (OSError, http.client.HTTPException) as e:
        raise broken(str(e) or type(e).__name__) from e
