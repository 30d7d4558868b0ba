"""The terminal: taken for a while, drawn on as a whole, and given back as it was, however that ends."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.text import Text

from tierd.cli.top.keys import Keys
from tierd.cli.top.lines import Line

_ENTER = "\x1b[?1049h\x1b[?25l\x1b[2J"
_LEAVE = "\x1b[?25h\x1b[?1049l"
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
"""Around what is shown at once; terminals that do not know this show it as it comes."""
_HOME, _CLEAR, _REST = "\x1b[H", "\x1b[2J", "\x1b[J"
_PLAIN = str.maketrans("█▒░│→↑↓·…▸–", "#=-|>^v-~>-")
_REST_OF_KEY_S = 0.05
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)
_ENDS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


class Screen:
    """What is drawn on and typed at. Signals are only noted: the loop sees them when nothing is half done.

    Attributes:
        ended_by: the signal that asks to end; is_suspended: Ctrl-Z was typed; is_gone: nobody is there any more.
        is_spoilt: somebody else may have written on it.
    """

    def __init__(self) -> None:
        self.ended_by: int | None = None
        self.is_suspended = self.is_gone = self.is_spoilt = False
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        self._keys = Keys()
        self._read_end, self._write_end = os.pipe()
        for end in (self._read_end, self._write_end):
            os.set_blocking(end, False)
        self._can_draw_blocks = _can_encode(_PLAIN)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines."""
        try:
            size = os.get_terminal_size(self._out)
        except OSError:
            return 80, 24
        return size.columns or 80, size.lines or 24

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Note signals while the context lasts; each wakes whoever waits."""
        # What is ignored stays so: under nohup, and where no shell would continue what Ctrl-Z has stopped.
        heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._note) for number in heard}
        wakes = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakes)
            for number, handler in before.items():
                signal.signal(number, handler)
            ends, self._read_end, self._write_end = (self._read_end, self._write_end), -1, -1
            for end in ends:
                os.close(end)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """The terminal shows nothing but this, and what is typed is not echoed, while the context lasts."""
        before = termios.tcgetattr(self._in)
        mine = termios.tcgetattr(self._in)
        mine[3] &= ~(termios.ICANON | termios.ECHO)
        mine[6][termios.VMIN], mine[6][termios.VTIME] = 1, 0
        try:
            termios.tcsetattr(self._in, termios.TCSADRAIN, mine)
            self._write(_ENTER)
            yield
        finally:
            # A terminal that is gone needs nothing back.
            with contextlib.suppress(OSError):
                self._write(_LEAVE)
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._in, termios.TCSAFLUSH, before)

    def show(self, lines: Sequence[Line], *, anew: bool) -> None:
        """Draw the whole screen at once.

        Args:
            anew: clear it first: its size has changed, or somebody else has written on it.
        """
        width, height = self.size
        console = Console(file=sys.stdout, force_terminal=True, width=width, height=height, highlight=False)
        with console.capture() as drawn:
            for number, each in enumerate(lines):
                texts = ((self._showable(c.text), c.style) for c in each)
                console.print(
                    Text.assemble(*texts), no_wrap=True, overflow="crop", crop=True, markup=False, emoji=False, end=""
                )
                if number < len(lines) - 1:
                    console.print("", end="\r\n", markup=False)
        rest = "" if len(lines) >= height else _REST
        self._write(_BEGIN + (_CLEAR if anew else "") + _HOME + drawn.get() + rest + _END)

    def wait(self, timeout_s: float) -> list[str]:
        """What was typed; returns when something was, when `wake` was called or a signal came, or after a while."""
        if self._keys.is_waiting:
            timeout_s = min(timeout_s, _REST_OF_KEY_S)
        ready, _, _ = select.select([self._in, self._read_end], [], [], max(0.0, timeout_s))
        if self._read_end in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._read_end, 4096)
        if self._in not in ready:
            return self._keys.flush() if not ready else []
        try:
            typed = os.read(self._in, 4096)
        except OSError:
            typed = b""
        if not typed:
            self.is_gone = True
        return self._keys.feed(typed)

    def wake(self) -> None:
        """Let `wait` return; from any thread."""
        # A full pipe wakes as well; a closed one has nobody left to wake.
        with contextlib.suppress(OSError):
            os.write(self._write_end, b"\0")

    def _note(self, number: int, _: FrameType | None) -> None:
        if number in _ENDS:
            self.ended_by = number
        elif number == signal.SIGTSTP:
            self.is_suspended = True
        elif number == signal.SIGCONT:
            self.is_spoilt = True

    def _showable(self, text: str) -> str:
        """The text in the characters that this terminal has."""
        if self._can_draw_blocks:
            return text
        encoding = sys.stdout.encoding or "ascii"
        return text.translate(_PLAIN).encode(encoding, "replace").decode(encoding)

    def _write(self, text: str) -> None:
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        except OSError:
            self.is_gone = True


def _can_encode(table: dict[int, int]) -> bool:
    try:
        "".join(map(chr, table)).encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
