"""The view the planner decides on, and the counts the metrics show: each one consistent read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, Select, exists, func, select

from tierd.catalog import rows
from tierd.catalog.announcing import open_announcements
from tierd.catalog.engine import Opened
from tierd.catalog.holds import active_holds
from tierd.catalog.schema import Time, event, hold, placement, snapshot, transfer
from tierd.catalog.session import Session
from tierd.catalog.settings import in_given_phases
from tierd.model.announced import Announcement
from tierd.model.dataset import Dataset, Snapshot, SnapshotId
from tierd.model.hold import Hold, HoldKind
from tierd.model.placement import Placement
from tierd.model.plan import SnapshotView, View
from tierd.model.tier import Tier, TierName, TierUsage
from tierd.model.transfer import LIVE, POLICY, Transfer, TransferKind, TransferState

_T = TypeVar("_T")
_About = TypeVar("_About", Hold, Announcement, Placement)
_NEWEST = 10_000
_DAY = timedelta(days=1)
_FOREVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class TransferCount:
    """Transfers of one kind in one state. `bytes_done`, `bytes_total`: their sums."""

    kind: TransferKind
    state: TransferState
    transfers: int
    bytes_done: int
    bytes_total: int


@dataclass(frozen=True, kw_only=True)
class CatalogCounts:
    """A summary for metrics. `transfers` covers the whole history; leases and pins count those not ended.

    `snapshots_gone` counts all that were ever deleted, `orphans` those of them of which a tier still has a copy, and
    `orphaned_bytes` what these copies take.
    """

    snapshots: int
    snapshots_gone: int
    orphans: int
    orphaned_bytes: int
    snapshots_with_problem: int
    leases: int
    pins: int
    events: int
    transfers: tuple[TransferCount, ...]


class _Kept(Generic[_T]):
    """Model values of the last view, taken again while their rows are the same: most rows are, and comparing is
    several times cheaper than building (with 10,000 snapshots a view is asked for many times a minute).

    Args:
        build: makes the value of a row.
        key_columns: how many leading columns are the primary key.
    """

    def __init__(self, build: Callable[[rows.AnyRow], _T], *, key_columns: int) -> None:
        self._build = build
        self._key_columns = key_columns
        self._kept: dict[tuple[Any, ...], tuple[tuple[Any, ...], _T]] = {}

    def values(self, found: Sequence[rows.AnyRow]) -> list[_T]:
        # Replaced as a whole at the end: several threads may be here, and each must see one consistent dict.
        last, kept = self._kept, {}
        for row in found:
            cells = tuple(row)
            key = cells[: self._key_columns]
            known = last.get(key)
            kept[key] = known if known is not None and known[0] == cells else (cells, self._build(row))
        self._kept = kept
        return [value for _, value in kept.values()]


@dataclass(frozen=True, kw_only=True)
class _Content:
    """The snapshots and orphans of a view, the same as long as nothing is written and no hold or announcement ends.

    Attributes:
        since, until: the moments for which it was read: from the first on, and before the other.
    """

    datasets: Sequence[Dataset]
    flash: TierName
    snapshots: tuple[SnapshotView, ...]
    orphans: tuple[SnapshotView, ...]
    since: datetime
    until: datetime

    def is_of(self, datasets: Sequence[Dataset], flash: TierName, now: datetime) -> bool:
        """Whether the same would be read for these."""
        return (self.datasets, self.flash) == (datasets, flash) and self.since <= now < self.until


def _grouped(found: Iterable[_About]) -> Mapping[SnapshotId, Sequence[_About]]:
    grouped: defaultdict[SnapshotId, list[_About]] = defaultdict(list)
    for one in found:
        grouped[one.snapshot_id].append(one)
    return grouped


def _newest_failures() -> Select[*tuple[Any, ...]]:
    later = transfer.alias("later")
    superseded = exists().where(later.c.snapshot_id == transfer.c.snapshot_id, later.c.id > transfer.c.id)
    return select(transfer).where(transfer.c.state == TransferState.FAILED, ~superseded)


def _lately(conn: Connection, *wanted: ColumnElement[bool]) -> tuple[ColumnElement[bool], ...]:
    """Finished transfers among the newest: enough for what is asked of the last days, however long the history."""
    newest = conn.scalar(select(func.max(transfer.c.id))) or 0
    return transfer.c.id > newest - _NEWEST, transfer.c.state == TransferState.DONE, *wanted


def _with_own_copy() -> Select[*tuple[Any, ...]]:
    """Ids of snapshots of which a tier has a copy in its own store; `own_copies` in the model says the same."""
    return select(placement.c.snapshot_id).where(placement.c.location.is_not(None))


def _by_snapshot(conn: Connection, query: Select[*tuple[Any, ...]]) -> dict[SnapshotId, Transfer]:
    return {SnapshotId(r.snapshot_id): rows.transfer(r) for r in conn.execute(query).all()}


def _released_lately(conn: Connection, flash: TierName) -> dict[SnapshotId, datetime]:
    """When snapshots last left flash."""
    left = _lately(conn, transfer.c.release, transfer.c.source == flash)
    last = func.max(transfer.c.finished_at, type_=Time).label("at")
    query = select(transfer.c.snapshot_id, last).where(*left).group_by(transfer.c.snapshot_id)
    return {SnapshotId(r.snapshot_id): r.at for r in conn.execute(query)}


def _promoted_bytes(conn: Connection, now: datetime) -> int:
    """How much was written to flash in a day without being asked for."""
    came = _lately(
        conn,
        transfer.c.kind == TransferKind.RECALL,
        transfer.c.only.is_(None),
        transfer.c.requested_by == POLICY,
        transfer.c.finished_at > now - _DAY,
    )
    return conn.scalar(select(func.sum(transfer.c.bytes_total)).where(*came)) or 0


class Views(Session):
    """Reads that cover the whole catalog, in a fixed number of queries however many snapshots there are."""

    def __init__(self, opened: Opened) -> None:
        super().__init__(opened)
        self._kept_snapshots = _Kept(rows.snapshot, key_columns=1)
        self._kept_orphans = _Kept(rows.snapshot, key_columns=1)
        self._kept_placements = _Kept(rows.placement, key_columns=2)

    def view(
        self,
        tiers: Sequence[Tier],
        datasets: Sequence[Dataset],
        usage: Mapping[TierName, TierUsage],
        *,
        now: datetime,
    ) -> View:
        """Everything a decision may look at, as of one moment: the snapshots of these datasets, and their orphans.

        Every dataset is in the phase that an operator gave it.
        """
        flash = min(tiers, key=lambda t: t.rank).name
        content = self._known(
            "view", lambda conn: self._read(conn, datasets, flash, now), fits=lambda c: c.is_of(datasets, flash, now)
        )
        with self._reading() as conn:
            promoted_bytes = _promoted_bytes(conn, now)
        return View(
            snapshots=content.snapshots,
            tiers=tuple(tiers),
            usage=dict(usage),
            orphans=content.orphans,
            promoted_bytes=promoted_bytes,
        )

    def _read(self, conn: Connection, datasets: Sequence[Dataset], flash: TierName, now: datetime) -> _Content:
        ours = (
            select(snapshot)
            .where(snapshot.c.dataset.in_([d.name for d in datasets]))
            .order_by(snapshot.c.dataset, snapshot.c.name, snapshot.c.id)
        )
        present = ours.where(snapshot.c.gone_at.is_(None))
        orphaned = ours.where(snapshot.c.gone_at.is_not(None), snapshot.c.id.in_(_with_own_copy()))
        copies = select(placement).order_by(placement.c.snapshot_id, placement.c.tier)
        held, announced = active_holds(conn, None, now), open_announcements(conn, None, now)
        holds, announcements = _grouped(held), _grouped(announced)
        placements = _grouped(self._kept_placements.values(conn.execute(copies).all()))
        configured = {d.name: d for d in in_given_phases(conn, datasets)}
        live = _by_snapshot(conn, select(transfer).where(transfer.c.state.in_(sorted(LIVE))))
        failed = _by_snapshot(conn, _newest_failures())
        released = _released_lately(conn, flash)

        def seen(s: Snapshot) -> SnapshotView:
            return SnapshotView(
                snapshot=s,
                dataset=configured[s.ref.dataset],
                placements=tuple(placements.get(s.id, ())),
                holds=tuple(holds.get(s.id, ())),
                announcements=tuple(announcements.get(s.id, ())),
                live=live.get(s.id),
                last_failure=failed.get(s.id),
                released_at=released.get(s.id),
            )

        ends = [h.expires_at for h in held if h.expires_at is not None] + [a.until for a in announced]
        return _Content(
            datasets=datasets,
            flash=flash,
            snapshots=tuple(map(seen, self._kept_snapshots.values(conn.execute(present).all()))),
            orphans=tuple(map(seen, self._kept_orphans.values(conn.execute(orphaned).all()))),
            since=now,
            until=min(ends, default=_FOREVER),
        )

    def counts(self) -> CatalogCounts:
        """How many there are of everything."""
        by_state = select(
            transfer.c.kind,
            transfer.c.state,
            func.count().label("transfers"),
            func.sum(transfer.c.bytes_done).label("bytes_done"),
            func.sum(transfer.c.bytes_total).label("bytes_total"),
        ).group_by(transfer.c.kind, transfer.c.state)
        with self._reading() as conn:
            snapshots = conn.execute(
                select(func.count(), func.count(snapshot.c.gone_at), func.count(snapshot.c.problem))
            ).one()
            open_holds = conn.execute(
                select(hold.c.kind, func.count()).where(hold.c.ended_at.is_(None)).group_by(hold.c.kind)
            )
            by_kind = {kind: int(count) for kind, count in open_holds}
            left = conn.execute(
                select(func.count(placement.c.snapshot_id.distinct()), func.sum(placement.c.size_bytes))
                .join(snapshot, snapshot.c.id == placement.c.snapshot_id)
                .where(snapshot.c.gone_at.is_not(None), placement.c.location.is_not(None))
            ).one()
            return CatalogCounts(
                snapshots=snapshots[0] - snapshots[1],
                snapshots_gone=snapshots[1],
                orphans=left[0],
                orphaned_bytes=left[1] or 0,
                snapshots_with_problem=snapshots[2],
                leases=by_kind.get(HoldKind.LEASE, 0),
                pins=by_kind.get(HoldKind.PIN, 0),
                events=conn.scalar(select(func.count()).select_from(event)) or 0,
                transfers=tuple(
                    TransferCount(
                        kind=r.kind,
                        state=r.state,
                        transfers=r.transfers,
                        bytes_done=r.bytes_done,
                        bytes_total=r.bytes_total,
                    )
                    for r in conn.execute(by_state)
                ),
            )
