"""The views that are lists: snapshots, transfers, uses."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from tierd.cli import terminal
from tierd.cli.terminal import Cell, Shown, user
from tierd.cli.top.lines import NAME, Column, Line, columns, line, styled
from tierd.cli.top.state import Seen, State
from tierd.model.units import format_duration, format_rate, format_size

if TYPE_CHECKING:
    from tierd.client import Snapshot, Transfer

ABOVE, BELOW = 2, 2
"""Lines of a list that are no rows: what it is and its head; what the chosen row has to say."""

_EWR = "ewr"
_PER_GIB_AND_DAY = float(1 << 30) * 86_400.0
_BAR = 10


def age(moment: datetime | None, now: datetime) -> str:
    """How long ago."""
    return "" if moment is None else _duration((now - moment).total_seconds())


def left(moment: datetime | None, now: datetime) -> str:
    """How long from now; what has no end is pinned."""
    return "pinned" if moment is None else _duration((moment - now).total_seconds())


def _duration(seconds: float) -> str:
    return format_duration(round(seconds)) if seconds >= 1 else "now"


# ------------------------------------------------------------------ snapshots


def snapshots(seen: Seen, state: State, width: int, now: datetime) -> list[Line]:
    """Snapshots as the daemon sorted and cut them."""
    if seen.rows is None or seen.rows_for is None:
        return [line(Cell("asking …", "dim"))]
    found, asked = seen.rows, seen.rows_for
    last = found.offset + len(found.items)
    order = f"by {asked.sort}{', reversed' if asked.is_reversed else ''}"
    of = f"{found.matching:,} of {found.total:,} with {asked.text!r}" if asked.text else f"{found.total:,}"
    where = f"{found.offset + 1:,}–{last:,} of {of}" if found.items else f"none of {of}"
    unit = "VALUE*" if found.policy == _EWR else "VALUE"
    head = (
        Column(title="SNAPSHOT", grows=True, least=NAME),
        Column(title="RESIDENCY", drop=2),
        Column(title="SIZE", right=True),
        Column(title=unit, right=True, drop=4),
        Column(title="LAST USED", right=True, drop=1),
        Column(title="HELD BY", grows=True, drop=3, least=8),
        Column(title="NOTE", grows=True, drop=5, least=10),
    )
    rows: list[Sequence[Shown]] = [
        (
            r.snapshot.ref,
            terminal.residency(r.snapshot.residency),
            format_size(r.snapshot.size_bytes),
            _value(r.value * _PER_GIB_AND_DAY if found.policy == _EWR else r.value),
            age(r.snapshot.accessed_at, now),
            _holders(r.snapshot),
            _note(r.snapshot),
        )
        for r in found.items
    ]
    chosen = state.chosen - found.offset
    shown = [line(Cell(f"snapshots {order} · {where}", "dim")), *_list(head, rows, width, chosen)]
    if 0 <= chosen < len(found.items):
        row = found.items[chosen]
        shown += [*_blank(state, len(rows)), line(Cell(row.snapshot.path, "bold")), line(row.why)]
    return shown


def _value(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _holders(s: Snapshot) -> str:
    if not s.holds:
        return ""
    first, more = s.holds[0], len(s.holds) - 1
    who = f"pin, {first.holder}" if first.expires_at is None else first.holder
    return f"{who} +{more}" if more else who


def _note(s: Snapshot) -> Shown:
    if s.problem is not None:
        return Cell(s.problem, "bold red")
    if s.transfer is not None:
        return Cell(f"{s.transfer.kind}{_share(s.transfer)}", "cyan")
    return Cell("deleted", "red") if s.gone_at is not None else "" if s.is_settled else Cell("being written", "dim")


def _share(t: Transfer) -> str:
    return f" {min(1.0, t.bytes_done / t.bytes_total):.0%}" if t.bytes_total else ""


# ------------------------------------------------------------------ transfers


def transfer_columns() -> tuple[Column, ...]:
    """The columns of `transfer_row`."""
    return (
        Column(title="ID", right=True, drop=5),
        Column(title="SNAPSHOT", grows=True, least=NAME),
        Column(title="WHAT", drop=3),
        Column(title="DONE", drop=7),
        Column(title="", right=True),
        Column(title="BYTES", right=True, drop=4),
        Column(title="RATE", right=True, drop=2),
        Column(title="LEFT", right=True, drop=1),
        Column(title="STATE", grows=True, least=22),
        Column(title="WHY", grows=True, drop=8, least=16),
    )


def transfer_row(t: Transfer, now: datetime) -> list[Shown]:
    """A transfer: how far it is, and whether it will be in time."""
    share = min(1.0, t.bytes_done / t.bytes_total) if t.bytes_total else 0.0
    full = round(share * _BAR)
    return [
        str(t.id),
        t.ref,
        f"{_way(t)} {t.kind}{'+release' if t.release else ''}",
        Cell("█" * full + "░" * (_BAR - full), "cyan"),
        f"{share:.0%}",
        f"{format_size(t.bytes_done)} of {format_size(t.bytes_total)}",
        "" if t.rate_bytes_per_s is None or t.is_finished else format_rate(t.rate_bytes_per_s),
        _remaining(t, now),
        _state(t, now),
        Cell(t.error, "red") if t.error else t.reason,
    ]


def _way(t: Transfer) -> str:
    return "↑" if t.kind == "recall" else "↓"


def _remaining(t: Transfer, now: datetime) -> str:
    if t.is_finished:
        return f"{age(t.finished_at, now)} ago"
    if t.expected_at is not None:
        return left(t.expected_at, now)
    return "" if t.eta_s is None else format_duration(max(1, round(t.eta_s)))


def _state(t: Transfer, now: datetime) -> Cell:
    """What it does; and its deadline, where it has one."""
    if t.is_finished:
        return terminal.state(t.state)
    due = "" if t.due_at is None else f", due in {left(t.due_at, now)}"
    if t.is_late:
        return Cell(f"LATE{due}: {t.step or t.state}", "bold red")
    step = "stopping" if t.cancel_requested else "paused" if t.is_paused else t.step or t.state
    return Cell(f"{step}{due}", terminal.state(t.state).style)


def transfers(seen: Seen, state: State, width: int, now: datetime) -> list[Line]:
    """Transfers that are under way or wait, then those that ended."""
    live = seen.overview.status.live_transfers
    ended = sum(t.is_finished for t in seen.transfers)
    title = line(Cell(f"transfers · {live or 'none'} under way or waiting · the last {ended} that ended", "dim"))
    part = seen.transfers[state.top : state.top + state.fits]
    rows = [transfer_row(t, now) for t in part]
    chosen = state.chosen - state.top
    shown = [title, *_list(transfer_columns(), rows, width, chosen)]
    if 0 <= chosen < len(part):
        t = part[chosen]
        reason = line(Cell(t.error, "red")) if t.error else line(t.reason)
        asked = line(Cell(f"{t.ref}: {t.source} → {t.destination}, asked by {t.requested_by}", "bold"))
        shown += [*_blank(state, len(rows)), asked, reason]
    return shown


# ------------------------------------------------------------------ uses


def uses(seen: Seen, state: State, width: int, now: datetime) -> list[Line]:
    """Who or what was most active."""
    if seen.ranked_by != state.by:
        return [line(Cell("asking …", "dim"))]
    head = (
        Column(title=state.by.upper(), grows=True),
        Column(title="SNAPSHOTS", right=True, drop=3),
        Column(title="SIZE", right=True, drop=1),
        Column(title="EPISODES", right=True, drop=4),
        Column(title="READS", right=True),
        Column(title="WRITES", right=True, drop=5),
        Column(title="LAST", right=True, drop=2),
    )
    rows: list[Sequence[Shown]] = [
        (
            user(r.name) if state.by == "user" else Cell("unknown", "dim") if r.name is None else r.name,
            str(r.snapshots),
            format_size(r.size_bytes),
            str(r.episodes),
            str(r.reads),
            str(r.writes),
            age(r.last_at, now),
        )
        for r in seen.ranked[state.top : state.top + state.fits]
    ]
    title = line(Cell(f"uses by {state.by}, {len(seen.ranked) or 'none'} · b ranks by something else", "dim"))
    return [title, *_list(head, rows, width, state.chosen - state.top)]


def _list(head: Sequence[Column], rows: Sequence[Sequence[Shown]], width: int, chosen: int) -> list[Line]:
    """Rows with a mark at the chosen one, which is seen without colour too."""
    if not rows:
        return []
    top, *shown = columns(head, rows, width - 2)
    marked = [
        (Cell("▸ ", "reverse"), *styled(row, "reverse")) if i == chosen else (Cell("  "), *row)
        for i, row in enumerate(shown)
    ]
    return [(Cell("  "), *top), *marked]


def _blank(state: State, rows: int) -> list[Line]:
    return [()] * max(0, state.fits - rows)
