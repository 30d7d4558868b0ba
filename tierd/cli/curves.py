"""A picture of curves: miss ratio over the size of flash, a line per policy. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from tierd.model.units import format_size

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 780, 420, 60, 160, 40, 50
_COLOURS = (
    "#2f81c7",
    "#d9730d",
    "#2da44e",
    "#8f63e8",
    "#dc3545",
    "#b59f00",
    "#1b9aa3",
    "#d04a9c",
    "#8c6239",
    "#5b8c00",
    "#7a86c8",
)
"""As many as there are policies, each told from the others, and from both backgrounds."""
_LABEL_PX = 64
_STYLE = """
svg { font: 12px system-ui, sans-serif; background: #fff; color-scheme: light dark }
text { fill: #24292f } .axis { stroke: #8c959f; stroke-width: 1 } .grid { stroke: #d0d7de; stroke-width: .5 }
.bound { stroke-dasharray: 5 4 }
@media (prefers-color-scheme: dark) {
svg { background: #0d1117 } text { fill: #c9d1d9 } .grid { stroke: #30363d } }
"""

Curve = Sequence[tuple[int, float]]
"""Sizes of flash in bytes, rising, and ratios."""


def svg(curves: Mapping[str, Curve], *, bound: Curve = (), title: str) -> str:
    """The picture as a document of its own, legible in light and dark; each point tells its figures."""
    sizes = sorted({size for curve in (*curves.values(), bound) for size, _ in curve})
    top, step = _ticks(max((ratio for curve in (*curves.values(), bound) for _, ratio in curve), default=1.0) or 1.0)
    low, high = (sizes[0], sizes[-1]) if sizes else (0, 1)

    def x(size: int) -> float:
        share = 0.5 if high == low else (size - low) / (high - low)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(ratio: float) -> float:
        return round(_HEIGHT - _BOTTOM - ratio / top * (_HEIGHT - _TOP - _BOTTOM), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        f' role="img" aria-label="{_text(title)}">',
        f"<title>{_text(title)}</title><style>{_STYLE}</style>",
        f'<text x="{_LEFT}" y="20">{_text(title)}</text>',
    ]
    for n in range(round(top / step) + 1):
        at = y(n * step)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{at + 4}" text-anchor="end">{n * step * 100:g}%</text>')
    below = _HEIGHT - _BOTTOM + 18
    free_from = 0.0
    for size in sizes:
        if x(size) >= free_from:  # else it would run into the one before
            parts.append(f'<text x="{x(size)}" y="{below}" text-anchor="middle">{_text(format_size(size))}</text>')
            free_from = x(size) + _LABEL_PX
    bottom = _HEIGHT - _BOTTOM
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(
        f'<text x="{_LEFT}" y="{_HEIGHT - 10}">size of flash; down is better: bytes that had to be waited for</text>'
    )
    drawn = [(name, curve, _COLOURS[n % len(_COLOURS)], "") for n, (name, curve) in enumerate(curves.items())]
    if bound:
        drawn.append(("no policy can beat", bound, "#6e7781", ' class="bound"'))
    for n, (name, curve, colour, kind) in enumerate(drawn):
        points = " ".join(f"{x(size)},{y(ratio)}" for size, ratio in curve)
        parts.append(f'<polyline{kind} points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for size, ratio in curve:
            tip = f"{name}, {format_size(size)}: {ratio:.1%}"
            parts.append(
                f'<circle cx="{x(size)}" cy="{y(ratio)}" r="3" fill="{colour}"><title>{_text(tip)}</title></circle>'
            )
        at = _TOP + 18 * n
        parts.append(f'<rect x="{_WIDTH - _RIGHT + 14}" y="{at - 8}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{_WIDTH - _RIGHT + 30}" y="{at + 2}">{_text(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _ticks(most: float) -> tuple[float, float]:
    """The end of an axis, and the step of its marks: round numbers, four to eight of them."""
    scale = 10.0 ** math.floor(math.log10(most))
    step = next(scale * each for each in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0) if most / (scale * each) <= 8)
    return math.ceil(most / step - 1e-9) * step, step


def _text(value: str) -> str:
    return escape(value, {'"': "&quot;"})
