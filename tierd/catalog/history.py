"""Reading the history of use: counts per hour and day, and episodes with who it was; and forgetting what is old.

Compact enough to be kept for years. A row is written only where there was something: 17 bytes for a day in which a
snapshot was used, some 105 for an episode of a reader.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import and_, case, delete, func, literal_column, or_, select, text

from tierd.catalog import rows
from tierd.catalog.lookup import snapshot_by_ref
from tierd.catalog.noting import DAY, EPISODE_GAP, HOUR, LONGEST_EPISODE
from tierd.catalog.schema import EPOCH, access_day, access_hour, episode, snapshot, to_micros
from tierd.catalog.session import Session
from tierd.model.dataset import WHOLE, SnapshotId, SnapshotRef
from tierd.model.observation import Episode, Ranked, Reader, Span, Use

KEEP_HOURS, KEEP_EPISODES, KEEP_DAYS = timedelta(days=35), timedelta(days=400), timedelta(days=3650)
_PRUNED_AT_ONCE = 2_000
_SNAPSHOTS_AT_ONCE = 50
"""Of each at most a month of hours becomes too old at a time, after the daemon was down for long."""
_PAGE, _DAYS_AT_ONCE = 1000, 7

SpanPlace = tuple[int, int]
"""Where a page of spans ended: snapshot and hour, or day."""


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
    RankedBy.SNAPSHOT: case(
        (snapshot.c.name == WHOLE, snapshot.c.dataset), else_=snapshot.c.dataset + "/" + snapshot.c.name
    ),
    RankedBy.DATASET: snapshot.c.dataset,
}


class History(Session):
    """Reading the history of use."""

    def accesses(self, ref: SnapshotRef, *, before: int | None = None, limit: int = 100) -> list[Episode]:
        """Episodes of one snapshot, those that began last first; `before`: only those that come after this one.

        Raises:
            NotFound: there is no such snapshot.
        """
        newest_first = (episode.c.first_at.desc(), episode.c.id.desc())
        with self._reading() as conn:
            of = snapshot_by_ref(conn, ref)
            query = select(episode).where(episode.c.snapshot_id == of.id).order_by(*newest_first).limit(limit)
            if before is not None:
                # By time and not by id: an access may be told long after it was.
                here = "(episode.first_at, episode.id) < (SELECT e.first_at, e.id FROM episode e WHERE e.id = :before)"
                query = query.where(text(here).bindparams(before=before))
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
            .where(episode.c.first_at >= max(since, EPOCH) - LONGEST_EPISODE, episode.c.last_at >= since)
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

    def spans(
        self,
        dataset: str,
        *,
        since: datetime,
        by_hour: bool = False,
        after: SpanPlace | None = None,
        limit: int = 100_000,
    ) -> tuple[list[Span], SpanPlace | None]:
        """Counts per day (or hour, of the last weeks) of a dataset's snapshots, and where the next page begins.

        In the order in which the snapshots were found, then of times. Snapshots that had a name one after another
        are told apart by nothing but that order.
        """
        table, column, length = (access_hour, "hour", HOUR) if by_hour else (access_day, "day", DAY)
        when = table.c[column]
        query = (
            select(snapshot.c.id, snapshot.c.name, when.label("at"), table.c.reads, table.c.writes, table.c.episodes)
            # In this order without sorting: a page of a long history must not read what comes after it.
            .join_from(snapshot, table, snapshot.c.id == table.c.snapshot_id)
            .where(snapshot.c.dataset == dataset, when >= (since - EPOCH) // length)
            .order_by(snapshot.c.id, when)
            .limit(limit + 1)
        )
        if after is not None:
            of, at = after
            rest = or_(snapshot.c.id > of, and_(snapshot.c.id == of, when > at))
            query = query.where(snapshot.c.id >= of, rest)
        with self._reading() as conn:
            found = list(conn.execute(query))
        page = found[:limit]
        spans = [
            Span(
                ref=SnapshotRef(dataset, r.name),
                start=EPOCH + r.at * length,
                reads=r.reads,
                writes=r.writes,
                episodes=r.episodes,
            )
            for r in page
        ]
        return spans, (page[-1].id, page[-1].at) if len(found) > limit else None

    def uses(self, *, dataset: str | None = None, since: datetime, now: datetime) -> Iterator[Use]:
        """Times of use of all snapshots, whoever it was, in the order in which they began; a page at a time.

        Episodes of several readers that overlap, or follow each other closely, are one use. Of what is older than
        episodes are kept, only the day is known.
        """
        first = EPOCH + (now - KEEP_EPISODES - EPOCH) // DAY * DAY + DAY
        yield from self._old_uses(dataset, since, first)
        after = (to_micros(max(since, first)) - 1, 0)
        used_until: dict[SnapshotId, datetime] = {}
        while True:
            page = self._uses_page(dataset, after)
            for r in page:
                before = used_until.get(r.snapshot_id)
                used_until[r.snapshot_id] = r.last_at if before is None else max(before, r.last_at)
                if before is None or r.first_at > before + EPISODE_GAP:
                    yield Use(ref=SnapshotRef(r.dataset, r.name), first_at=r.first_at, size_bytes=r.size_bytes)
            if len(page) < _PAGE:
                return
            after = to_micros(page[-1].first_at), page[-1].id

    def _old_uses(self, dataset: str | None, since: datetime, until: datetime) -> Iterator[Use]:
        when = access_day.c.day
        with self._reading() as conn:
            oldest = conn.scalar(select(func.min(when)))
        if oldest is None:
            return
        begin, end = max((since - EPOCH) // DAY, oldest), (until - EPOCH) // DAY
        query = (
            select(snapshot.c.dataset, snapshot.c.name, snapshot.c.size_bytes, when, access_day.c.episodes)
            # The plus has SQLite seek the days of each snapshot, instead of reading all days there ever were.
            .join_from(snapshot, access_day, literal_column("+snapshot.id") == access_day.c.snapshot_id)
            .where(access_day.c.episodes > 0)
            .order_by(when, snapshot.c.id)
        )
        if dataset is not None:
            query = query.where(snapshot.c.dataset == dataset)
        for day in range(begin, end, _DAYS_AT_ONCE):
            with self._reading() as conn:
                page = list(conn.execute(query.where(when >= day, when < min(day + _DAYS_AT_ONCE, end))))
            for r in page:
                for number in range(r.episodes):
                    at = EPOCH + r.day * DAY + DAY * (2 * number + 1) / (2 * r.episodes)
                    if at >= since:
                        yield Use(ref=SnapshotRef(r.dataset, r.name), first_at=at, size_bytes=r.size_bytes)

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

    def prune_history(self, *, now: datetime) -> Iterator[int]:
        """Delete what is too old, some thousand rows per step and transaction; yields how many went with each."""
        for table, name, oldest in (
            (access_hour, "hour", (now - KEEP_HOURS - EPOCH) // HOUR),
            (access_day, "day", (now - KEEP_DAYS - EPOCH) // DAY),
        ):
            last = 0
            while ids := self._ids_after(last):
                last = ids[-1]
                these = and_(table.c.snapshot_id.in_(ids), table.c[name] < oldest)
                with self._writing() as conn:
                    count = conn.execute(delete(table).where(these)).rowcount
                yield count
        count = _PRUNED_AT_ONCE
        while count == _PRUNED_AT_ONCE:
            old = select(episode.c.id).where(episode.c.first_at < now - KEEP_EPISODES).limit(_PRUNED_AT_ONCE)
            with self._writing() as conn:
                count = conn.execute(delete(episode).where(episode.c.id.in_(old))).rowcount
            yield count

    def _ids_after(self, last: int) -> list[int]:
        query = select(snapshot.c.id).where(snapshot.c.id > last).order_by(snapshot.c.id).limit(_SNAPSHOTS_AT_ONCE)
        with self._reading() as conn:
            return list(conn.scalars(query))


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
