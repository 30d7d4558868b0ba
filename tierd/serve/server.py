"""Runs the application in a thread, on the Unix socket and, where configured, on TCP."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from pathlib import Path
from typing import cast

import uvicorn
from fastapi import FastAPI

from tierd.config import ApiConfig
from tierd.errors import TierdError
from tierd.serve.protocol import PatientProtocol
from tierd.serve.sockets import Identity, bind_tcp, bind_unix, identity, remove_own

_START_S = 10.0
_GRACE_S = 3
_MAX_CONNECTIONS = 2048
_KEEP_ALIVE_S = 65
_EVERY_SECOND = 0
"""For uvicorn: the tick at which it also renews the date that its answers carry."""

log = logging.getLogger(__name__)


class ApiServer:
    """The API, listening. Start and stop it once, from one thread."""

    def __init__(self, app: FastAPI, config: ApiConfig) -> None:
        self._app, self._config = app, config
        self._socket_id: Identity | None = None
        self._sockets: list[socket.socket] = []
        self._thread: threading.Thread | None = None
        self.tcp_address: tuple[str, int] | None = None
        """Host and port that it listens on, once started."""
        self._server = _Server(
            uvicorn.Config(
                app,
                http=PatientProtocol,
                loop="uvloop",
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=_MAX_CONNECTIONS,
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_GRACE_S,
            )
        )

    @property
    def socket(self) -> Path | None:
        """The Unix socket that it listens on."""
        return self._config.socket

    @property
    def is_running(self) -> bool:
        """False before the start, after the stop, and if the server died."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Listen and serve; returns when requests are answered.

        Raises:
            Conflict: another daemon or program listens there.
            ConfigError: it is not possible to listen there.
        """
        try:
            if self._config.socket is not None:
                self._sockets.append(bind_unix(self._config.socket, self._config.socket_mode))
                self._socket_id = identity(self._config.socket)
            if self._config.listen is not None:
                tcp = bind_tcp(self._config.listen)
                self._sockets.append(tcp)
                self.tcp_address = tcp.getsockname()[:2]
        except TierdError:
            self._let_go()
            raise
        self._thread = threading.Thread(target=self._server.run, args=(self._sockets,), name="tierd-api", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + _START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self._let_go()
                raise TierdError("the API did not start", hint="The log says why.")
            time.sleep(0.005)

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Answer what is under way, end waits and streams, and stop listening. Idempotent.

        Returns:
            Whether everything has ended in time.
        """
        # First, so that long-polls and streams end by themselves and do not use up the time for the others.
        self._app.state.parts.watch.close()
        self._server.end_soon()
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                log.warning("the API did not stop in time", extra={"action": "api_stop_late"})
                self._server.force_exit = True
        has_stopped = not self.is_running
        self._let_go()
        return has_stopped

    def _let_go(self) -> None:
        if self._config.socket is not None:
            remove_own(self._config.socket, self._socket_id)
            self._socket_id = None
        for each in self._sockets:
            each.close()
        self._sockets = []


class _Server(uvicorn.Server):
    """uvicorn's server, which rests while nobody asks, and in the end also closes connections whose clients do not
    read what was sent to them.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = asyncio.Event()

    def end_soon(self) -> None:
        """Let it end; from any thread."""
        self.should_exit = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._ending.set)

    async def main_loop(self) -> None:
        # uvicorn's own wakes up ten times a second to see whether it shall end; this one is told.
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(_EVERY_SECOND):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), 1.0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            cast(PatientProtocol, connection).transport.abort()
        await asyncio.sleep(0)
