"""Who calls and what they may do: peer credentials on the Unix socket, tokens everywhere.

Without a proven identity a caller has no role at all: an application that is reached in any other way (a test
client, a proxy) needs a token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import os
import pwd
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import cast
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from tierd.config import ApiConfig
from tierd.errors import Forbidden, Unauthorized
from tierd.serve.sessions import COOKIE, Sessions

PEER = "tierd.peer"
"""Key of the ASGI scope under which the server puts the `Peer`. Nothing that a client sends can set it."""

_HOST = re.compile(r"[A-Za-z0-9._-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")
_READING = frozenset({"GET", "HEAD"})
_TOKEN_HINT = 'Send "Authorization: Bearer TOKEN", or call through the Unix socket of the daemon.'


class Role(IntEnum):
    """What a caller may do; each role includes the ones before it."""

    READ = 1
    WARM = 2
    ADMIN = 3


@dataclass(frozen=True)
class Peer:
    """The process at the other end of a Unix socket, as the kernel says."""

    pid: int
    uid: int
    gid: int


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who asks. `name` is for people (who holds what, who asked for it), never for decisions.

    `pid`: the process at the other end of the Unix socket, as this machine numbers it; None over TCP.
    """

    name: str
    role: Role
    pid: int | None = None


class Gate:
    """Decides who a caller is.

    Args:
        config: admins by user name, tokens by their SHA-256.
        own_uid: the daemon's user.
        sessions: knows the browsers that have signed in; without it there are none.
    """

    def __init__(self, config: ApiConfig, *, own_uid: int | None = None, sessions: Sessions | None = None) -> None:
        self._sessions, self._anybody_reads = sessions, config.read_without_token
        self._hosts = frozenset(name.lower() for name in (*config.hosts, socket.gethostname(), "localhost"))
        self._tokens = {digest.lower(): Role[role.upper()] for digest, role in config.tokens.items()}
        self._admins = {0, os.getuid() if own_uid is None else own_uid} | _uids(config.admins)
        self._host = socket.gethostname()
        self._names: dict[int, str] = {}

    async def caller(self, connection: HTTPConnection) -> Caller:
        """Identify the caller of a request.

        Raises:
            Unauthorized: a token was sent and is wrong, or one is needed and there is none.
            Forbidden: the request is for a host that this is not.
        """
        token = _token_of(connection.headers)
        peer = cast("Peer | None", connection.scope.get(PEER))
        if token is None:
            self._check_host(connection.headers.get("host", ""), is_local=peer is not None)
        by_token = self._by_cookie(connection) if token is None else self._by_token(token)
        if peer is None:
            if by_token is None and self._anybody_reads:
                return Caller(name="anybody", role=Role.READ)
            if by_token is None:
                raise Unauthorized("a token is needed", hint=_TOKEN_HINT)
            return by_token
        by_peer = Caller(name=await self._name(peer), role=self._role(peer), pid=peer.pid)
        best = max(by_peer, by_token or by_peer, key=lambda c: c.role)
        return replace(best, pid=peer.pid)

    def subject(self, connection: HTTPConnection) -> str:
        """Whom a form is made for: what stays the same from one request of a browser to the next."""
        peer = cast("Peer | None", connection.scope.get(PEER))
        shown = connection.cookies.get(COOKIE) or connection.headers.get("authorization", "")
        return f"{'tcp' if peer is None else peer.uid}:{shown}"

    def sign_in(self, token: str) -> str:
        """The digest of a token, if it is one of ours.

        Raises:
            Unauthorized: it is not.
        """
        self._by_token(token)
        return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()

    def _check_host(self, host: str, *, is_local: bool) -> None:
        # A page of somebody whose name was made to lead here reads what our own page may read (DNS rebinding).
        name = (urlsplit(f"//{host}").hostname or "") if _HOST.fullmatch(host) else ""
        if not host or name in self._hosts or _is_address(name) or (is_local and name and "." not in name):
            return
        raise Forbidden("the request is for another host", hint="Add the name to `hosts` in [api], or use the address.")

    def _by_cookie(self, connection: HTTPConnection) -> Caller | None:
        cookie = connection.cookies.get(COOKIE)
        if cookie is None or self._sessions is None:
            return None
        # The API itself takes no changes for a cookie: only the page's forms prove where they come from.
        is_for_page = connection.scope.get("method") in _READING or not connection.url.path.startswith("/v1/")
        if not is_for_page:
            return None
        digest = self._sessions.token_digest(cookie)
        role = None if digest is None else self._tokens.get(digest)
        return None if digest is None or role is None else Caller(name=f"token {digest[:8]}", role=role)

    def _by_token(self, token: str) -> Caller:
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
        # Every known digest is compared, in constant time: how long it takes says nothing about any of them.
        matches = [role for known, role in self._tokens.items() if hmac.compare_digest(known, digest)]
        if not matches:
            raise Unauthorized("the token is not known", hint="Ask an administrator for a new token.")
        return Caller(name=f"token {digest[:8]}", role=matches[0])

    def _role(self, peer: Peer) -> Role:
        return Role.ADMIN if peer.uid in self._admins else Role.WARM

    async def _name(self, peer: Peer) -> str:
        name = self._names.get(peer.uid)
        if name is None:
            # A directory service may take its time: not on the event loop, and once per user.
            name = self._names[peer.uid] = await run_in_threadpool(_user_name, peer.uid)
        return f"{name}@{self._host}:{peer.pid}"


class Needs(SecurityBase):
    """A dependency that identifies the caller and insists on a role; also documents it in the OpenAPI schema."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self.scheme_name = "token"
        self.model = HTTPBearer(
            description="Needed over TCP. On the Unix socket the kernel tells who calls: root, the daemon's own user "
            "and the configured admins may do everything, everybody else may read and warm."
        )

    async def __call__(self, request: Request) -> Caller:
        gate = cast(Gate, request.app.state.parts.gate)
        caller = await gate.caller(request)
        if caller.role < self.role:
            raise Forbidden(
                f"this needs the role {self.role.name.lower()}, the caller has {caller.role.name.lower()}",
                hint="Ask an administrator, or use a token that has the role.",
            )
        return caller


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _token_of(headers: Mapping[str, str]) -> str | None:
    """The token of a request; browsers send it as the password of basic authentication."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            raise Unauthorized("the credentials cannot be read", hint=_TOKEN_HINT) from None
    if scheme:
        raise Unauthorized("only bearer tokens and basic authentication are known", hint=_TOKEN_HINT)
    return None


def _uids(names: tuple[str, ...]) -> set[int]:
    found = set()
    for name in names:
        try:
            found.add(pwd.getpwnam(name).pw_uid)
        except KeyError:  # the check of the configuration reports it; nobody gets the role
            continue
    return found


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid-{uid}"
