"""The loop of the live view: what is typed, what the daemon says, and what is drawn of both."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tierd.cli.leaving import BY_SIGNAL
from tierd.cli.top.asking import Asking
from tierd.cli.top.frame import fits, frame
from tierd.cli.top.screen import Screen
from tierd.cli.top.state import Action, Seen, State, press, settle

if TYPE_CHECKING:
    from tierd.client import Tierd

_GENTLE = 5
"""The daemon is left alone for so many times as long as it took to answer, however short `every` is."""
_LONG_S = 3.0

_Told = tuple[Seen, str | None]


def live(daemon: Tierd, state: State, *, every: timedelta, since: timedelta, ranked: int) -> None:
    """Show what the daemon says until somebody has seen enough.

    Raises:
        TierdError: the daemon cannot be asked at the beginning. Later it is only said.
    """
    screen = Screen()
    state = replace(state, fits=fits(state.view, screen.size[1]))
    asking = Asking(daemon, since=since, ranked=ranked)
    loop = _Loop(screen, asking, state, asking.first(state.wanted), every.total_seconds())
    with screen.signals():
        while not loop.is_over:
            with screen.taken():
                loop.run()
            if screen.is_suspended and not loop.is_over:
                screen.is_suspended = False
                os.kill(os.getpid(), signal.SIGSTOP)
    if screen.ended_by == signal.SIGINT:
        raise KeyboardInterrupt
    if screen.ended_by is not None:
        raise SystemExit(BY_SIGNAL + screen.ended_by)


class _Loop:
    """Draws, waits, and has the daemon asked by a thread, so that keys are answered at once."""

    def __init__(self, screen: Screen, asking: Asking, state: State, seen: Seen, every_s: float) -> None:
        self._screen, self._asking, self._every_s = screen, asking, every_s
        self._state, self._seen = settle(state, seen), seen
        self._asked = state.wanted
        self._actions: list[Action] = []
        self._answer: Future[_Told] | None = None
        self._begun_at = time.monotonic()
        self._due_at = self._begun_at + every_s
        self._size = (0, 0)

    @property
    def is_over(self) -> bool:
        return self._state.is_over or self._screen.is_gone or self._screen.ended_by is not None

    def run(self) -> None:
        """Go on until it is over, or suspended."""
        is_anew = True
        while not self.is_over and not self._screen.is_suspended:
            size = self._screen.size
            is_anew, self._size = is_anew or self._screen.is_spoilt or size != self._size, size
            self._screen.is_spoilt = False
            self._state = settle(replace(self._state, fits=fits(self._state.view, size[1])), self._seen)
            self._ask()
            self._screen.show(frame(self._state, self._with_silence(), *size, datetime.now(UTC)), anew=is_anew)
            keys = self._screen.wait(max(0.0, min(1.0, self._due_at - time.monotonic())) if self._is_idle else 1.0)
            is_anew = "redraw" in keys
            for key in keys:
                self._state, action = press(self._state, key, self._seen)
                if action is not None:
                    self._actions.append(action)
                    self._state = replace(self._state, message="asking …")
            self._take()

    def _with_silence(self) -> Seen:
        """What was seen; and since when nobody answers, where that is long."""
        silent_s = 0.0 if self._answer is None else time.monotonic() - self._begun_at
        if silent_s < _LONG_S:
            return self._seen
        return replace(self._seen, trouble=f"the daemon has not answered for {silent_s:.0f}s")

    @property
    def _is_idle(self) -> bool:
        return self._answer is None

    def _ask(self) -> None:
        """Have the daemon asked, if it is time, or something else has to be shown; one question at a time."""
        wanted, actions = self._state.wanted, self._actions
        is_due = time.monotonic() >= self._due_at or bool(actions)
        if not self._is_idle or not (is_due or wanted != self._asked):
            return
        before, self._asked, self._actions = self._seen, wanted, []

        def asked() -> _Told:
            said = [self._asking.carry_out(action) for action in actions]
            seen = self._asking.again(before, wanted, only_list=not is_due)
            return seen, said[-1] if said else None

        self._begun_at = time.monotonic()
        self._answer = _in_thread(asked, self._screen.wake)
        if is_due:
            self._due_at = float("inf")  # until it has answered

    def _take(self) -> None:
        """Take the answer, if there is one."""
        if self._answer is None or not self._answer.done():
            return
        self._seen, said = self._answer.result()
        self._answer = None
        if said is not None:
            self._state = replace(self._state, message=said)
        if self._due_at == float("inf"):
            took_s = time.monotonic() - self._begun_at
            self._due_at = time.monotonic() + max(self._every_s, _GENTLE * took_s)


def _in_thread(asked: Callable[[], _Told], wake: Callable[[], None]) -> Future[_Told]:
    """Call it in a thread that nobody has to wait for: a daemon that hangs must not keep anybody from leaving."""
    answer: Future[_Told] = Future()

    def run() -> None:
        try:
            answer.set_result(asked())
        except BaseException as error:  # noqa: BLE001  raised again in the loop
            answer.set_exception(error)
        wake()

    threading.Thread(target=run, name="tierd-top", daemon=True).start()
    return answer
