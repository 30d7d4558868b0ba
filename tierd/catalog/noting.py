"""Adding to the history of use, in the transaction that records the access.

One access costs a few short statements, made once and for all: a flush may tell of ten thousand snapshots.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Insert, Integer, Table, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from tierd.catalog.measured import FLOOR, count
from tierd.catalog.schema import EPOCH, Time, access_day, access_hour, counter, episode, placement, tier
from tierd.model.dataset import WEIGHT_DECAY, Snapshot, SnapshotId, decayed
from tierd.model.observation import AccessBatch, Reader, ReaderTally
from tierd.model.placement import PlacementState

EPISODE_GAP = timedelta(hours=6)
"""Accesses closer together than this are one use."""
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
LONGEST_EPISODE = DAY
"""A use that lasts longer goes on in another row, so that a ranking of the last day counts no year of reads."""
_MOST_EPISODES = 500
"""Of known readers, per snapshot and day; what is beyond counts as one reader of whom nothing is known."""
_MOST_COUNTED = 10**12
"""Counts end here: sums over millions of rows stay within 64 bits, whatever was reported."""
CHANGED = (
    "changed_at", "accessed_at", "access_source", "read_at", "written_at", "episodes", "weight", "weight_at", "floor",
)  # fmt: skip
"""Columns of a snapshot that an access may change."""
_LENGTHS: tuple[tuple[Table, str, timedelta], ...] = ((access_hour, "hour", HOUR), (access_day, "day", DAY))


def note(conn: Connection, known: Snapshot, seen: AccessBatch, now: datetime) -> dict[str, Any]:
    """Add accesses of a snapshot to the history; return the columns of the snapshot that they change."""
    times = [min(t, now) for t in (seen.read_at, seen.written_at) if t is not None]
    if not times:
        return {}
    at = max(times)
    begins = _begins_use(conn, known, at)
    reads, writes = _counts(seen)
    for _, name, length in _LENGTHS:
        values = {"of": seen.snapshot_id, "at": (at - EPOCH) // length, "reads": reads, "writes": writes}
        conn.execute(_COUNT[name], values | {"episodes": int(begins)})
    for tally in _tallies(seen, at):
        _note_episode(conn, seen, tally, now)
    if begins:
        _note_cold(conn, known)
    return _changes(known, seen, at, now, begins_use=begins, floor=floor_of(conn) if begins else known.floor)


def floor_of(conn: Connection) -> float:
    """What ageing policies have reached; see `Score.is_ageing`."""
    return conn.scalar(select(counter.c.value).where(counter.c.name == FLOOR)) or 0.0


def _note_cold(conn: Connection, known: Snapshot) -> None:
    """A use began; does it read from flash?"""
    on_flash = select(placement.c.snapshot_id).where(
        placement.c.snapshot_id == known.id,
        placement.c.state == PlacementState.VERIFIED,
        placement.c.tier.in_(select(tier.c.name).where(tier.c.rank == 0)),
    )
    has_any = select(placement.c.snapshot_id).where(placement.c.snapshot_id == known.id)
    if conn.scalar(on_flash) is None and conn.scalar(has_any) is not None:
        count(conn, "cold_uses")
        count(conn, "cold_use_bytes", known.size_bytes)


def forget_future(conn: Connection, now: datetime) -> int:
    """The clock jumped back: what was counted in hours that have not come yet cannot be told from what will be."""
    return sum(
        conn.execute(delete(table).where(table.c[name] > (now - EPOCH) // length)).rowcount
        for table, name, length in _LENGTHS
    )


def _changes(
    known: Snapshot, seen: AccessBatch, at: datetime, now: datetime, *, begins_use: bool, floor: float
) -> dict[str, Any]:
    changes: dict[str, Any] = {
        "read_at": _newer(known.read_at, seen.read_at, now),
        "written_at": _newer(known.written_at, seen.written_at, now),
        "changed_at": _newer(known.changed_at, seen.written_at, now),
    }
    if begins_use:
        # A use that is told late has faded by now like all others of its time.
        as_of = at if known.weight_at is None else max(at, known.weight_at)
        weight = decayed(known.weight, known.weight_at, as_of) + math.exp(-((as_of - at) / WEIGHT_DECAY))
        changes |= {"episodes": known.episodes + 1, "weight": weight, "weight_at": as_of, "floor": floor}
    if at >= known.accessed_at:
        changes |= {"accessed_at": at, "access_source": seen.source}
    return changes


def _newer(old: datetime | None, new: datetime | None, now: datetime) -> datetime | None:
    """The later of the two; what was seen lies never after now."""
    if new is None:
        return old
    return min(new, now) if old is None else max(old, min(new, now))


def _begins_use(conn: Connection, known: Snapshot, at: datetime) -> bool:
    """Whether nobody used the snapshot within six hours of that time."""
    # Not `accessed_at`: it moves without a use while nobody can watch.
    last = max((t for t in (known.read_at, known.written_at) if t is not None), default=None)
    if last is None or at - last > EPISODE_GAP:
        return True
    if last - at <= EPISODE_GAP:
        return False
    around = {"of": known.id, "after": at - EPISODE_GAP, "before": at + EPISODE_GAP}
    return conn.execute(_AROUND, around).first() is None


def _counts(seen: AccessBatch) -> tuple[int, int]:
    """A time without a count, as sampling gives it, is one access at least."""
    return (
        min(max(seen.reads, int(seen.read_at is not None)), _MOST_COUNTED),
        min(max(seen.writes, int(seen.written_at is not None)), _MOST_COUNTED),
    )


def _tallies(seen: AccessBatch, at: datetime) -> Iterator[ReaderTally]:
    if not seen.readers:
        reads, writes = _counts(seen)
        yield ReaderTally(reader=Reader(), first_at=at, last_at=at, reads=reads, writes=writes)
    for tally in seen.readers:
        # What the batch as a whole says nothing of was taken back, like writes while tierd itself moves the tree.
        counted = replace(
            tally,
            reads=0 if seen.read_at is None else min(tally.reads, _MOST_COUNTED),
            writes=0 if seen.written_at is None else min(tally.writes, _MOST_COUNTED),
        )
        if counted.reads or counted.writes:
            yield counted


def _note_episode(conn: Connection, seen: AccessBatch, tally: ReaderTally, now: datetime) -> None:
    first, last, reader = min(tally.first_at, now), min(tally.last_at, now), tally.reader
    values = {
        "of": seen.snapshot_id,
        "program": reader.program,
        "uid": reader.uid,
        "job": reader.job,
        "source": seen.source,
        "first": first,
        "last": last,
        "reads": tally.reads,
        "writes": tally.writes,
    }
    near = {
        "after": first - EPISODE_GAP,
        "latest": first + LONGEST_EPISODE,
        "earliest": last - LONGEST_EPISODE,
        "before": last + EPISODE_GAP,
    }
    who = {name: values[name] for name in ("of", "program", "uid", "job", "source")}
    found = conn.execute(_SAME, who | near).first()
    if found is not None:
        more = {name: values[name] for name in ("first", "last", "reads", "writes")}
        conn.execute(_EXTEND, more | {"which": found.id})
    elif reader != Reader() and _is_full(conn, seen.snapshot_id, last):
        _note_episode(conn, seen, replace(tally, reader=Reader()), now)
    else:
        conn.execute(_BEGIN, values)


def _is_full(conn: Connection, snapshot_id: SnapshotId, at: datetime) -> bool:
    """Whether the snapshot has as many episodes on that day as are kept."""
    day = EPOCH + (at - EPOCH) // DAY * DAY
    return (conn.scalar(_ON_DAY, {"of": snapshot_id, "day": day, "next": day + DAY}) or 0) >= _MOST_EPISODES


def _count(table: Table, name: str) -> Insert:
    of: dict[str, Any] = {"snapshot_id": bindparam("of"), name: bindparam("at")}
    counted: dict[str, Any] = {
        "reads": bindparam("reads"),
        "writes": bindparam("writes"),
        "episodes": bindparam("episodes"),
    }
    row = upsert(table).values(of | counted)
    more: dict[str, Any] = {n: func.min(table.c[n] + row.excluded[n], _MOST_COUNTED) for n in counted}
    return row.on_conflict_do_update(index_elements=list(of), set_=more)


_COUNT = {name: _count(table, name) for table, name, _ in _LENGTHS}
_AROUND = (
    select(episode.c.id)
    .where(
        episode.c.snapshot_id == bindparam("of"),
        episode.c.last_at >= bindparam("after"),
        episode.c.first_at <= bindparam("before"),
    )
    .limit(1)
)
_SAME = (
    select(episode.c.id)
    .where(
        episode.c.snapshot_id == bindparam("of"),
        episode.c.last_at.between(bindparam("after"), bindparam("latest")),
        episode.c.first_at.between(bindparam("earliest"), bindparam("before")),
        episode.c.source == bindparam("source"),
        episode.c.program == bindparam("program"),
        episode.c.uid.is_not_distinct_from(bindparam("uid")),
        episode.c.job.is_not_distinct_from(bindparam("job")),
    )
    .order_by(episode.c.last_at.desc())
    .limit(1)
)
_ON_DAY = select(func.count()).where(
    episode.c.snapshot_id == bindparam("of"),
    episode.c.last_at >= bindparam("day"),
    episode.c.last_at < bindparam("next"),
)
_EXTEND = (
    update(episode)
    .where(episode.c.id == bindparam("which"))
    .values(
        first_at=func.min(episode.c.first_at, bindparam("first", type_=Time)),
        last_at=func.max(episode.c.last_at, bindparam("last", type_=Time)),
        reads=func.min(episode.c.reads + bindparam("reads", type_=Integer), _MOST_COUNTED),
        writes=func.min(episode.c.writes + bindparam("writes", type_=Integer), _MOST_COUNTED),
    )
)
_BEGIN = insert(episode).values(
    snapshot_id=bindparam("of"),
    program=bindparam("program"),
    uid=bindparam("uid"),
    job=bindparam("job"),
    source=bindparam("source"),
    first_at=bindparam("first"),
    last_at=bindparam("last"),
    reads=bindparam("reads"),
    writes=bindparam("writes"),
)
