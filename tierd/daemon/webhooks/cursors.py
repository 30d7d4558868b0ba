"""How far each webhook came, in one small file beside the database.

It is written before a batch is sent for the first time and after it was taken. What was sent and not yet noted is sent
again after a crash, as the same delivery: a receiver that keeps the ids of deliveries sees that it has it.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sending:
    """A batch under way: its id, its last event, their number, and when it was made (seconds since the epoch)."""

    id: str
    last: int
    events: int
    made_at: float
    missed: int


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """Where one webhook is.

    Attributes:
        after: the last event that is dealt with.
        missed: events given up since the last success; the next delivery tells.
        failing_since: when the first request failed after the last success.
        delivered_at: the last success.
    """

    after: int
    missed: int = 0
    failing_since: float | None = None
    delivered_at: float | None = None
    sending: Sending | None = None


class Cursors:
    """The file. Thread-safe; nothing is written any more after `close`.

    Args:
        names: of the webhooks that are configured.
    """

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._is_closed = False
        self._names = set(names)
        self._known = _read(path)

    def get(self, name: str) -> Cursor | None:
        """Where a webhook is; None for a new one."""
        with self._lock:
            return self._known.get(name)

    def put(self, name: str, cursor: Cursor) -> None:
        """Keep where a webhook is, durably. A full disk costs repetitions, never an event."""
        with self._lock:
            if not self._is_closed:
                self._known[name] = cursor
                self._write()

    def forget_others(self) -> None:
        """Forget webhooks that are not configured: one that comes back is a new one."""
        with self._lock:
            others = self._known.keys() - self._names
            for name in others:
                del self._known[name]
            if others:
                self._write()

    def _write(self) -> None:
        try:
            _write(self._path, {name: asdict(known) for name, known in self._known.items()})
        except OSError as error:
            log.warning("how far webhooks came cannot be kept in %s: %s", self._path, error.strerror)

    def close(self) -> None:
        """A thread that still waits for its receiver must not write over what a later daemon notes."""
        with self._lock:
            self._is_closed = True


def _read(path: Path) -> dict[str, Cursor]:
    try:
        content = json.loads(path.read_bytes())
        return {str(name): _cursor(entry) for name, entry in content.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        log.error("how far webhooks came cannot be read from %s, they begin with what happens now: %s", path, error)
        return {}


def _cursor(entry: dict[str, object]) -> Cursor:
    sending = entry.pop("sending", None)
    made = Cursor(**entry, sending=Sending(**sending) if isinstance(sending, dict) else None)  # type: ignore[arg-type]
    if not isinstance(made.after, int) or not isinstance(made.missed, int):
        raise TypeError("an event's number is none")
    return made


def _write(path: Path, content: object) -> None:
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
