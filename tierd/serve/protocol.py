"""One connection: who is at its other end, and how long and how much we wait for a request."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tierd.serve.auth import PEER, Peer

REQUEST_S = 30.0
"""How long a client may take to send a request, body included: the largest one is small."""
MAX_HEAD_BYTES = 64 * 1024
_UCRED = struct.Struct("3i")
_TOO_SLOW = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_TOO_LONG = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which also asks the kernel who is at the other end of a Unix socket, and has an end of
    patience: without one, clients that never finish a request would use up the connections or the memory.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._patience: asyncio.TimerHandle | None = None
        self._is_in_head, self._head_bytes = True, 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn itself does
        peer = _peer_of(transport)
        if peer is not None:
            self.app = cast("Callable[..., None]", _with_peer(cast(ASGIApp, self.app), peer))
        super().connection_made(transport)
        self._begin_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._patience is None and (self.cycle is None or self.cycle.response_complete):
            self._begin_waiting()
        self._head_bytes += len(data)
        super().data_received(data)
        if self._is_in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(_TOO_LONG)

    def on_message_begin(self) -> None:
        self._is_in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._end_waiting()
        super().on_message_complete()

    def _begin_waiting(self) -> None:
        self._patience = self.loop.call_later(REQUEST_S, self._refuse, _TOO_SLOW)

    def _end_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _refuse(self, answer: bytes) -> None:
        self._end_waiting()
        # Where an answer has begun already, all that can be done is to end it.
        if not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(answer)
            self.transport.close()


def _with_peer(app: ASGIApp, peer: Peer) -> ASGIApp:
    async def with_peer(scope: Scope, receive: Receive, send: Send) -> None:
        scope[PEER] = peer
        await app(scope, receive, send)

    return with_peer


def _peer_of(transport: asyncio.BaseTransport) -> Peer | None:
    known = transport.get_extra_info("socket")
    if known is None or known.family != socket.AF_UNIX:
        return None
    # uvloop's stand-in for a socket cannot be asked for options: ask through a descriptor of our own.
    with socket.socket(fileno=os.dup(known.fileno())) as own:
        return Peer(*_UCRED.unpack(own.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)))
