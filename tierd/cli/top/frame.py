"""A whole screen: title, views, the view, and a line for keys, questions and what is wrong."""

from __future__ import annotations

import textwrap
from datetime import datetime

from tierd.cli.terminal import Cell
from tierd.cli.top import lists
from tierd.cli.top.lines import Line, fit, line
from tierd.cli.top.overview import overview
from tierd.cli.top.state import Name, Seen, State
from tierd.model.units import format_duration

_AROUND = 3
_WIDE = 100
_MOST_ROWS = 200  # the daemon answers no more at once
_HELP = (
    ("1 2 3 4, Tab", "overview, snapshots, transfers, uses"),
    ("q", "quit"),
    ("?", "this help; any key closes it"),
    ("arrows, PgUp, PgDn, Home, End", "choose a line, turn pages"),
    ("/", "filter snapshots by a part of their name, or of a holder's; Esc shows all again"),
    ("s v u h n", "sort snapshots by size, value, last use, holds, name; again: the other way round"),
    ("w", "warm the chosen snapshot and hold it for an hour (asks first)"),
    ("c", "cancel the chosen transfer (asks first)"),
    ("b", "rank uses by user, job, program, snapshot or dataset"),
    ("Ctrl-L", "draw the screen anew"),
    ("value*", "seconds that a GiB on flash saves in a day; of the least value leaves first"),
)
_KEYS = {
    Name.OVERVIEW: "q quit  ? help  1-4 views",
    Name.SNAPSHOTS: "q quit  ? help  / filter  s v u h n sort  w warm",
    Name.TRANSFERS: "q quit  ? help  c cancel",
    Name.USES: "q quit  ? help  b by",
}


def fits(view: Name, height: int) -> int:
    """How many rows of a list have room on a screen of this height."""
    below = 0 if view is Name.USES else lists.BELOW
    return max(1, min(_MOST_ROWS, height - _AROUND - lists.ABOVE - below))


def frame(state: State, seen: Seen, width: int, height: int, now: datetime) -> list[Line]:
    """The lines of the whole screen, each of exactly its width."""
    body = _help(width) if state.shows_help else _body(state, seen, width, height - _AROUND, now)
    room = max(0, height - _AROUND)
    body = [*body, *([()] * room)][:room]
    shown = [_title(seen, width, now), _tabs(state, width), *body, _foot(state, seen)]
    # On a very low screen the last line says most.
    return [fit(each, width) for each in shown[-height:]] if height > 0 else []


def _body(state: State, seen: Seen, width: int, height: int, now: datetime) -> list[Line]:
    match state.view:
        case Name.OVERVIEW:
            return overview(seen, width, height, now)
        case Name.SNAPSHOTS:
            return lists.snapshots(seen, state, width, now)
        case Name.TRANSFERS:
            return lists.transfers(seen, state, width, now)
        case Name.USES:
            return lists.uses(seen, state, width, now)


def _title(seen: Seen, width: int, now: datetime) -> Line:
    status = seen.overview.status
    parts = [Cell(f"tierd {status.version}", "bold"), Cell(f"  up {format_duration(round(status.uptime_s))}")]
    if status.is_paused:
        parts.append(Cell("  ALL TRANSFERS PAUSED", "bold yellow"))
    if status.slowed_transfers:
        parts.append(Cell(f"  {status.slowed_transfers} slowed: the disks are busy", "yellow"))
    if status.problems:
        parts.append(Cell(f"  {len(status.problems)} with problems", "bold red"))
    clock = f"{now.astimezone():%H:%M:%S}"
    return (*fit(line(*parts), max(0, width - len(clock) - 1)), Cell(" "), Cell(clock, "dim"))


def _tabs(state: State, width: int) -> Line:
    names = list(Name)
    is_wide = width >= 56
    parts = list[Cell]()
    for number, name in enumerate(names, 1):
        is_shown = name is state.view
        text = f" {number} {name} " if is_wide or is_shown else f" {number} "
        parts.append(Cell(text, "reverse bold" if is_shown else "dim"))
    return line(*parts)


def _foot(state: State, seen: Seen) -> Line:
    if state.asks is not None:
        return line(Cell(f"{state.asks.question} y/n ", "bold yellow"))
    if state.is_typing:
        return line(Cell("filter: ", "bold"), state.text, Cell("_", "bold"))
    if seen.trouble is not None:
        return line(Cell(seen.trouble, "bold red"))
    if state.message:
        return line(Cell(state.message, "yellow"))
    return line(Cell(_KEYS[state.view], "dim"))


def _help(width: int) -> list[Line]:
    shown = list[Line]()
    for keys, what in _HELP:
        if width >= _WIDE:
            shown.append(line(Cell(f"{keys:<30}", "bold"), what))
            continue
        shown.append(line(Cell(keys, "bold")))
        shown += [line(f"  {part}") for part in textwrap.wrap(what, max(10, width - 2))]
    return shown
