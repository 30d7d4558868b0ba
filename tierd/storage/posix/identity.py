"""A tier's identity: how tierd tells its disk from the empty mount point where that disk is missing."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tierd.errors import TierOffline
from tierd.fs.walk import translate

PRIVATE = ".tierd"
"""tierd's own directory below a tier's root; mode 0700, so that users cannot reach into it."""
_FILE = "tier.json"
_REMOUNT = (
    "Is the disk mounted? If it was replaced on purpose, remove the tier from the configuration, start tierd once, "
    "and add it again under a new name."
)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What `<root>/.tierd/tier.json` says."""

    uuid: str
    name: str
    created_at: str


def read_identity(root: Path) -> Identity | None:
    """The identity that lies on the tier, or None where there is none.

    Raises:
        TierOffline: the root cannot be read, or the file is damaged.
    """
    try:
        text = (root / PRIVATE / _FILE).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise TierOffline(f"tier root {root} cannot be read: {error.strerror}", hint=_REMOUNT) from error
    try:
        data = json.loads(text)
        return Identity(uuid=str(data["uuid"]), name=str(data["name"]), created_at=str(data["created_at"]))
    except (ValueError, KeyError, TypeError) as error:
        raise TierOffline(f"{root / PRIVATE / _FILE} is damaged", hint="Restore it from a backup.") from error


def establish_identity(root: Path, name: str, *, known: str | None, now: datetime) -> str:
    """Return the tier's uuid, creating the identity on a tier that the catalog has never seen.

    Args:
        known: the uuid that the catalog has for this tier; None for a tier used for the first time.

    Raises:
        TierOffline: the root is missing or carries no identity, or not the known one.
    """
    found = read_identity(root)
    if known is not None:
        check_identity(root, known)
        return known
    if found is not None:
        return found.uuid
    if not root.is_dir():
        raise TierOffline(f"tier root {root} does not exist", hint=_REMOUNT)
    fresh = Identity(uuid=str(uuid.uuid4()), name=name, created_at=now.isoformat())
    private = root / PRIVATE
    try:
        private.mkdir(mode=0o700, exist_ok=True)
        part = private / f"{_FILE}.part"
        with part.open("w", encoding="utf-8") as file:
            json.dump(fresh.__dict__, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        part.rename(private / _FILE)
        fsync_directory(private)
        fsync_directory(root)
    except OSError as error:
        raise translate(error, str(private)) from error
    return fresh.uuid


def check_identity(root: Path, known: str) -> None:
    """Make sure that the tier is the one the catalog knows.

    Raises:
        TierOffline: it is not; nothing may be read from it or written to it.
    """
    found = read_identity(root)
    if found is None:
        raise TierOffline(f"tier root {root} is not the store tierd knows: it carries no identity", hint=_REMOUNT)
    if found.uuid != known:
        raise TierOffline(
            f"tier root {root} carries the identity {found.uuid}, expected {known}: another disk is mounted there",
            hint=_REMOUNT,
        )


def fsync_directory(path: Path | bytes) -> None:
    """Make renames in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
