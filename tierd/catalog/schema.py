"""The tables of the catalog, their constraints, and how values are stored.

Rules that must hold whatever the code does are constraints here: states, one live transfer per snapshot, one
live snapshot per name. A change of this module needs a step in `upgrades`; a test compares the two.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    text,
)

from tierd.model.announced import AnnouncedBy
from tierd.model.dataset import AccessSource
from tierd.model.hold import HoldKind
from tierd.model.phase import Phase
from tierd.model.placement import PlacementState
from tierd.model.transfer import LIVE, TransferKind, TransferState

_T = TypeVar("_T")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TWO_63, _TWO_64 = 1 << 63, 1 << 64


def to_micros(value: datetime) -> int:
    """Microseconds since the epoch, exactly (a float of seconds would lose the last digits)."""
    return (value - EPOCH) // _MICROSECOND


def plain(value: str) -> str:
    """Text that can be stored and sent: bytes of file names that are not UTF-8 are shown as escapes."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


# A view reads some 100,000 values. TypeDecorator's own hook for results costs two more calls per value, so the types
# below hand the function that reads a stored value to SQLAlchemy directly.
_Reader = Callable[[Any], _T | None]


def _read_time(value: int | None) -> datetime | None:
    return None if value is None else EPOCH + timedelta(0, 0, value)


def _read_bytes(value: bytes | None) -> str | None:
    return None if value is None else os.fsdecode(value)


def _read_unsigned(value: int | None) -> int | None:
    return value if value is None or value >= 0 else value + _TWO_64


class Time(TypeDecorator[datetime]):
    """An aware datetime as INTEGER microseconds since the epoch: exact, sortable, without a zone to misread."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else to_micros(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> _Reader[datetime]:
        return _read_time


class Bytes(TypeDecorator[str]):
    """A path as the bytes the file system knows; in Python text with surrogate escapes."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | Path | None, dialect: Dialect) -> bytes | None:
        return None if value is None else os.fsencode(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> _Reader[str]:
        return _read_bytes


class Prose(TypeDecorator[str]):
    """Text for people. It may quote a file name that is not UTF-8, which SQLite would refuse."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else plain(value)


class Patterns(TypeDecorator[tuple[str, ...]]):
    """Patterns of paths as a JSON list; NULL for none."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: Dialect) -> str | None:
        return json.dumps(value) if value else None

    def process_result_value(self, value: str | None, dialect: Dialect) -> tuple[str, ...]:
        return tuple(json.loads(value)) if value else ()


class Unsigned(TypeDecorator[int]):
    """An unsigned 64-bit number (inodes) in SQLite's signed INTEGER."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        return value if value is None or value < _TWO_63 else value - _TWO_64

    def result_processor(self, dialect: Dialect, coltype: object) -> _Reader[int]:
        return _read_unsigned


class Known(TypeDecorator[StrEnum]):
    """A member of an enum, as its text."""

    impl = Text
    cache_ok = True

    def __init__(self, values: type[StrEnum]) -> None:
        super().__init__()
        self.values = values

    def process_bind_param(self, value: StrEnum | None, dialect: Dialect) -> str | None:
        return None if value is None else str(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> _Reader[StrEnum]:
        return {str(v): v for v in self.values}.get


def _list(values: Iterable[str]) -> str:
    return ", ".join(f"'{v}'" for v in values)


def _one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({_list(values)})", name=f"{column}_is_known")


_LIVE = f"state IN ({_list(s for s in TransferState if s in LIVE)})"

metadata = MetaData()

tier = Table(
    "tier",
    metadata,
    Column("name", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("root", Bytes, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("uuid", Text),  # of the store's tier.json; NULL until the tier was seen for the first time
    Column("is_configured", Boolean, nullable=False),
)

dataset = Table(
    "dataset",
    metadata,
    Column("name", Text, primary_key=True),
    Column("path", Bytes, nullable=False),
    Column("home", Text, ForeignKey("tier.name"), nullable=False),
    Column("pattern", Text),
    Column("is_configured", Boolean, nullable=False),
    Column("phase", Known(Phase)),  # given by an operator; NULL: as configured
)

snapshot = Table(
    "snapshot",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", Text, nullable=False, unique=True),
    Column("dataset", Text, ForeignKey("dataset.name"), nullable=False),
    Column("name", Text, nullable=False),
    Column("path", Bytes, nullable=False),
    Column("root_inode", Unsigned, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("disk_bytes", Integer, nullable=False),
    Column("files", Integer, nullable=False),
    Column("entries", Integer, nullable=False),
    Column("first_seen_at", Time, nullable=False),
    Column("changed_at", Time, nullable=False),
    Column("accessed_at", Time, nullable=False),
    Column("access_source", Known(AccessSource), nullable=False),
    Column("read_at", Time),
    Column("written_at", Time),
    Column("episodes", Integer, nullable=False),
    Column("weight", Float, nullable=False),
    Column("weight_at", Time),
    Column("warmed_at", Time),
    Column("scanned_at", Time),
    Column("gone_at", Time),
    Column("problem", Prose),
    Column(
        "floor", Float, nullable=False, server_default=text("0")
    ),  # what ageing policies had reached at its last use
    CheckConstraint("length(key) = 16", name="key_is_16_digits"),
    _one_of("access_source", AccessSource),
    # A name may come back as another tree after the first one was deleted; the gone one keeps its cold copies.
    Index("snapshot_one_per_name", "dataset", "name", unique=True, sqlite_where=text("gone_at IS NULL")),
    sqlite_autoincrement=True,
)

access_hour = Table(
    "access_hour",
    metadata,
    Column("snapshot_id", Integer, ForeignKey("snapshot.id"), primary_key=True),
    Column("hour", Integer, primary_key=True),  # hours since the epoch, UTC
    Column("reads", Integer, nullable=False),
    Column("writes", Integer, nullable=False),
    Column("episodes", Integer, nullable=False),  # uses that began then, whoever it was
    sqlite_with_rowid=False,
)

access_day = Table(
    "access_day",
    metadata,
    Column("snapshot_id", Integer, ForeignKey("snapshot.id"), primary_key=True),
    Column("day", Integer, primary_key=True),  # days since the epoch, UTC
    Column("reads", Integer, nullable=False),
    Column("writes", Integer, nullable=False),
    Column("episodes", Integer, nullable=False),
    sqlite_with_rowid=False,
)

episode = Table(
    "episode",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("snapshot_id", Integer, ForeignKey("snapshot.id"), nullable=False),
    Column("program", Prose, nullable=False),
    Column("uid", Integer),
    Column("job", Prose),
    Column("source", Known(AccessSource), nullable=False),
    Column("first_at", Time, nullable=False),
    Column("last_at", Time, nullable=False),
    Column("reads", Integer, nullable=False),
    Column("writes", Integer, nullable=False),
    _one_of("source", AccessSource),
    Index("episode_of_snapshot", "snapshot_id", "last_at"),
    Index("episode_by_start", "first_at"),
    sqlite_autoincrement=True,
)

placement = Table(
    "placement",
    metadata,
    Column("snapshot_id", Integer, ForeignKey("snapshot.id"), primary_key=True),
    Column("tier", Text, ForeignKey("tier.name"), primary_key=True),
    Column("state", Known(PlacementState), nullable=False),
    Column("location", Bytes),
    Column("content_id", Text),
    Column("size_bytes", Integer, nullable=False),
    Column("entries", Integer, nullable=False),
    Column("verified_at", Time),
    _one_of("state", PlacementState),
    sqlite_with_rowid=False,
)

transfer = Table(
    "transfer",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", Text, nullable=False, unique=True),
    Column("snapshot_id", Integer, ForeignKey("snapshot.id"), nullable=False),
    Column("kind", Known(TransferKind), nullable=False),
    Column("state", Known(TransferState), nullable=False),
    Column("source", Text, ForeignKey("tier.name"), nullable=False),
    Column("destination", Text, ForeignKey("tier.name"), nullable=False),
    Column("release", Boolean, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("reason", Prose, nullable=False),
    Column("requested_by", Prose, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("not_before", Time),
    Column("error", Prose),
    Column("error_code", Text),
    Column("bytes_total", Integer, nullable=False),
    Column("bytes_done", Integer, nullable=False),
    Column("files_total", Integer, nullable=False),
    Column("files_done", Integer, nullable=False),
    Column("first", Patterns),
    Column("only", Patterns),
    Column("restore_cost", Float),  # in the currency of the source's prices
    Column("waits_for", Prose),
    Column("expected_at", Time),
    Column("is_paused", Boolean, nullable=False),
    Column("cancel_requested", Boolean, nullable=False),
    Column("created_at", Time, nullable=False),
    Column("started_at", Time),
    Column("advanced_at", Time, nullable=False),  # of the last change of state
    Column("finished_at", Time),
    Column("due_at", Time),
    _one_of("kind", TransferKind),
    _one_of("state", TransferState),
    CheckConstraint(f"(finished_at IS NULL) = ({_LIVE})", name="finished_at_tells_live"),
    CheckConstraint("release = 0 OR kind = 'migrate'", name="only_a_migrate_releases"),
    CheckConstraint("(kind = 'remove') = (source = destination)", name="only_a_remove_has_one_tier"),
    CheckConstraint("state = 'restoring' OR (waits_for IS NULL AND expected_at IS NULL)", name="only_restores_wait"),
    CheckConstraint("only IS NULL OR kind = 'recall'", name="only_recalls_bring_parts"),
    CheckConstraint("attempt >= 1", name="attempt_counts_from_one"),
    Index("transfer_one_live", "snapshot_id", unique=True, sqlite_where=text(_LIVE)),
    Index("transfer_failed", "snapshot_id", sqlite_where=text("state = 'failed'")),
    Index("transfer_of_snapshot", "snapshot_id"),
    sqlite_autoincrement=True,
)

part = Table(
    "part",  # some files of a snapshot, brought by a recall of these only
    metadata,
    Column("transfer_id", Integer, ForeignKey("transfer.id"), primary_key=True),
    Column("snapshot_id", Integer, ForeignKey("snapshot.id"), nullable=False),
    Column("tier", Text, ForeignKey("tier.name"), nullable=False),
    Column("location", Bytes, nullable=False),
    Column("content_id", Text, nullable=False),
    Column("entries", Integer, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("as_of", Time, nullable=False),
    Index("part_of_snapshot", "snapshot_id"),
)

hold = Table(
    "hold",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("snapshot_id", Integer, ForeignKey("snapshot.id"), nullable=False),
    Column("kind", Known(HoldKind), nullable=False),
    Column("holder", Prose, nullable=False),
    Column("since", Time, nullable=False),
    Column("renewed_at", Time, nullable=False),
    Column("expires_at", Time),
    Column("ended_at", Time),
    Column("generation", Integer, nullable=False),
    Column("note", Prose),
    Column("request_key", Text),
    # The living thing that a lease ends with; a process is told apart from a later one by when it started.
    Column("pid", Integer),
    Column("pid_started", Integer),  # clock ticks after boot, see proc_pid_stat(5)
    Column("boot_id", Text),
    Column("job", Prose),
    _one_of("kind", HoldKind),
    CheckConstraint("(kind = 'pin') = (expires_at IS NULL)", name="only_leases_expire"),
    Index("hold_one_per_request", "request_key", unique=True, sqlite_where=text("ended_at IS NULL")),
    Index("hold_one_pin", "snapshot_id", unique=True, sqlite_where=text("kind = 'pin' AND ended_at IS NULL")),
    Index("hold_open", "snapshot_id", sqlite_where=text("ended_at IS NULL")),
    sqlite_autoincrement=True,
)

announcement = Table(
    "announcement",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("snapshot_id", Integer, ForeignKey("snapshot.id"), nullable=False),
    Column("source", Known(AnnouncedBy), nullable=False),
    Column("holder", Prose, nullable=False),
    Column("use_at", Time, nullable=False),
    Column("until", Time, nullable=False),
    Column("confidence", Float, nullable=False),
    Column("note", Prose),
    Column("request_key", Text),
    Column("created_at", Time, nullable=False),
    Column("ended_at", Time),
    _one_of("source", AnnouncedBy),
    CheckConstraint("confidence > 0 AND confidence <= 1", name="confidence_is_a_share"),
    CheckConstraint("until >= use_at", name="ends_after_it_begins"),
    Index("announcement_one_per_request", "request_key", unique=True, sqlite_where=text("ended_at IS NULL")),
    Index("announcement_open", "snapshot_id", sqlite_where=text("ended_at IS NULL")),
    sqlite_autoincrement=True,
)

counter = Table(
    "counter",  # sums that must not begin anew with each start
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Float, nullable=False),
)

rate = Table(
    "rate",  # what transfers between two tiers achieved
    metadata,
    Column("source", Text, ForeignKey("tier.name"), primary_key=True),
    Column("destination", Text, ForeignKey("tier.name"), primary_key=True),
    Column("start_s", Float, nullable=False),
    Column("s_per_byte", Float, nullable=False),
    Column("s_per_file", Float, nullable=False),
    Column("samples", Integer, nullable=False),
    Column("learned", Text, nullable=False),  # what the next sample is added to, as JSON
    sqlite_with_rowid=False,
)

event = Table(
    "event",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Time, nullable=False),
    Column("kind", Text, nullable=False),
    Column("dataset", Text),  # the name at that time: history does not change when a snapshot is renamed
    Column("name", Text),
    Column("snapshot_id", Integer, ForeignKey("snapshot.id")),
    Column("transfer_id", Integer, ForeignKey("transfer.id")),
    Column("message", Prose, nullable=False),
    Column("detail", Text, nullable=False),
    Index("event_of_name", "dataset", "name"),
    Index("event_of_snapshot", "snapshot_id"),
    Index("event_of_transfer", "transfer_id"),
    sqlite_autoincrement=True,
)

setting = Table(
    "setting",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
