"""A crew: a few forked processes that take jobs from the caller and answer, in bounded memory.

The processes are forked when the crew is made, so make it before the process starts threads or opens databases.
They die with their parent. Jobs and answers are plain tuples (marshal); what a job means is the worker's business.
"""

from __future__ import annotations

import contextlib
import gc
import marshal
import os
import selectors
import signal
import socket
import struct
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Protocol, Self

from tierd.errors import Interrupted, StorageError, TierdError, by_code
from tierd.fs.linux import die_with_parent
from tierd.fs.walk import translate
from tierd.storage.control import Control
from tierd.storage.posix.limits import Board

Job = tuple[Any, ...]
Answer = Any
"""What marshal carries: tuples, lists and dicts of bytes, text, numbers and None. Each worker documents its own."""

_AHEAD = 2
"""Jobs that a process has at a time: one in work, one waiting, so that it never idles."""
_TICK_S = 0.1
_GOODBYE_S = 1.0
_FRAME = struct.Struct("<I")
_ANSWER, _ERROR, _STOPPED = 0, 1, 2


class Worker(Protocol):
    """What runs in each process."""

    def handle(self, job: Job) -> Answer:
        """Do one job. Raises TierdError or OSError; Interrupted when the board says stop."""


class _Peer:
    """The parent's end of one process: sends without blocking, so that two full pipes never wait for each other."""

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self.pid = pid
        self.sock = sock
        self.outstanding = 0
        self._out = bytearray()
        self._in = bytearray()
        sock.setblocking(False)

    def post(self, job: Job) -> None:
        data = marshal.dumps(job)
        self._out += _FRAME.pack(len(data)) + data
        self.outstanding += 1
        self.flush()

    def flush(self) -> bool:
        """Send what the socket takes; True when everything is out."""
        while self._out:
            try:
                sent = self.sock.send(self._out)
            except BlockingIOError:
                return False
            except (BrokenPipeError, ConnectionResetError):
                return True  # its death is noticed when reading
            del self._out[:sent]
        return True

    def receive(self) -> tuple[list[tuple[int, Answer]], bool]:
        """Messages that are complete, and whether the process is gone."""
        is_gone = False
        while True:
            try:
                data = self.sock.recv(1 << 18)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            if not data:
                is_gone = True
                break
            self._in += data
            if len(data) < 1 << 18:
                break
        messages, at = [], 0
        while len(self._in) - at >= _FRAME.size:
            (length,) = _FRAME.unpack_from(self._in, at)
            if len(self._in) - at - _FRAME.size < length:
                break
            at += _FRAME.size
            messages.append(marshal.loads(memoryview(self._in)[at : at + length]))
            at += length
        del self._in[:at]
        return messages, is_gone


class Crew:
    """Forked processes. Use as a context manager: leaving it ends them.

    Args:
        make: builds the worker inside each process, from its number.
    """

    def __init__(self, processes: int, board: Board, make: Callable[[int], Worker]) -> None:
        self.board = board
        self._peers: list[_Peer] = []
        self._selector = selectors.DefaultSelector()
        self._urgent: deque[Job] = deque()
        self._reported = (0, 0, 0)
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._waker, selectors.EVENT_READ, None)
        for number in range(processes):
            self._fork(number, make)

    def _fork(self, number: int, make: Callable[[int], Worker]) -> None:
        mine, theirs = socket.socketpair()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                _prepare_child(parent)
                mine.close()
                for peer in self._peers:
                    peer.sock.close()
                os.close(self._waker)
                _serve(theirs, make(number))
                status = 0
            finally:
                if status:
                    traceback.print_exception(*sys.exc_info())
                os._exit(status)  # nothing of the parent's (buffers, databases) may be flushed or closed twice
        theirs.close()
        peer = _Peer(pid, mine)
        self._peers.append(peer)
        self._selector.register(mine, selectors.EVENT_READ, peer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.board.stop()
        self.dismiss()
        deadline = time.monotonic() + _GOODBYE_S
        for peer in self._peers:
            while os.waitpid(peer.pid, os.WNOHANG)[0] == 0:
                if time.monotonic() > deadline:
                    os.kill(peer.pid, signal.SIGKILL)
                    os.waitpid(peer.pid, 0)
                    break
                time.sleep(0.002)
        self._selector.close()
        os.close(self._waker)
        self.board.close()

    # -- one job after the other, for callers who have something else to do in between ----------------------

    def post(self, job: Job) -> bool:
        """Give a job to the process that has the least to do; False when all have enough."""
        peer = min(self._peers, key=lambda p: p.outstanding)
        if peer.outstanding >= _AHEAD:
            return False
        peer.post(job)
        return True

    def take(self, on_answer: Callable[[Answer], None], control: Control) -> None:
        """Take the answers that are there, or wait a moment for one, or for `wake`.

        Raises:
            TierdError: of a worker. Interrupted: `control` asked for it.
        """
        self._take(on_answer, _TICK_S)
        self._report(control)
        control.checkpoint()

    def wake(self) -> None:
        """Let `take` return; may be called by any thread."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self._waker, 1)

    def dismiss(self) -> None:
        """There are no more jobs: let the processes end while the caller goes on."""
        for peer in self._peers:
            peer.sock.close()

    @property
    def is_idle(self) -> bool:
        """Whether no job is outstanding."""
        return not any(peer.outstanding for peer in self._peers)

    # -- all jobs of an iterator ------------------------------------------------------------------------------

    def add(self, job: Job) -> None:
        """Put a job before those that `run` was given; only from inside `on_answer`."""
        self._urgent.append(job)

    def run(self, jobs: Iterator[Job], on_answer: Callable[[Answer], None], control: Control) -> None:
        """Have all jobs done; returns when the last answer was taken.

        Raises:
            TierdError: the first error of a worker; what the others had finished was still given to `on_answer`.
            Interrupted: `control` asked for it; likewise.
        """
        try:
            self._run(jobs, on_answer, control)
        except BaseException:
            self.board.stop()
            self._drain(on_answer)
            raise
        finally:
            self._report(control)

    def _run(self, jobs: Iterator[Job], on_answer: Callable[[Answer], None], control: Control) -> None:
        is_exhausted = False
        while True:
            for peer in self._peers:
                while peer.outstanding < _AHEAD:
                    job = self._urgent.popleft() if self._urgent else next(jobs, None) if not is_exhausted else None
                    if job is None:
                        is_exhausted = True
                        break
                    peer.post(job)
            if not any(peer.outstanding for peer in self._peers):
                if not self._urgent:
                    return
                continue
            self._take(on_answer, _TICK_S)
            self._report(control)
            control.checkpoint()

    def _take(self, on_answer: Callable[[Answer], None], timeout_s: float) -> None:
        """Move messages in both directions, waiting at most so long."""
        for peer in self._peers:
            events = selectors.EVENT_READ | (0 if peer.flush() else selectors.EVENT_WRITE)
            self._selector.modify(peer.sock, events, peer)
        for key, events in self._selector.select(timeout_s):
            if not events & selectors.EVENT_READ:
                continue
            peer = key.data
            if peer is None:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._waker)
                continue
            messages, is_gone = peer.receive()
            for status, content in messages:
                peer.outstanding -= 1
                if status == _ANSWER:
                    on_answer(content)
                elif status == _ERROR:
                    code, message, hint = content
                    raise by_code(code)(message, hint=hint)
                else:
                    raise Interrupted("asked to stop")
            if is_gone:
                raise StorageError("a copying process ended unexpectedly", hint="Its last words are in the log.")

    def _drain(self, on_answer: Callable[[Answer], None]) -> None:
        """After an error: keep what is finished already, within a second."""
        deadline = time.monotonic() + _GOODBYE_S
        waiting = [peer for peer in self._peers if peer.outstanding]
        while waiting and time.monotonic() < deadline:
            for peer in list(waiting):
                messages, is_gone = peer.receive()
                for status, content in messages:
                    peer.outstanding -= 1
                    if status == _ANSWER:
                        on_answer(content)
                    else:
                        is_gone = True  # it has stopped: what it had waiting is not begun
                if is_gone or not peer.outstanding:
                    waiting.remove(peer)
            if waiting:
                time.sleep(0.005)

    def _report(self, control: Control) -> None:
        done = self.board.totals()
        before, self._reported = self._reported, done
        if done != before:
            control.progress(bytes=done[0] - before[0], files=done[1] - before[1])


def _prepare_child(parent: int) -> None:
    die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel was told
        os._exit(1)
    signal.set_wakeup_fd(-1)
    # The parent stops its crew itself. A broken lease (SIGIO) is noticed by nobody and must not kill.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGIO):
        signal.signal(number, signal.SIG_IGN)
    os.umask(0)
    gc.disable()  # nothing here makes cycles, and a collection would touch (and so copy) the parent's pages


def _serve(sock: socket.socket, worker: Worker) -> None:
    """Take jobs until the parent closes the socket."""
    stream = sock.makefile("rb", buffering=1 << 16)
    while True:
        try:
            head = stream.read(_FRAME.size)
        except ConnectionResetError:
            return
        if len(head) < _FRAME.size:
            return
        job = marshal.loads(stream.read(_FRAME.unpack(head)[0]))
        message: tuple[int, Answer]
        try:
            message = (_ANSWER, worker.handle(job))
        except Interrupted:
            message = (_STOPPED, None)
        except TierdError as error:
            message = (_ERROR, (error.code, error.message, error.hint))
        except OSError as error:
            told = translate(error, str(error.filename or "a copying process"))
            message = (_ERROR, (told.code, told.message, told.hint))
        data = marshal.dumps(message)
        try:
            sock.sendall(_FRAME.pack(len(data)) + data)
        except (BrokenPipeError, ConnectionResetError):
            return  # the parent has gone away
