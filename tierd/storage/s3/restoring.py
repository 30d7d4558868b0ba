"""Make the archived objects of a copy readable: see which are, ask the store for the others, say when they should be.

    <state>/restores/<snapshot>.json    when the store was asked, and when it should be done

What can be read and what is under way is asked of the store each time: to go on after a crash, or after objects were
archived again, is to ask again. Only the time comes from the note; where that is lost, the time begins anew.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import Enum
from pathlib import Path

from tierd.errors import SourceChanged, SourceGone
from tierd.fs.walk import translated
from tierd.model.s3 import ARCHIVE_CLASSES, S3Settings
from tierd.storage.base import Waiting
from tierd.storage.control import Control
from tierd.storage.s3.bucket import Bucket, ObjectInfo
from tierd.storage.s3.index import Object
from tierd.storage.s3.lanes import Lanes, Patience

_DAY = timedelta(days=1)
_MARGIN = timedelta(hours=12)
"""What is archived again sooner than this (or a quarter of `restore_for`) might not be read until then."""
_EXPIRY = re.compile('expiry-date="([^"]*)"')


class Readiness(Enum):
    """Whether an object can be read."""

    READABLE = "readable"
    EXPIRING = "readable, but perhaps not until all of the copy is read"
    RESTORING = "being restored"
    ARCHIVED = "to be restored"


def readiness(info: ObjectInfo, *, now: datetime, needed_until: datetime) -> Readiness:
    """Tell by what the store says of an object whether it can be read from now until `needed_until`."""
    if info.storage_class not in ARCHIVE_CLASSES:
        return Readiness.READABLE
    if info.restore is None:
        return Readiness.ARCHIVED
    if 'ongoing-request="true"' in info.restore:
        return Readiness.RESTORING
    found = _EXPIRY.search(info.restore)
    if found is None:  # some stores restore for good
        return Readiness.READABLE
    expiry = parsedate_to_datetime(found[1])
    if expiry <= now:
        return Readiness.ARCHIVED
    return Readiness.READABLE if expiry >= needed_until else Readiness.EXPIRING


def make_readable(
    bucket: Bucket, copy: str, objects: list[Object], note: Path, *, now: datetime, control: Control
) -> Waiting | None:
    """Have restored what cannot be read, or not for long enough; None when every object can be read.

    Args:
        copy: its location; objects: all that hold its data.
        note: the file that remembers when the store was asked.

    Raises:
        SourceGone, SourceChanged: an object is missing, or another one; nothing was asked for, nothing is charged.
        Denied, StorageError: the store does not restore.
    """
    settings = bucket.settings
    margin = min(_MARGIN, settings.restore_for / 4)
    found = _look_at(bucket, objects, lambda info: readiness(info, now=now, needed_until=now + margin), control)
    archived, ongoing, expiring = (
        [item for item, state in found if state is wanted]
        for wanted in (Readiness.ARCHIVED, Readiness.RESTORING, Readiness.EXPIRING)
    )
    asked = None
    if archived or ongoing:
        asked = _Asked.read(note, copy)
        if archived or asked is None:
            asked = _Asked(copy=copy, at=now, expected_at=now + settings.restore_takes)
            asked.write(note)  # before it is asked: a crash in between loses a moment, not the time it takes
    _ask_for(bucket, archived + expiring, control)
    if asked is None:
        forget(note)
        return None
    return asked.waiting(settings, ready=len(found) - len(archived) - len(ongoing), total=len(found), now=now)


def forget(note: Path) -> None:
    """The copy is readable, or gone."""
    with translated(str(note)):
        note.unlink(missing_ok=True)


def _look_at(
    bucket: Bucket, objects: list[Object], judge: Callable[[ObjectInfo], Readiness], control: Control
) -> list[tuple[Object, Readiness]]:
    found: list[tuple[Object, Readiness]] = []

    def look(item: Object) -> None:
        info = bucket.head(item.key)
        if info is None:
            raise SourceGone(
                f"{item.key} is missing from the bucket: the copy is not complete any more",
                hint="Restore that object from a version of the bucket, or use another copy.",
            )
        if (info.size, info.etag) != (item.size, item.etag):
            raise SourceChanged(f"{item.key} in the bucket was replaced since it was verified")
        found.append((item, judge(info)))

    control.checkpoint("restore: look what can be read")
    _do(bucket, objects, look, control)
    return found


def _ask_for(bucket: Bucket, objects: list[Object], control: Control) -> None:
    """Have objects restored; one that is being restored stays as it is, one that is readable stays so for longer."""
    if not objects:
        return
    settings = bucket.settings
    days = max(1, math.ceil(settings.restore_for / _DAY))
    control.checkpoint("restore: ask the store")
    _do(bucket, objects, lambda item: bucket.restore(item.key, days=days, tier=settings.restore_tier), control)


def _do(bucket: Bucket, objects: list[Object], work: Callable[[Object], None], control: Control) -> None:
    """Do something with each object, several at a time."""
    patience = bucket.on_wait = Patience(control)
    with Lanes(bucket.settings.connections, 0, patience) as lanes:
        for item in objects:
            lanes.run(lambda item=item: work(item))  # type: ignore[misc]
        lanes.drain()


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """When the store was last asked for objects of a copy, and when all should be readable."""

    copy: str
    at: datetime
    expected_at: datetime

    @classmethod
    def read(cls, note: Path, copy: str) -> _Asked | None:
        """What is noted for this copy; None when nothing (legible) is."""
        with translated(str(note)), suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            found = json.loads(note.read_text(encoding="utf-8"))
            at, expected_at = (datetime.fromisoformat(found[name]) for name in ("asked_at", "expected_at"))
            if found["copy"] == copy:
                return cls(copy=copy, at=at, expected_at=expected_at)
        return None

    def write(self, note: Path) -> None:
        part = note.with_suffix(".part")
        times = {"asked_at": self.at.isoformat(), "expected_at": self.expected_at.isoformat()}
        with translated(str(note)):
            part.write_text(json.dumps({"copy": self.copy, **times}), encoding="utf-8")
            part.rename(note)

    def waiting(self, settings: S3Settings, *, ready: int, total: int, now: datetime) -> Waiting:
        late = "" if now < self.expected_at else "; it takes longer than usual"
        return Waiting(
            until=self.expected_at if now < self.expected_at else None,
            message=f"restoring from {settings.storage_class} ({settings.restore_tier}, asked for at "
            f"{self.at:%Y-%m-%d %H:%M} UTC): {ready} of {total} objects can be read{late}",
        )
