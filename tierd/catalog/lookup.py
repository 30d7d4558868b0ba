"""Finding one row, or saying clearly that it is not there."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from sqlalchemy import Connection, select

from tierd.catalog import rows
from tierd.catalog.schema import dataset, snapshot, tier, transfer
from tierd.errors import NotFound
from tierd.model.dataset import Snapshot, SnapshotId, SnapshotRef
from tierd.model.tier import TierName
from tierd.model.transfer import Transfer, TransferId

_MAX_NAMES = 2000  # comparing names takes time, and a hint is not worth much of it


def snapshot_by_id(conn: Connection, snapshot_id: SnapshotId) -> Snapshot:
    row = conn.execute(select(snapshot).where(snapshot.c.id == snapshot_id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no snapshot with id {snapshot_id}")
    return rows.snapshot(row)


def snapshot_by_ref(conn: Connection, ref: SnapshotRef) -> Snapshot:
    """The snapshot of this name; where it is gone, the one that had the name last."""
    query = (
        select(snapshot)
        .where(snapshot.c.dataset == ref.dataset, snapshot.c.name == ref.name)
        .order_by(snapshot.c.gone_at.is_not(None), snapshot.c.id.desc())
        .limit(1)
    )
    row = conn.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"there is no snapshot {ref}", hint=_near(conn, ref))
    return rows.snapshot(row)


def transfer_by_id(conn: Connection, transfer_id: TransferId) -> Transfer:
    row = conn.execute(select(transfer).where(transfer.c.id == transfer_id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no transfer {transfer_id}", hint="`tierd transfers` lists them.")
    return rows.transfer(row)


def tier_must_exist(conn: Connection, name: TierName) -> None:
    if conn.scalar(select(tier.c.name).where(tier.c.name == name)) is None:
        raise NotFound(f"the catalog knows no tier {name!r}", hint="`tierd status` lists the tiers.")


def dataset_must_exist(conn: Connection, name: str) -> None:
    if conn.scalar(select(dataset.c.name).where(dataset.c.name == name)) is None:
        names = list(conn.scalars(select(dataset.c.name).limit(_MAX_NAMES)))
        raise NotFound(f"there is no dataset {name}", hint=_did_you_mean(name, names))


def _near(conn: Connection, ref: SnapshotRef) -> str:
    present = select(snapshot.c.dataset, snapshot.c.name).where(snapshot.c.gone_at.is_(None))
    of_dataset = conn.execute(present.where(snapshot.c.dataset == ref.dataset).limit(_MAX_NAMES)).all()
    found = of_dataset or conn.execute(present.limit(_MAX_NAMES)).all()
    return _did_you_mean(str(ref), [str(SnapshotRef(r.dataset, r.name)) for r in found])


def _did_you_mean(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3)
    return f"Did you mean {' or '.join(near)}?" if near else "`tierd ls` lists the snapshots."
