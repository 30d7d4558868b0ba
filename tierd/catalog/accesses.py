"""When snapshots were used, and what happens to times when the clock jumps back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    Connection,
    Integer,
    Table,
    bindparam,
    func,
    literal,
    literal_column,
    select,
    type_coerce,
    update,
)
from sqlalchemy.dialects.sqlite import insert

from tierd.catalog import events, noting, rows
from tierd.catalog.schema import EPOCH, Time, episode, hold, placement, setting, snapshot, to_micros, transfer
from tierd.catalog.session import Session
from tierd.model.dataset import AccessSource, Snapshot, SnapshotId
from tierd.model.observation import AccessBatch

_OBSERVED_UNTIL = "observed_until"
_CHUNK = 500  # SQLite limits how many values one statement may have
_TOGETHER = 100
"""Accesses that share a transaction."""

_FACTS: tuple[tuple[Table, tuple[str, ...]], ...] = (
    (
        snapshot,
        (
            "first_seen_at",
            "changed_at",
            "accessed_at",
            "read_at",
            "written_at",
            "weight_at",
            "warmed_at",
            "scanned_at",
            "gone_at",
        ),
    ),
    (episode, ("first_at", "last_at")),
    (placement, ("verified_at",)),
    (transfer, ("created_at", "started_at", "finished_at")),
    (hold, ("since", "ended_at")),
)
"""Columns with times that cannot be later than now. What lies ahead by intention is treated apart; events stay
as they were written, their order is that of their ids."""


class Accesses(Session):
    """Recency."""

    def record_access(self, batch: Sequence[AccessBatch], *, now: datetime) -> None:
        """Keep accesses that were seen, each wholly or not at all; those of unknown snapshots are dropped.

        Other writers get their turn in between: ten thousand snapshots may be read within one flush.
        """
        for start in range(0, len(batch), _TOGETHER):
            with self._writing() as conn:
                _record(conn, batch[start : start + _TOGETHER], now)

    def observed_until(self) -> datetime | None:
        """Until when uses were watched for at least; None before the first time."""
        with self._reading() as conn:
            value = conn.scalar(select(setting.c.value).where(setting.c.name == _OBSERVED_UNTIL))
        return None if value is None else EPOCH + timedelta(microseconds=int(value))

    def note_observed(self, *, until: datetime, since: datetime, unobserved: Sequence[SnapshotId] = ()) -> None:
        """Uses were watched for until now, except those of some snapshots since `since`.

        Of those nobody knows whether they were used: the time does not count as disuse.
        """
        gap = max(until - since, timedelta(0))
        # Once a minute, and alone in its transaction nearly always: nobody has to read anything again for it.
        with self._writing(outdates=bool(unobserved)) as conn:
            upsert = insert(setting).values(name=_OBSERVED_UNTIL, value=str(to_micros(until)))
            conn.execute(upsert.on_conflict_do_update(index_elements=["name"], set_={"value": str(to_micros(until))}))
            if not unobserved or not gap:
                return
            micros = gap // timedelta(microseconds=1)
            moved: Any = func.min(literal_column("snapshot.accessed_at") + micros, to_micros(until), type_=Integer)
            for start in range(0, len(unobserved), _CHUNK):
                these = snapshot.c.id.in_(unobserved[start : start + _CHUNK])
                # What was seen since then is known better.
                older = snapshot.c.accessed_at <= since
                values = {"accessed_at": type_coerce(moved, Time), "access_source": AccessSource.UNOBSERVED}
                conn.execute(update(snapshot).where(these, older).values(values))

    def reanchor_clock(self, *, now: datetime) -> int:
        """The clock jumped back: every time in the future becomes now. Leases keep their duration.

        Returns:
            How many rows were changed.
        """
        with self._writing() as conn:
            # First those that lie ahead by intention, while the times they count from still show the jump.
            changed = _reanchor_leases(conn, now)
            ahead = update(transfer).where(transfer.c.advanced_at > now)
            no_wait = func.min(transfer.c.not_before, literal(now, Time))
            changed += conn.execute(ahead.values(not_before=no_wait, advanced_at=now)).rowcount
            for table, columns in _FACTS:
                for name in columns:
                    changed += conn.execute(update(table).where(table.c[name] > now).values({name: now})).rowcount
            changed += noting.forget_future(conn, now)
            if changed:
                events.append(conn, "clock.reanchored", now=now, detail={"rows": changed})
            return changed


def _reanchor_leases(conn: Connection, now: datetime) -> int:
    ahead = conn.execute(select(hold).where(hold.c.renewed_at > now)).fetchall()
    for row in ahead:
        left = None if row.expires_at is None else now + (row.expires_at - row.renewed_at)
        conn.execute(update(hold).where(hold.c.id == row.id).values(renewed_at=now, expires_at=left))
    return len(ahead)


def _record(conn: Connection, batch: Sequence[AccessBatch], now: datetime) -> None:
    query = select(snapshot).where(snapshot.c.id.in_({b.snapshot_id for b in batch}))
    known = {SnapshotId(r.id): rows.snapshot(r) for r in conn.execute(query)}
    changed: dict[SnapshotId, Snapshot] = {}
    for seen in batch:
        # The same snapshot may come twice in one batch: go on from what the first one changed.
        before = changed.get(seen.snapshot_id) or known.get(seen.snapshot_id)
        if before is not None and (changes := noting.note(conn, before, seen, now)):
            changed[before.id] = replace(before, **changes)
    if changed:
        conn.execute(_SET, [{"of_id": s.id} | {n: getattr(s, n) for n in noting.CHANGED} for s in changed.values()])


_SET = (
    update(snapshot)
    .where(snapshot.c.id == bindparam("of_id"))
    .values({name: bindparam(name) for name in noting.CHANGED})
)
