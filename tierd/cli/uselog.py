"""Reads recorded uses, as `tierd history` writes them or anybody else does: CSV, or a JSON object a line."""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tierd.errors import InvalidRequest

if TYPE_CHECKING:
    from tierd.decide.simulate import Access

_NEEDED = ("time", "snapshot", "bytes")
_OPTIONAL = ("passes", "files")
_HINT = "Write time,snapshot,bytes: an ISO 8601 time or seconds, a name, a whole number."


@contextmanager
def opened(log: Path) -> Iterator[tuple[TextIO, str]]:
    """The file and what to call it; `-` is standard input.

    Raises:
        InvalidRequest: it cannot be opened.
    """
    if str(log) == "-":
        yield sys.stdin, "standard input"
        return
    try:
        file = log.open(newline="", encoding="utf-8-sig", errors="surrogateescape")
    except OSError as e:
        raise InvalidRequest(f"{log} cannot be read: {e.strerror}", hint="Name a file of `tierd history`.") from e
    with file:
        yield file, str(log)


def read(file: TextIO, name: str) -> Iterator[Access]:
    """Read all uses; columns are found by their titles, others are ignored.

    Raises:
        InvalidRequest: a line is faulty; it is named.
    """
    try:
        first = next(file, "").removeprefix("\ufeff")
        lines = itertools.chain([first], file)
        yield from _json(lines, name) if first.lstrip().startswith("{") else _csv(lines, name)
    except OSError as e:
        raise InvalidRequest(f"{name} cannot be read: {e.strerror}", hint="Name a file of `tierd history`.") from e
    except UnicodeDecodeError as e:
        raise InvalidRequest(f"{name} is not UTF-8", hint="Save it as UTF-8.") from e


def _csv(lines: Iterator[str], name: str) -> Iterator[Access]:
    rows = csv.reader(lines)
    try:
        head = [title.strip().lower() for title in next(rows, [])]
        missing = [title for title in _NEEDED if title not in head]
        if missing:
            raise InvalidRequest(
                f"{name} has no column {', '.join(missing)}",
                hint="The first line names the columns: time,snapshot,bytes and perhaps passes,files.",
            )
        when, snapshot, size = (head.index(title) for title in _NEEDED)
        passes, files = (head.index(title) if title in head else None for title in _OPTIONAL)
        for row in rows:
            if not row:
                continue
            try:
                access = _access(
                    row[when],
                    row[snapshot],
                    row[size],
                    row[passes] if passes is not None else "",
                    row[files] if files is not None else "",
                )
            except IndexError as e:
                raise _misfit(name, rows.line_num, "it has too few columns") from e
            except (ValueError, OverflowError) as e:
                raise _misfit(name, rows.line_num, str(e)) from e
            yield access
    except csv.Error as e:
        raise InvalidRequest(f"{name}, line {rows.line_num}: {e}", hint="It must be CSV.") from e


def _json(lines: Iterator[str], name: str) -> Iterator[Access]:
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            said = json.loads(text)
            absent = [title for title in _NEEDED if title not in said] if isinstance(said, dict) else _NEEDED
            if absent:
                raise ValueError(f"it has no {', '.join(absent)}")
            yield _access(*(str(said[title]) for title in _NEEDED), *(str(said.get(t, "")) for t in _OPTIONAL))
        except (ValueError, OverflowError, RecursionError) as e:
            why = f"it is not JSON ({e})" if isinstance(e, json.JSONDecodeError) else str(e)
            raise _misfit(name, number, why) from e


def _access(when: str, snapshot: str, size: str, passes: str, files: str) -> Access:
    from tierd.decide.simulate import Access

    if not snapshot:
        raise ValueError("it names no snapshot")
    return Access(
        at=_moment(when),
        snapshot=snapshot,
        size_bytes=_whole(size),
        passes=max(1, _whole(passes)) if passes else 1,
        files=max(1, _whole(files)) if files else 1,
    )


def _misfit(name: str, number: int, why: str) -> InvalidRequest:
    return InvalidRequest(f"{name}, line {number}: {why}", hint=_HINT)


def _moment(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        try:
            found = datetime.fromisoformat(text.strip())
        except ValueError:
            raise ValueError(f"{text!r} is no time") from None
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    if not abs(seconds) < 1e12:  # above, it is milliseconds or worse
        raise ValueError(f"{text!r} is no time in seconds")
    return seconds


def _whole(text: str) -> int:
    number = int(text) if text.strip().isdecimal() and len(text) < 25 else -1
    if not 0 <= number < 1 << 63:
        raise ValueError(f"{text!r} is not a whole number")
    return number
