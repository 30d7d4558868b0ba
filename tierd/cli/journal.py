"""systemd's journal in its own protocol: a datagram an entry, with fields that `journalctl` can select by."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import struct
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TextIO

JOURNAL = Path("/run/systemd/journal/socket")
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_ADD_SEALS, _ALL_SEALS = 1033, 0xF
_TOO_LARGE = frozenset({errno.EMSGSIZE, errno.ENOBUFS})

Fields = Callable[[logging.LogRecord], Mapping[str, str | int]]


def priority_of(record: logging.LogRecord) -> int:
    """The level as syslog counts it."""
    return _PRIORITIES.get(record.levelno, 6)


def is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether what is written to this stream ends in the journal. The variable alone is inherited by anything."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class JournalHandler(logging.Handler):
    """Sends records to the journal.

    Args:
        fields: what a record tells beside its message; each becomes TIERD_… .
        fall_back: takes what the journal does not.
        path: the journal's socket.
    """

    def __init__(self, fields: Fields, *, fall_back: logging.Handler, path: Path = JOURNAL) -> None:
        super().__init__()
        self._fields = fields
        self._fall_back = fall_back
        self._path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._formatter = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._send(self._entry(record))
        except OSError:  # no journal, or it is being restarted
            self._fall_back.handle(record)
        except Exception:  # noqa: BLE001 - as every handler does: a record that cannot be told ends nothing
            self.handleError(record)

    def close(self) -> None:
        self._socket.close()
        super().close()

    def _entry(self, record: logging.LogRecord) -> bytes:
        message = record.getMessage()
        if record.exc_info:
            message += f"\n{self._formatter.formatException(record.exc_info)}"
        entry: dict[str, str | int] = {
            "MESSAGE": message,
            "PRIORITY": priority_of(record),
            "SYSLOG_IDENTIFIER": "tierd",
            "TIERD_LOGGER": record.name,
            "CODE_FILE": record.pathname,
            "CODE_LINE": record.lineno,
            "CODE_FUNC": record.funcName or "",
        }
        entry |= {f"TIERD_{key.upper()}": value for key, value in self._fields(record).items()}
        return b"".join(_field(key, str(value)) for key, value in entry.items())

    def _send(self, entry: bytes) -> None:
        try:
            self._socket.sendto(entry, self._path)
        except OSError as error:
            if error.errno not in _TOO_LARGE:
                raise
            self._send_as_file(entry)

    def _send_as_file(self, entry: bytes) -> None:
        """What is too large for a datagram goes as a file in memory; the journal takes it only sealed."""
        with os.fdopen(os.memfd_create("tierd-log", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC), "wb") as file:
            file.write(entry)
            file.flush()
            fcntl.fcntl(file.fileno(), _ADD_SEALS, _ALL_SEALS)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [file.fileno()]))]
            self._socket.sendmsg([], rights, 0, self._path)


def _field(key: str, value: str) -> bytes:
    """A value with a newline is preceded by its length, so nothing in it can be taken for another field."""
    data = value.encode(errors="backslashreplace")
    if b"\n" not in data:
        return f"{key}=".encode() + data + b"\n"
    return key.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
