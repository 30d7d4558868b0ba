"""How the daemon's log looks: lines for people, JSON objects for collectors, or entries of systemd's journal.

Names of snapshots come from the file system and texts of errors from other programs: none can forge a line or a field.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime

from tierd.cli.journal import JournalHandler, is_journal, priority_of
from tierd.config import LogConfig

FIELDS = ("event", "event_id", "transfer", "snapshot", "dataset", "tier", "action", "code")
"""What may be given in `extra`; anything else that libraries put there stays out of the log."""
_COLOURS = {logging.WARNING: "\033[33m", logging.ERROR: "\033[31m", logging.CRITICAL: "\033[1;31m"}
_PLAIN, _DIM = "\033[0m", "\033[2m"


def begin_logging(config: LogConfig) -> None:
    """Send the log of this process where and how the configuration says."""
    logging.basicConfig(level=config.level.upper(), handlers=[_handler(config.format)], force=True)
    logging.raiseExceptions = False  # a log that cannot be written is no reason for a traceback on standard error
    # Others say at «info» what tierd says itself, and more of it.
    for name in ("httpx", "httpcore", "uvicorn", "watchdog"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


def _handler(form: str) -> logging.Handler:
    in_journal = is_journal(sys.stderr, os.environ)
    if form == "journal" or (form == "auto" and in_journal):
        return JournalHandler(fields_of, fall_back=_stderr(PrefixLines()))
    if form == "json":
        return _stderr(JsonLines())
    if in_journal:
        return _stderr(PrefixLines())
    return _stderr(TextLines(has_colour=sys.stderr.isatty() and "NO_COLOR" not in os.environ))


def _stderr(formatter: logging.Formatter) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    return handler


def fields_of(record: logging.LogRecord) -> dict[str, str | int]:
    """The fields that a record was given in `extra`."""
    found: dict[str, str | int] = {}
    for key in FIELDS:
        value = getattr(record, key, None)
        if value is not None:
            found[key] = value if isinstance(value, int) else str(value)
    return found


class TextLines(logging.Formatter):
    """Time, level, message, key=value. Only a traceback has lines of its own, and they are indented."""

    def __init__(self, *, has_colour: bool) -> None:
        super().__init__()
        self._has_colour = has_colour

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone().isoformat(" ", "milliseconds")
        level = f"{record.levelname.lower():<8}"
        fields = _pairs(fields_of(record))
        if self._has_colour:
            at, level = f"{_DIM}{at}{_PLAIN}", f"{_COLOURS.get(record.levelno, '')}{level}{_PLAIN}"
            fields = f"{_DIM}{fields}{_PLAIN}" if fields else ""
        line = f"{at} {level} {_told(record)}{fields}"
        if record.exc_info:
            trace = self.formatException(record.exc_info).split("\n")
            line += "".join(f"\n    | {_escape(part)}" for part in trace)
        return line


class PrefixLines(logging.Formatter):
    """What the journal understands on standard error: the priority in front, one line an entry, no time."""

    def format(self, record: logging.LogRecord) -> str:
        trace = f" {_escape(self.formatException(record.exc_info))}" if record.exc_info else ""
        return f"<{priority_of(record)}>{_told(record)}{_pairs(fields_of(record))}{trace}"


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps({k: _unicode(v) if isinstance(v, str) else v for k, v in entry.items()})


def _told(record: logging.LogRecord) -> str:
    """The message on one line; in quotes where it could be taken for a field."""
    text = record.getMessage()
    return _quote(text) if "=" in text or text.startswith('"') else _escape(text)


def _pairs(fields: Mapping[str, str | int]) -> str:
    return "".join(f" {key}={_value(str(value))}" for key, value in fields.items())


def _value(text: str) -> str:
    return text if text and text.isprintable() and not set(text) & set(' ="\\') else _quote(text)


def _quote(text: str) -> str:
    return '"' + _escape(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _escape(text: str) -> str:
    """Everything that is not printed as itself (newlines, escapes, other bytes than UTF-8) as Python writes it."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _unicode(text: str) -> str:
    """Half a surrogate pair stands for a byte that is no UTF-8; strict readers of JSON refuse it."""
    return text.encode(errors="backslashreplace").decode()
