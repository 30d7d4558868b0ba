"""The view of everything at a glance: tiers, what moves, what comes next, who holds what, what happened, who reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from tierd.cli.terminal import Cell, Shown, user
from tierd.cli.top.lines import NAME, Column, Line, columns, line
from tierd.cli.top.lists import age, left, transfer_columns, transfer_row
from tierd.cli.top.state import Seen
from tierd.model.units import format_duration, format_size

if TYPE_CHECKING:
    from tierd.client import Tier

_WIDE, _NARROW = 120, 60
_BAR, _SAID = 60, 94


@dataclass(frozen=True, kw_only=True)
class _Section:
    title: str
    total: int
    lines: Sequence[Line]


def overview(seen: Seen, width: int, height: int, now: datetime) -> list[Line]:
    """As much of everything as fits: the first of each part before the second of any."""
    shown = _tiers(seen, width)
    for note in seen.overview.notes:
        shown.append(line(Cell(note, "yellow")))
    return [*shown, *_shared(_sections(seen, width, now), height - len(shown))]


def _sections(seen: Seen, width: int, now: datetime) -> list[_Section]:
    found = seen.overview
    moving = columns(transfer_columns(), [transfer_row(t, now) for t in found.transfers], width)
    steps = columns(
        (
            Column(title="ACTION"),
            Column(title="SNAPSHOT", grows=True, least=NAME),
            Column(title="TO", drop=2),
            Column(title="FREES", right=True, drop=1),
            Column(title="WHY", grows=True, drop=3, least=20),
        ),
        [
            (
                Cell(s.action, "cyan"),
                s.ref,
                "" if s.destination == s.source else s.destination,
                format_size(s.frees_bytes) if s.frees_bytes else "",
                s.reason,
            )
            for s in found.steps
        ],
        width,
    )
    holds = columns(
        (
            Column(title="SNAPSHOT", grows=True, least=NAME),
            Column(title="HELD BY", grows=True, least=10),
            Column(title="ENDS IN", right=True),
            Column(title="SINCE", right=True, drop=1),
            Column(title="NOTE", grows=True, drop=2),
        ),
        [(h.ref, h.holder, left(h.expires_at, now), age(h.since, now), h.note or "") for h in found.holds],
        width,
    )
    is_narrow = width < _NARROW  # the column of what it was has no room then
    events = columns(
        (
            Column(title="AT"),
            Column(title="WHAT", drop=2),
            Column(title="SNAPSHOT", grows=True, drop=1),
            Column(title="MESSAGE", grows=True, least=16),
        ),
        [
            (
                Cell(f"{e.at.astimezone():%H:%M:%S}", "dim"),
                Cell(e.kind, _kind(e.kind)),
                e.ref or "",
                e.kind if is_narrow and not e.message else "" if e.message == e.kind else e.message,
            )
            for e in found.events
        ],
        width,
    )
    users = columns(
        (
            Column(title="USER", grows=True),
            Column(title="READS", right=True),
            Column(title="SNAPSHOTS", right=True, drop=2),
            Column(title="SIZE", right=True, drop=1),
            Column(title="LAST", right=True, drop=3),
        ),
        [
            (user(r.name), str(r.reads), str(r.snapshots), format_size(r.size_bytes), age(r.last_at, now))
            for r in seen.users
        ],
        width,
    )
    return [
        _Section(title="moving", total=found.status.live_transfers, lines=moving),
        _Section(title="next", total=found.steps_total, lines=steps),
        _Section(title="held", total=found.holds_total, lines=holds),
        _Section(title="events", total=len(found.events), lines=events),
        _Section(title="users", total=len(seen.users), lines=users),
    ]


def _kind(kind: str) -> str:
    return "bold red" if kind.endswith(("failed", "lost", "missed")) else "cyan"


def _shared(sections: Sequence[_Section], height: int) -> list[Line]:
    """Give each section lines in turn until none is left: a title and a head, then one row after the other."""
    given = [0] * len(sections)
    least = [2 if len(s.lines) > 1 else 0 for s in sections]  # the head and a row
    room = height - len(sections)  # each has a title, also where it is empty
    for i, need in enumerate(least):
        if 0 < need <= room:
            given[i], room = need, room - need
    is_growing = True
    while room > 0 and is_growing:
        is_growing = False
        for i, section in enumerate(sections):
            if room > 0 and 0 < given[i] < len(section.lines):
                given[i], room, is_growing = given[i] + 1, room - 1, True
    shown = list[Line]()
    for section, count in zip(sections, given, strict=True):
        rows = max(0, count - 1)
        of = f" {rows} of {section.total}" if 0 < rows < section.total else f" {section.total or 'nothing'}"
        shown += [line(Cell(section.title.upper(), "bold cyan"), Cell(of, "dim")), *section.lines[:count]]
    return shown[: max(0, height)]


def _tiers(seen: Seen, width: int) -> list[Line]:
    shown = list[Line]()
    name_width = max([len(t.name) for t in seen.overview.status.tiers] + [0])
    for tier in seen.overview.status.tiers:
        name = Cell(f"{tier.name:<{min(name_width, 12)}} ", "bold")
        if not tier.is_online:
            shown.append(line(name, Cell(f"offline: {tier.offline_reason or 'no reason given'}", "bold red")))
            continue
        full, more = _figures(tier), _more(tier, seen.overview.seconds_to_high.get(tier.name), width)
        if not tier.capacity_bytes:
            shown.append(line(name, full, *more))
        elif width >= _WIDE:
            shown.append(line(name, *_bar(tier, min(_BAR, width - _SAID)), " ", full, *more))
        else:
            shown += [line(name, full, *more), line(*_bar(tier, width))]
    return shown


def _figures(tier: Tier) -> Cell:
    if not tier.capacity_bytes:
        return Cell(f"{format_size(tier.used_bytes)} used, no limit")
    return Cell(f"{tier.used_ratio:.0%} of {format_size(tier.capacity_bytes)}", _style(tier))


def _more(tier: Tier, to_high_s: float | None, width: int) -> list[Shown]:
    """What else there is to say of a tier: the more urgent comes first, for lines that are cut."""
    parts: list[Shown] = []
    if to_high_s is not None:
        parts.append(Cell(f" · {tier.high:.0%} in {format_duration(round(to_high_s))}", "yellow"))
    if tier.reserved_bytes:
        parts.append(Cell(f" · {format_size(tier.reserved_bytes)} reserved", "magenta"))
    if tier.capacity_bytes:
        said = "releases above" if width >= _WIDE else "release"
        parts.append(Cell(f" · {said} {tier.high:.0%}, down to {tier.low:.0%}", "dim"))
    return parts


def _style(tier: Tier) -> str:
    return "bold red" if tier.used_ratio > tier.high else "yellow" if tier.used_ratio > tier.low else "green"


def _bar(tier: Tier, width: int) -> list[Shown]:
    """Used, then reserved; a mark at the low and at the high watermark."""
    inner = max(4, width - 2)
    used = round(min(1.0, tier.used_ratio) * inner)
    reserved = min(inner - used, -(-tier.reserved_bytes * inner // tier.capacity_bytes))
    cells: list[Shown] = [
        *[Cell("█", _style(tier))] * used,
        *[Cell("▒", "magenta")] * reserved,
        *[Cell("░", "dim")] * (inner - used - reserved),
    ]
    for mark, style in ((tier.low, "bold"), (tier.high, "bold red")):
        cells[min(inner - 1, int(mark * inner))] = Cell("│", style)
    return ["[", *cells, "]"]
