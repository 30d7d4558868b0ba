"""A picture of use: snapshots down, days (or hours) across, the darker the more. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from tierd.client import Span

LEVELS = 5
_CELL, _STEP = 11, 13
_LABELS_PX_PER_CHARACTER, _LONGEST_LABEL = 7, 40
_TOP, _BOTTOM, _RIGHT = 34, 30, 12
_STYLE = """
svg { font: 11px system-ui, sans-serif; background: #fff; color-scheme: light dark }
text { fill: #24292f } .l0 { fill: #ebedf0 } .l1 { fill: #b6e3f4 } .l2 { fill: #6cb8e6 } .l3 { fill: #2f81c7 }
.l4 { fill: #0b4f8a } .w { stroke: #bf5700; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
svg { background: #0d1117 } text { fill: #c9d1d9 } .l0 { fill: #1b2230 } .l1 { fill: #0b4f8a } .l2 { fill: #2f81c7 }
.l3 { fill: #6cb8e6 } .l4 { fill: #d6f0fb } }
"""


def level(count: int, most: int) -> int:
    """How dark a cell is: 0 for nothing, then by the order of magnitude, since a loader makes millions of accesses."""
    if count <= 0:
        return 0
    return min(LEVELS - 1, 1 + math.floor((LEVELS - 1) * math.log1p(count - 1) / math.log1p(max(most, 2))))


def grid(spans: Sequence[Span], step: timedelta, until: datetime) -> tuple[list[str], list[datetime]]:
    """The rows (names of snapshots) and the columns (starts of days or hours, without a gap) of a picture."""
    names = sorted({span.ref for span in spans})
    if not spans:
        return [], []
    first = min(span.start for span in spans)
    count = max(1, (max(until, max(span.start for span in spans)) - first) // step + 1)
    return names, [first + n * step for n in range(count)]


def counts(spans: Sequence[Span]) -> dict[tuple[str, datetime], tuple[int, int]]:
    """Reads and writes per cell: snapshots that had a name one after another share its row."""
    found: dict[tuple[str, datetime], tuple[int, int]] = {}
    for span in spans:
        reads, writes = found.get((span.ref, span.start), (0, 0))
        found[span.ref, span.start] = reads + span.reads, writes + span.writes
    return found


def svg(spans: Sequence[Span], *, title: str, step: timedelta, until: datetime) -> str:
    """The picture as a document of its own, legible in light and dark; each cell tells its figures when pointed at."""
    names, columns = grid(spans, step, until)
    found = counts(spans)
    most = max((reads + writes for reads, writes in found.values()), default=0)
    shown = [name if len(name) <= _LONGEST_LABEL else name[: _LONGEST_LABEL - 1] + "…" for name in names]
    left = 16 + _LABELS_PX_PER_CHARACTER * max((len(name) for name in shown), default=0)
    width, height = max(left + _STEP * len(columns) + _RIGHT, 320), _TOP + _STEP * len(names) + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        f' role="img" aria-label="{_text(title)}">',
        f"<title>{_text(title)}</title><style>{_STYLE}</style>",
    ]
    parts += _labels(columns, left, is_daily=step >= timedelta(days=1))
    for row, name in enumerate(names):
        y = _TOP + row * _STEP
        parts.append(f'<text x="8" y="{y + 9}">{_text(shown[row])}</text>')
        for column, start in enumerate(columns):
            reads, writes = found.get((name, start), (0, 0))
            kind = f"l{level(reads + writes, most)}" + (" w" if writes else "")
            when = f"{start:%Y-%m-%d}" if step >= timedelta(days=1) else f"{start:%Y-%m-%d %H:%M}"
            tip = f"{name}, {when} UTC: {reads} reads, {writes} writes"
            x = left + column * _STEP
            parts.append(
                f'<rect class="{kind}" x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" rx="2">'
                f"<title>{_text(tip)}</title></rect>"
            )
    parts += _legend(height, left)
    return "\n".join([*parts, "</svg>", ""])


def _labels(columns: Sequence[datetime], left: int, *, is_daily: bool) -> list[str]:
    """A label where a month begins (of hours: a day), unless it would run into the one before."""
    parts: list[str] = []
    last, free_from = None, 0
    for column, start in enumerate(columns):
        mark = (start.year, start.month) if is_daily else (start.year, start.timetuple().tm_yday)
        x = left + column * _STEP
        if mark != last and x >= free_from:
            text = f"{start:%b %Y}" if is_daily else f"{start:%b %d}"
            parts.append(f'<text x="{x}" y="{_TOP - 10}">{text}</text>')
            free_from = x + 60
        last = mark
    return parts


def _legend(height: int, left: int) -> list[str]:
    y = height - _BOTTOM + 12
    parts = [f'<text x="{left}" y="{y + 9}">less</text>']
    parts += [
        f'<rect class="l{n}" x="{left + 32 + n * _STEP}" y="{y}" width="{_CELL}" height="{_CELL}" rx="2"/>'
        for n in range(LEVELS)
    ]
    parts.append(f'<text x="{left + 36 + LEVELS * _STEP}" y="{y + 9}">more · outlined: written</text>')
    return parts


def _text(value: str) -> str:
    """Text for a document: names of snapshots may hold anything that can be printed."""
    return escape(value, {'"': "&quot;"})
