"""How the daemon's log looks: lines for people, or JSON objects for collectors; on standard error."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime

from tierd.config import LogConfig

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def begin_logging(config: LogConfig) -> None:
    """Send the log of this process where and how the configuration says."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonLines() if config.format == "json" else TextLines(is_journal="JOURNAL_STREAM" in os.environ)
    )
    logging.basicConfig(level=config.level.upper(), handlers=[handler], force=True)
    # Others say at «info» what tierd says itself, and more of it.
    for name in ("httpx", "httpcore", "uvicorn", "watchdog"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))


class TextLines(logging.Formatter):
    """One line a record; the journal gets its priority in front and knows the time itself."""

    def __init__(self, *, is_journal: bool) -> None:
        super().__init__("%(message)s" if is_journal else "%(asctime)s %(levelname)-7s %(message)s")
        self._is_journal = is_journal

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if not self._is_journal:
            return text
        priority = _PRIORITIES.get(record.levelno, 6)
        return "\n".join(f"<{priority}>{line}" for line in text.splitlines())


class JsonLines(logging.Formatter):
    """One JSON object a record, with what was given in `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= {k: v for k, v in vars(record).items() if k not in _OWN}
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)
