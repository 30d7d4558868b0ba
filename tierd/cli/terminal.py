"""What people see: tables and colour on a terminal, plain aligned text in a pipe, never a control character."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from tierd.model.units import format_duration

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Cell:
    """A piece of text with a style of rich (`green`, `bold red`), which only terminals show."""

    text: str
    style: str = ""


Shown = str | Cell


def has_screen() -> bool:
    """Whether there is a terminal on which a whole screen can be drawn, and somebody who can type."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def escape(text: str) -> str:
    """The text with everything that is not printable (control characters, lone surrogates) as an escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def say(message: str) -> None:
    """Tell people something, on standard error; one line."""
    click.echo(f"tierd: {escape(message)}", err=True)


def line(*parts: Shown) -> None:
    """Write one line of a result; the parts follow each other without a gap."""
    if not sys.stdout.isatty():
        click.echo("".join(escape(_text(part)) for part in parts))
        return
    from rich.text import Text

    _console().print(Text.assemble(*((escape(_text(p)), _style(p)) for p in parts)), soft_wrap=True)


def table(head: Sequence[str], rows: Sequence[Sequence[Shown]], *, right: Collection[str] = ()) -> None:
    """Write a table to standard output.

    Args:
        head: titles of the columns.
        right: titles of the columns that are aligned to the right (numbers).
    """
    if sys.stdout.isatty():
        _rich_table(head, rows, right)
    else:
        _plain_table(head, rows, right)


def _plain_table(head: Sequence[str], rows: Sequence[Sequence[Shown]], right: Collection[str]) -> None:
    lines = [list(head), *([escape(_text(cell)) for cell in row] for row in rows)]
    widths = [max(len(cells[i]) for cells in lines) for i in range(len(head))]
    for cells in lines:
        padded = [
            cell.rjust(width) if title in right else cell.ljust(width)
            for title, cell, width in zip(head, cells, widths, strict=True)
        ]
        click.echo("  ".join(padded).rstrip())


def _rich_table(head: Sequence[str], rows: Sequence[Sequence[Shown]], right: Collection[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for title in head:
        drawn.add_column(title, justify="right" if title in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(escape(_text(cell)), style=_style(cell)) for cell in row))
    _console().print(drawn)


def _console() -> Console:
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False)


def _text(shown: Shown) -> str:
    return shown.text if isinstance(shown, Cell) else shown


def _style(shown: Shown) -> str:
    return shown.style if isinstance(shown, Cell) else ""


def user(uid: str | int | None) -> Shown:
    """A user by name, where this machine knows it."""
    if uid is None:
        return Cell("unknown", "dim")
    try:
        return pwd.getpwuid(int(uid)).pw_name
    except (KeyError, OverflowError, ValueError):
        return str(uid)


def local(moment: datetime) -> str:
    """A moment in the time zone of the reader, to the minute."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M %Z}"


def ago(moment: datetime | None) -> str:
    """How long ago, in the two largest units."""
    if moment is None:
        return "never"
    seconds = (datetime.now(UTC) - moment).total_seconds()
    return f"{format_duration(round(seconds))} ago" if seconds >= 1 else "now"


def until(moment: datetime | None) -> str:
    """How long from now."""
    if moment is None:
        return "without end"
    seconds = (moment - datetime.now(UTC)).total_seconds()
    return format_duration(round(seconds)) if seconds >= 1 else "now"


_RESIDENCY_STYLES = {
    "resident": "green",
    "premigrated": "cyan",
    "migrated": "yellow",
    "orphaned": "magenta",
    "partial": "magenta",
    "gone": "red",
}
_STATE_STYLES = {"done": "green", "restoring": "yellow", "failed": "bold red", "cancelled": "yellow", "queued": "dim"}


def residency(name: str) -> Cell:
    """A residency in its colour."""
    return Cell(name, _RESIDENCY_STYLES.get(name, ""))


def state(name: str) -> Cell:
    """A transfer's state in its colour."""
    return Cell(name, _STATE_STYLES.get(name, "cyan"))
