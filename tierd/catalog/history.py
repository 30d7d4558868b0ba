"""The history of use: counts per hour and day, and episodes with who it was. Compact enough to be kept for years.

A row is written only where there was something: a snapshot in use every day costs some 20 bytes a day and reader.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Table, and_, delete, func, insert, select, text, update
from sqlalchemy.dialects.sqlite import insert as upsert

from tierd.catalog import rows
from tierd.catalog.lookup import snapshot_by_ref
from tierd.catalog.schema import EPOCH, access_day, access_hour, episode, snapshot, to_micros
from tierd.catalog.session import Session
from tierd.model.dataset import SnapshotId, SnapshotRef
from tierd.model.observation import AccessBatch, Episode, Ranked, Reader, ReaderTally, Span, Use

EPISODE_GAP = timedelta(hours=6)
"""Accesses closer together than this are one episode."""
KEEP_HOURS, KEEP_EPISODES, KEEP_DAYS = timedelta(days=35), timedelta(days=730), timedelta(days=3650)
_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
_MOST_EPISODES = 500
"""New ones per snapshot and day; what is beyond counts as one reader of whom nothing is known."""
_PRUNED_AT_ONCE = 10_000
_PAGE = 1000


class RankedBy(StrEnum):
    """What a ranking is by."""

    JOB = "job"
    USER = "user"
    PROGRAM = "program"
    SNAPSHOT = "snapshot"
    DATASET = "dataset"


_BY: dict[RankedBy, Any] = {
    RankedBy.JOB: episode.c.job,
    RankedBy.USER: episode.c.uid,
    RankedBy.PROGRAM: func.nullif(episode.c.program, ""),
    RankedBy.SNAPSHOT: snapshot.c.dataset + "/" + snapshot.c.name,
    RankedBy.DATASET: snapshot.c.dataset,
}


def note(conn: Connection, seen: AccessBatch, now: datetime) -> None:
    """Add accesses to the history, in the transaction of `conn`."""
    at = max(min(t, now) for t in (seen.read_at, seen.written_at) if t is not None)
    reads, writes = _counts(seen)
    for table, name, length in ((access_hour, "hour", _HOUR), (access_day, "day", _DAY)):
        _count(conn, table, name, (at - EPOCH) // length, seen.snapshot_id, reads, writes)
    for tally in seen.readers or (ReaderTally(reader=Reader(), first_at=at, last_at=at, reads=reads, writes=writes),):
        _note_episode(conn, seen, tally, now)


def forget_future(conn: Connection, now: datetime) -> int:
    """The clock jumped back: what was counted in hours that have not come yet cannot be told from what will be."""
    future = (access_hour.c.hour > (now - EPOCH) // _HOUR, access_day.c.day > (now - EPOCH) // _DAY)
    return sum(
        conn.execute(delete(table).where(is_ahead)).rowcount
        for table, is_ahead in zip((access_hour, access_day), future, strict=True)
    )


def _counts(seen: AccessBatch) -> tuple[int, int]:
    """A time without a count, as sampling gives it, is one access at least."""
    return max(seen.reads, int(seen.read_at is not None)), max(seen.writes, int(seen.written_at is not None))


def _count(
    conn: Connection, table: Table, name: str, when: int, snapshot_id: SnapshotId, reads: int, writes: int
) -> None:
    row = upsert(table).values({"snapshot_id": snapshot_id, name: when, "reads": reads, "writes": writes})
    conn.execute(
        row.on_conflict_do_update(
            index_elements=["snapshot_id", name],
            set_={"reads": table.c.reads + reads, "writes": table.c.writes + writes},
        )
    )


def _note_episode(conn: Connection, seen: AccessBatch, tally: ReaderTally, now: datetime) -> None:
    first, last, reader = min(tally.first_at, now), min(tally.last_at, now), tally.reader
    lately = and_(episode.c.snapshot_id == seen.snapshot_id, episode.c.last_at >= first - EPISODE_GAP)
    same = and_(
        lately,
        episode.c.first_at <= last + EPISODE_GAP,
        episode.c.source == seen.source,
        episode.c.program == reader.program,
        episode.c.uid.is_not_distinct_from(reader.uid),
        episode.c.job.is_not_distinct_from(reader.job),
    )
    known = conn.execute(select(episode).where(same).order_by(episode.c.last_at.desc()).limit(1)).first()
    if known is not None:
        values = {
            "first_at": min(known.first_at, first),
            "last_at": max(known.last_at, last),
            "reads": known.reads + tally.reads,
            "writes": known.writes + tally.writes,
        }
        conn.execute(update(episode).where(episode.c.id == known.id).values(values))
        return
    if reader != Reader():
        today = and_(episode.c.snapshot_id == seen.snapshot_id, episode.c.last_at >= now - _DAY)
        if (conn.scalar(select(func.count()).where(today)) or 0) >= _MOST_EPISODES:
            anybody = ReaderTally(reader=Reader(), first_at=first, last_at=last, reads=tally.reads, writes=tally.writes)
            _note_episode(conn, seen, anybody, now)
            return
    conn.execute(
        insert(episode).values(
            snapshot_id=seen.snapshot_id,
            program=reader.program,
            uid=reader.uid,
            job=reader.job,
            source=seen.source,
            first_at=first,
            last_at=last,
            reads=tally.reads,
            writes=tally.writes,
        )
    )


class History(Session):
    """Reading the history of use."""

    def accesses(self, ref: SnapshotRef, *, before: int | None = None, limit: int = 100) -> list[Episode]:
        """Episodes of one snapshot, those that began last first; `before`: only those with a smaller id.

        Raises:
            NotFound: there is no such snapshot.
        """
        with self._reading() as conn:
            of = snapshot_by_ref(conn, ref)
            query = select(episode).where(episode.c.snapshot_id == of.id).order_by(episode.c.id.desc()).limit(limit)
            if before is not None:
                query = query.where(episode.c.id < before)
            return [_episode(r, of.ref) for r in conn.execute(query)]

    def top(self, by: RankedBy, *, since: datetime, limit: int = 100) -> list[Ranked]:
        """Who, or what, was active since then: most events first."""
        name = _BY[by].label("by")
        each = (
            select(
                name,
                episode.c.snapshot_id,
                snapshot.c.size_bytes,
                func.count().label("episodes"),
                func.sum(episode.c.reads).label("reads"),
                func.sum(episode.c.writes).label("writes"),
                func.max(episode.c.last_at).label("last_at"),
            )
            .join(snapshot, snapshot.c.id == episode.c.snapshot_id)
            .where(episode.c.last_at >= since)
            .group_by(name, episode.c.snapshot_id)
            .subquery()
        )
        events = func.sum(each.c.reads) + func.sum(each.c.writes)
        query = (
            select(
                each.c.by,
                func.count().label("snapshots"),
                func.sum(each.c.episodes).label("episodes"),
                func.sum(each.c.reads).label("reads"),
                func.sum(each.c.writes).label("writes"),
                func.sum(each.c.size_bytes).label("size_bytes"),
                func.max(each.c.last_at).label("last_at"),
            )
            .group_by(each.c.by)
            .order_by(events.desc(), each.c.by)
            .limit(limit)
        )
        with self._reading() as conn:
            return [
                Ranked(
                    name=None if r.by is None else str(r.by),
                    snapshots=r.snapshots,
                    episodes=r.episodes,
                    reads=r.reads,
                    writes=r.writes,
                    size_bytes=r.size_bytes,
                    last_at=r.last_at,
                )
                for r in conn.execute(query)
            ]

    def spans(self, dataset: str, *, since: datetime, by_hour: bool = False) -> list[Span]:
        """Counts per day (or hour, of the last weeks) of a dataset's snapshots, in the order of names and times."""
        table, column, length = (access_hour, "hour", _HOUR) if by_hour else (access_day, "day", _DAY)
        when = table.c[column]
        query = (
            select(snapshot.c.name, when.label("at"), table.c.reads, table.c.writes)
            .join(snapshot, snapshot.c.id == table.c.snapshot_id)
            .where(snapshot.c.dataset == dataset, when >= (since - EPOCH) // length)
            .order_by(snapshot.c.name, snapshot.c.id, when)
        )
        with self._reading() as conn:
            return [
                Span(ref=SnapshotRef(dataset, r.name), start=EPOCH + r.at * length, reads=r.reads, writes=r.writes)
                for r in conn.execute(query)
            ]

    def uses(self, *, dataset: str | None = None, since: datetime) -> Iterator[Use]:
        """Times of use of all snapshots, whoever it was, in the order in which they began; a page at a time.

        Episodes of several readers that overlap, or follow each other closely, are one use.
        """
        after = (to_micros(since) - 1, 0)
        open_uses: dict[int, Use] = {}
        while True:
            page = self._uses_page(dataset, after)
            for r in page:
                use = open_uses.get(r.snapshot_id)
                if use is not None and r.first_at <= use.last_at + EPISODE_GAP:
                    open_uses[r.snapshot_id] = Use(
                        ref=use.ref,
                        first_at=use.first_at,
                        last_at=max(use.last_at, r.last_at),
                        size_bytes=use.size_bytes,
                    )
                    continue
                open_uses[r.snapshot_id] = Use(
                    ref=SnapshotRef(r.dataset, r.name), first_at=r.first_at, last_at=r.last_at, size_bytes=r.size_bytes
                )
                yield open_uses[r.snapshot_id]
            if len(page) < _PAGE:
                return
            after = to_micros(page[-1].first_at), page[-1].id

    def _uses_page(self, dataset: str | None, after: tuple[int, int]) -> list[rows.AnyRow]:
        query = (
            select(
                episode.c.id,
                episode.c.snapshot_id,
                episode.c.first_at,
                episode.c.last_at,
                snapshot.c.dataset,
                snapshot.c.name,
                snapshot.c.size_bytes,
            )
            .join(snapshot, snapshot.c.id == episode.c.snapshot_id)
            .where(text("(episode.first_at, episode.id) > (:at, :id)").bindparams(at=after[0], id=after[1]))
            .order_by(episode.c.first_at, episode.c.id)
            .limit(_PAGE)
        )
        if dataset is not None:
            query = query.where(snapshot.c.dataset == dataset)
        with self._reading() as conn:
            return list(conn.execute(query))

    def prune_history(self, *, now: datetime) -> int:
        """Delete what is too old, some thousand rows per transaction; return how many went."""
        gone = 0
        for table, oldest in (
            ("access_hour WHERE hour", (now - KEEP_HOURS - EPOCH) // _HOUR),
            ("access_day WHERE day", (now - KEEP_DAYS - EPOCH) // _DAY),
        ):
            with self._writing() as conn:  # each row is a few bytes, and few become too old on one day
                gone += conn.execute(text(f"DELETE FROM {table} < :oldest").bindparams(oldest=oldest)).rowcount
        while True:
            old = select(episode.c.id).where(episode.c.last_at < now - KEEP_EPISODES).limit(_PRUNED_AT_ONCE)
            with self._writing() as conn:
                count = conn.execute(delete(episode).where(episode.c.id.in_(old))).rowcount
            gone += count
            if count < _PRUNED_AT_ONCE:
                return gone


def _episode(r: rows.AnyRow, ref: SnapshotRef) -> Episode:
    return Episode(
        id=r.id,
        ref=ref,
        reader=Reader(program=r.program, uid=r.uid, job=r.job),
        source=r.source,
        first_at=r.first_at,
        last_at=r.last_at,
        reads=r.reads,
        writes=r.writes,
    )
