"""One HTTP exchange with the daemon: where it is, and what its errors mean here.

Every request has a connection of its own. Over a Unix socket that costs a fraction of a millisecond, and there is no
idle connection that a restart of the daemon could break, or that a fork could share.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tierd import __version__
from tierd.client.shapes import Json
from tierd.client.unix import UnixTransport
from tierd.errors import DaemonUnreachable, Forbidden, InvalidRequest, TierdError, by_code

URL_VARIABLE = "TIERD_URL"
TOKEN_VARIABLE = "TIERD_TOKEN"
DEFAULT_URL = "unix:///run/tierd/tierd.sock"

_CONNECT_S = 5.0
_ANSWER_S = 30.0
_LONGEST_SOCKET_PATH = 107
_URL_HINT = 'Write "unix:///run/tierd/tierd.sock" or "http://host:port".'
_START_HINT = (
    "Start it with `systemctl start tierd`, or `tierd run --config FILE`; a daemon elsewhere is given by TIERD_URL."
)
_AWAY = frozenset({502, 503, 504})

Params = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True)
class Address:
    """Where the daemon listens: a Unix socket, or a base URL."""

    url: str
    socket: Path | None

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read an address.

        Raises:
            InvalidRequest: it is neither `unix:///path` nor `http(s)://host`.
        """
        path = url.removeprefix("unix://") if url.startswith(("unix://", "/")) else None
        if path is not None:
            if not path.startswith("/"):
                raise InvalidRequest(f"{url!r} names no absolute path", hint=_URL_HINT)
            if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
                hint = f"The kernel takes at most {_LONGEST_SOCKET_PATH} bytes; use a shorter path."
                raise InvalidRequest(f"the path of the socket in {url!r} is too long", hint=hint)
            return cls(f"unix://{path}", Path(path))
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, ValueError) as e:
            raise InvalidRequest(f"{url!r} is no address of a daemon: {e}", hint=_URL_HINT) from e
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise InvalidRequest(f"{url!r} is no address of a daemon", hint=_URL_HINT)
        return cls(url.rstrip("/"), None)


class Connection:
    """Sends requests to one daemon. Thread-safe."""

    def __init__(self, url: str, token: str | None = None, *, client: httpx.Client | None = None) -> None:
        self.address = Address.parse(url)
        self._client = client or _client(self.address, token)

    def ask(
        self, method: str, path: str, *, body: Json = None, params: Params | None = None, wait_s: float = 0.0
    ) -> Json:
        """Send a request and return the parsed answer; None where there is none.

        Args:
            wait_s: how long the daemon was asked to wait before it answers.

        Raises:
            DaemonUnreachable: nobody answers.
            Forbidden: the socket may not be opened, or the role does not suffice.
            TierdError: what the daemon reports, as the class with its code.
        """
        timeout = httpx.Timeout(_CONNECT_S, read=_ANSWER_S + wait_s)
        with self._translated():
            response = self._client.request(method, path, json=body, params=_given(params), timeout=timeout)
        return self._content(response)

    def text(self, path: str) -> str:
        """What is at a path that is no JSON (`/metrics`).

        Raises:
            The same as `ask`.
        """
        with self._translated():
            response = self._client.get(path, timeout=httpx.Timeout(_CONNECT_S, read=_ANSWER_S))
        if not response.is_success:
            self._content(response)
        return response.text

    @contextmanager
    def lines(
        self, path: str, *, headers: Mapping[str, str], silence_s: float, params: Params | None = None
    ) -> Iterator[Iterator[str]]:
        """The lines of a stream that has no end; one that is silent for so long counts as broken.

        Raises:
            The same as `ask`.
        """
        timeout = httpx.Timeout(_CONNECT_S, read=silence_s)
        given = _given(params)
        with (
            self._translated(),
            self._client.stream("GET", path, headers=headers, params=given, timeout=timeout) as response,
        ):
            if not response.is_success:
                response.read()
                self._content(response)
            yield response.iter_lines()

    def _content(self, response: httpx.Response) -> Json:
        is_problem = response.headers.get("content-type", "").startswith("application/problem+json")
        try:
            content: Json = response.json() if response.content else None
        except ValueError:
            content, is_problem = None, False
            if response.is_success:
                raise self._stranger(response) from None
        if response.is_success:
            return content
        if not is_problem or not isinstance(content, dict):
            raise self._stranger(response)
        code, detail, hint = content.get("code"), content.get("detail"), content.get("hint")
        raise by_code(str(code))(str(detail or ""), hint=str(hint) if hint is not None else None)

    def _stranger(self, response: httpx.Response) -> TierdError:
        what = (
            f"{self.address.url} answered {response.status_code} {response.reason_phrase}, not as a tierd daemon does"
        )
        if response.status_code in _AWAY:
            return DaemonUnreachable(what, hint="Something in between says that the daemon is away; try again later.")
        return TierdError(what, hint="Check the address: something else may listen there.")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx.TimeoutException as e:
            hint = "It may be overloaded or stopped: `systemctl status tierd` and its log tell."
            raise DaemonUnreachable(f"the daemon at {self.address.url} does not answer in time", hint=hint) from e
        except httpx.TransportError as e:
            raise self._unreachable(e) from e

    def _unreachable(self, error: httpx.TransportError) -> TierdError:
        url, cause = self.address.url, _os_error(error)
        if cause is not None and cause.errno in {errno.EACCES, errno.EPERM}:
            return Forbidden(
                f"permission denied on the daemon's socket {url}",
                hint="A daemon may well be running; `socket_mode` in its configuration says who may connect.",
            )
        if cause is not None and cause.errno == errno.ENOENT:
            return DaemonUnreachable(f"no tierd daemon runs at {url}: there is no socket", hint=_START_HINT)
        if cause is not None and cause.errno == errno.ECONNREFUSED:
            return DaemonUnreachable(f"no tierd daemon runs at {url}: nobody listens", hint=_START_HINT)
        if isinstance(error, httpx.ConnectError):
            return DaemonUnreachable(f"no tierd daemon can be reached at {url}: {error}", hint=_START_HINT)
        hint = "It may have been stopped or restarted; try again."
        return DaemonUnreachable(f"the daemon at {url} broke off: {error}", hint=hint)


def _client(address: Address, token: str | None) -> httpx.Client:
    headers = {"user-agent": f"tierd-client/{__version__}"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    if address.socket is not None:
        # Without trust_env: a proxy from the environment must never come between.
        transport = UnixTransport(address.socket)
        return httpx.Client(base_url="http://tierd", transport=transport, headers=headers, trust_env=False)
    limits = httpx.Limits(max_keepalive_connections=0)
    return httpx.Client(base_url=address.url, headers=headers, limits=limits, verify=address.url.startswith("https:"))


def _given(params: Params | None) -> dict[str, str | int | float | bool]:
    return {k: v for k, v in (params or {}).items() if v is not None}


def _os_error(error: BaseException) -> OSError | None:
    """The system's error below the HTTP library's, which knows only its text."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None
