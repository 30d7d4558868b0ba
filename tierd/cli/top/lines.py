"""Lines of text of an exact width: cut, filled, set in columns. Everything is escaped here, wherever it came from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size

from tierd.cli.terminal import Cell, Shown, escape

Line = tuple[Cell, ...]
_GAP = 2
_MORE = "…"
NAME = 24
"""What a column of names of snapshots needs at least, before others are left out for it."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a list.

    Attributes:
        drop: the larger, the earlier it is left out where there is no room; 0: never.
        grows: gets what room is left, and is cut where there is none; the others are as wide as what they hold.
        least: what a column that grows needs at least.
    """

    title: str
    right: bool = False
    drop: int = 0
    grows: bool = False
    least: int = 12


def line(*parts: Shown) -> Line:
    """A line of parts that follow each other without a gap."""
    return tuple(Cell(escape(p.text), p.style) if isinstance(p, Cell) else Cell(escape(p)) for p in parts)


def fit(shown: Line, width: int) -> Line:
    """The line in exactly this width."""
    found, left = list[Cell](), width
    for cell in shown:
        if left <= 0:
            break
        text = cut(cell.text, left)
        left -= cell_len(text)
        found.append(Cell(text, cell.style))
    return (*found, Cell(" " * left)) if left > 0 else tuple(found)


def cut(text: str, width: int) -> str:
    """The text in this width at most; what is missing is marked."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(0, width - 1)) + _MORE if width > 0 else ""


def styled(shown: Line, style: str) -> Line:
    """The line with one style throughout."""
    return tuple(Cell(cell.text, style) for cell in shown)


def columns(head: Sequence[Column], rows: Sequence[Sequence[Shown]], width: int) -> list[Line]:
    """A head and rows, aligned; columns that find no room are left out."""
    cells = [line(*row) for row in rows]
    widths = [max([cell_len(c.title), *(cell_len(row[i].text) for row in cells)]) for i, c in enumerate(head)]
    kept = list(range(len(head)))
    while len(kept) > 1 and _needed(head, widths, kept) > width:
        last = max(kept, key=lambda i: head[i].drop)
        if not head[last].drop:
            break
        kept.remove(last)
    _share(head, widths, kept, width)
    titles = line(*(Cell(c.title, "bold") for c in head))
    return [
        _row([cells_[i] for i in kept], [head[i] for i in kept], [widths[i] for i in kept])
        for cells_ in (titles, *cells)
    ]


def _needed(head: Sequence[Column], widths: Sequence[int], kept: Sequence[int]) -> int:
    return sum(min(widths[i], head[i].least) if head[i].grows else widths[i] for i in kept) + _GAP * (len(kept) - 1)


def _share(head: Sequence[Column], widths: list[int], kept: Sequence[int], width: int) -> None:
    """Cut what grows until all fits: the widest first, and below what a column needs only if nothing else is left."""
    growing = [i for i in kept if head[i].grows]
    for least in ({i: min(head[i].least, widths[i]) for i in growing}, dict.fromkeys(growing, 1)):
        over = sum(widths[i] for i in kept) + _GAP * (len(kept) - 1) - width
        for _ in range(over):
            wide = [i for i in growing if widths[i] > least[i]]
            if not wide:
                break
            widths[max(wide, key=lambda i: widths[i])] -= 1


def _row(cells: Iterable[Cell], head: Sequence[Column], widths: Sequence[int]) -> Line:
    found = list[Cell]()
    for cell, column, width in zip(cells, head, widths, strict=True):
        if found:
            found.append(Cell(" " * _GAP))
        text = cut(cell.text, width)
        blank = " " * (width - cell_len(text))
        found.append(Cell(blank + text if column.right else text + blank, cell.style))
    return tuple(found)
