"""A network with faults: a TCP proxy before a server on this machine, whose behaviour is set while it runs.

    with FaultyProxy(server.s3) as proxy:
        bucket = Bucket(replace(settings, endpoint=proxy.endpoint))
        proxy.delay_ms = 10                       # each way
        proxy.bytes_per_s = 1_000_000             # of each connection and direction
        proxy.next(Fault.HANG, after=100_000)     # the next answer stops there and never goes on
        proxy.next(Fault.RESET, after=0, way=Way.UP, times=3)
        proxy.answer_503(5)                       # the next five requests are told to slow down
        proxy.down()                              # nobody listens; `up` again

A fault waits for the connection that first carries `after` bytes in its direction, counted from where the fault was
set; it happens once for each of its `times`. HTTP is only looked at for `answer_503`.
"""

from __future__ import annotations

import contextlib
import enum
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

_PIECE = 64 << 10
_TICK_S = 0.05
_QUEUE = 4 << 20
"""Bytes on their way in one direction of a connection, at most."""
_BODY = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)
_SLOW_DOWN = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
    % (len(_BODY), _BODY)
)


class Fault(enum.Enum):
    HANG = "hang"  # bytes are taken no more, nothing is closed
    RESET = "reset"  # both sides see a reset
    TRUNCATE = "truncate"  # both sides see an orderly end


class Way(enum.Enum):
    UP = "up"  # towards the server
    DOWN = "down"


class _Plan:
    def __init__(self, fault: Fault, after: int, way: Way, times: int) -> None:
        self.fault, self.after, self.way, self.times = fault, after, way, times


class FaultyProxy:
    """See the module. Close it, or use it as a context manager.

    Args:
        target_port: of the server, on this machine.

    Attributes:
        port: where it listens; stays the same over `down` and `up`.
        delay_ms: every byte arrives so much later, in each direction.
        bytes_per_s: None is no limit; of each connection in each direction.
        connections: how many were made so far. faults: how many happened.
    """

    def __init__(self, target_port: int) -> None:
        self._target = target_port
        self.delay_ms = 0.0
        self.bytes_per_s: float | None = None
        self.connections = self.faults = self.refused = 0
        self._lock = threading.Lock()
        self._plans: list[_Plan] = []
        self._to_refuse = 0
        self._epoch = 0
        self._threads: list[threading.Thread] = []
        self.port = 0
        self.up()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.down()

    # -- behaviour -----------------------------------------------------------------------------------------------

    def next(self, fault: Fault, *, after: int, way: Way = Way.DOWN, times: int = 1) -> None:
        """Have a fault happen to the next connection that carries so many bytes in one go."""
        with self._lock:
            self._plans.append(_Plan(fault, after, way, times))

    def answer_503(self, requests: int) -> None:
        """Answer the next requests with SlowDown, and close the connection after each."""
        with self._lock:
            self._to_refuse += requests

    def calm(self) -> None:
        """Forget all faults that have not happened."""
        with self._lock:
            self._plans.clear()
            self._to_refuse = 0

    def down(self) -> None:
        """Stop listening and break every connection, as a server that was killed; returns when that is done."""
        with self._lock:
            self._epoch += 1
            threads, self._threads = self._threads, []
        for thread in threads:
            thread.join()

    def up(self) -> None:
        """Listen (again)."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(256)
        listener.settimeout(_TICK_S)
        self.port = listener.getsockname()[1]
        self._start(lambda epoch: self._accept(listener, epoch))

    # -- connections ---------------------------------------------------------------------------------------------

    def _start(self, serve: Callable[[int], None], epoch: int | None = None) -> None:
        with self._lock:
            current = self._epoch if epoch is None else epoch
            thread = threading.Thread(target=serve, args=(current,), name="faulty-proxy", daemon=True)
            self._threads = [t for t in self._threads if t.is_alive() or t.ident is None]
            self._threads.append(thread)
            thread.start()

    def is_over(self, epoch: int) -> bool:
        """Whether the proxy went down since."""
        return self._epoch != epoch

    def _accept(self, listener: socket.socket, epoch: int) -> None:
        with listener:
            while not self.is_over(epoch):
                try:
                    client, _ = listener.accept()
                except TimeoutError:
                    continue
                try:
                    server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
                except OSError:
                    _reset(client)
                    continue
                self.connections += 1
                self._start(_Pair(self, client, server).run, epoch)

    def _fault(self, way: Way, carried: int, size: int, since: dict[_Plan, int]) -> tuple[Fault, int] | None:
        """The fault that happens within the next `size` bytes, and after how many of them."""
        with self._lock:
            for plan in self._plans:
                if plan.way is not way:
                    continue
                first = since.setdefault(plan, carried)
                if carried + size > first + plan.after:
                    plan.times -= 1
                    if not plan.times:
                        self._plans.remove(plan)
                    self.faults += 1
                    return plan.fault, max(0, first + plan.after - carried)
        return None

    def _refuses(self) -> bool:
        with self._lock:
            if not self._to_refuse:
                return False
            self._to_refuse -= 1
            self.refused += 1
            return True


class _Way:
    """One direction of a connection: what is under way, and when it is due."""

    def __init__(self, way: Way, source: socket.socket, target: socket.socket) -> None:
        self.way, self.source, self.target = way, source, target
        self.queue: deque[tuple[float, bytes]] = deque()
        self.queued = self.carried = 0
        self.since: dict[_Plan, int] = {}
        self.is_over = self.is_hanging = False
        self.free_at = 0.0


class _Pair:
    """A connection on both sides, served by one thread."""

    def __init__(self, proxy: FaultyProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
        self._up, self._down = _Way(Way.UP, client, server), _Way(Way.DOWN, server, client)
        self._client, self._server = client, server
        self._is_answered = True
        """The next bytes from the client begin a request."""

    def run(self, epoch: int) -> None:
        try:
            while not self._proxy.is_over(epoch):
                if not self._step():
                    break
            else:
                self._reset()
        except OSError:
            self._reset()
        finally:
            self._client.close()
            self._server.close()

    def _reset(self) -> None:
        _reset(self._client)
        _reset(self._server)

    def _step(self) -> bool:
        readable: list[socket.socket] = []
        writable: list[socket.socket] = []
        now = time.monotonic()
        timeout = _TICK_S
        for way in (self._up, self._down):
            if not way.is_over and not way.is_hanging and way.queued < _QUEUE:
                readable.append(way.source)
            if way.queue and not way.is_hanging:
                due = max(way.queue[0][0], way.free_at)
                if due <= now:
                    writable.append(way.target)
                timeout = min(timeout, max(0.0, due - now))
        can_read, can_write, _ = select.select(readable, writable, [], timeout if not writable else _TICK_S)
        for way in (self._up, self._down):
            if way.source in can_read and not self._take(way):
                return False
            if way.target in can_write and not self._give(way):
                return False
            if way.is_over and not way.queue and not way.is_hanging:
                if way is self._down or self._down.is_hanging:
                    return False
                with contextlib.suppress(OSError):
                    way.target.shutdown(socket.SHUT_WR)
                way.is_hanging = True  # its end was passed on
        return True

    def _take(self, way: _Way) -> bool:
        data = way.source.recv(_PIECE)
        if not data:
            way.is_over = True
            return True
        if way is self._up and self._is_answered:
            self._is_answered = False
            if self._proxy._refuses():
                self._client.setblocking(True)
                self._client.sendall(_SLOW_DOWN)
                self._client.shutdown(socket.SHUT_WR)
                self._drain()
                return False
        elif way is self._down:
            self._is_answered = True
        way.queue.append((time.monotonic() + self._proxy.delay_ms / 1e3, data))
        way.queued += len(data)
        return True

    def _drain(self) -> None:
        """Read what the client still sends: closing at once would reset the answer away."""
        self._client.settimeout(1.0)
        with contextlib.suppress(OSError):
            while self._client.recv(_PIECE):
                pass

    def _give(self, way: _Way) -> bool:
        due, data = way.queue[0]
        rate = self._proxy.bytes_per_s
        size = len(data) if rate is None else min(len(data), max(1, int(rate * _TICK_S)))
        found = self._proxy._fault(way.way, way.carried, size, way.since)
        if found is not None:
            size = found[1]
        sent = 0
        with contextlib.suppress(BlockingIOError):
            sent = way.target.send(data[:size]) if size else 0
        way.carried += sent
        way.queued -= sent
        way.queue.popleft()
        if sent < len(data):
            way.queue.appendleft((due, data[sent:]))
        if rate is not None:
            way.free_at = time.monotonic() + sent / rate
        if found is None:
            return True
        if found[0] is Fault.HANG:
            way.is_hanging = True
            return True
        if found[0] is Fault.RESET:
            self._reset()
        return False


def _reset(sock: socket.socket) -> None:
    """Close so that the other side sees a reset."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
