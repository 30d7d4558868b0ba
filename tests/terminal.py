"""A program on a real pseudo-terminal, and the screen that a person would see there."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_SEQUENCE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])")
_LONGEST_S = 60.0


class Emulator:
    """As much of a terminal as the live view uses; anything else it is sent is an error."""

    def __init__(self, columns: int, lines: int) -> None:
        self.alternate = False
        self.cursor_shown = True
        self.is_whole = True
        """Not while a screen is drawn, of which a part has come."""
        self.styles: set[str] = set()
        self._rest = ""
        self.resize(columns, lines)

    def resize(self, columns: int, lines: int) -> None:
        self.columns, self.lines = columns, lines
        self.cells = [[" "] * columns for _ in range(lines)]
        self.main: list[str] = []
        self._x = self._y = 0

    @property
    def text(self) -> str:
        return "\n".join("".join(row).rstrip() for row in self.cells)

    def feed(self, text: str) -> None:
        text, at = self._rest + text, 0
        self._rest = ""
        while at < len(text):
            char = text[at]
            if char == "\x1b":
                found = _SEQUENCE.match(text, at)
                if found is None:
                    assert len(text) - at < 20, f"a sequence that is not known: {text[at : at + 20]!r}"
                    self._rest = text[at:]
                    return
                self._control(found[1], found[2])
                at = found.end()
                continue
            at += 1
            if char == "\r":
                self._x = 0
            elif char == "\n":
                self._down()
            else:
                assert char.isprintable(), f"a control character came through: {char!r}"
                self._put(char)

    def _control(self, arguments: str, letter: str) -> None:
        match arguments, letter:
            case "?1049", "h" | "l":
                self.alternate = letter == "h"
            case "?25", "h" | "l":
                self.cursor_shown = letter == "h"
            case "?2026", "h" | "l":
                self.is_whole = letter == "l"
            case "", "H":
                self._x = self._y = 0
            case "2", "J":
                self.cells = [[" "] * self.columns for _ in range(self.lines)]
            case "", "J":
                self.cells[self._y][self._x :] = [" "] * max(0, self.columns - self._x)
                for row in range(self._y + 1, self.lines):
                    self.cells[row] = [" "] * self.columns
            case _, "m":
                self.styles.add(arguments)
            case _:
                raise AssertionError(f"a sequence that is not known: {arguments}{letter}")

    def _down(self) -> None:
        if self._y < self.lines - 1:
            self._y += 1
        else:
            self.cells = [*self.cells[1:], [" "] * self.columns]

    def _put(self, char: str) -> None:
        width = 2 if unicodedata.east_asian_width(char) in "WF" else 0 if unicodedata.combining(char) else 1
        if width == 0:
            return
        if self._x + width > self.columns:
            self._x = 0
            self._down()
        self.cells[self._y][self._x] = char
        if width == 2:
            self.cells[self._y][self._x + 1] = ""
        self._x += width


class OnTerminal:
    """A program that runs on a terminal of this size."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, columns: int = 100, lines: int = 30
    ) -> None:
        self.screen = Emulator(columns, lines)
        self.master, self.slave = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self.slave)

        def begin() -> None:
            os.setsid()
            fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            command,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "", "LINES": "", **environment},
            preexec_fn=begin,
        )

    def resize(self, columns: int, lines: int) -> None:
        """Another size of the window; the kernel tells the program."""
        self.screen.resize(columns, lines)
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def look(self, wait_s: float = 0.1) -> str:
        """What is on the screen, after what came meanwhile."""
        ready, _, _ = select.select([self.master], [], [], wait_s)
        if ready:
            self.screen.feed(os.read(self.master, 1 << 16).decode("utf-8", "replace"))
        return self.screen.text

    def until(self, is_seen: str | Callable[[str], Any], what: str = "") -> str:
        """The screen as soon as something is seen on it: a text, or what a function finds."""
        deadline = time.monotonic() + _LONGEST_S
        while time.monotonic() < deadline:
            text = self.look()
            if self.screen.is_whole and (is_seen in text if isinstance(is_seen, str) else is_seen(text)):
                return text
            if self.process.poll() is not None:
                break
        raise AssertionError(f"not seen: {what or is_seen}\n{self.screen.text}")

    def end(self) -> int:
        """Wait until the program has ended; everything that it wrote is on the screen then."""
        deadline = time.monotonic() + _LONGEST_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end\n{self.screen.text}"
            self.look()
        while select.select([self.master], [], [], 0.1)[0]:
            self.look()
        return self.process.returncode

    @property
    def is_as_before(self) -> bool:
        """Whether the terminal is as the program found it."""
        is_same = termios.tcgetattr(self.slave) == self.before
        return is_same and not self.screen.alternate and self.screen.cursor_shown

    def hang_up(self) -> None:
        """Close the window."""
        for end in {self.master, self.slave} - {-1}:
            os.close(end)
        self.master = self.slave = -1

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.hang_up()
