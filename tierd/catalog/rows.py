"""Rows become model values here, and nowhere else."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import Row

from tierd.model.announced import Announcement, AnnouncementId
from tierd.model.dataset import Snapshot, SnapshotId, SnapshotRef
from tierd.model.event import Event
from tierd.model.hold import Hold, HoldId, Tie
from tierd.model.part import Part
from tierd.model.placement import Placement
from tierd.model.tier import TierName
from tierd.model.transfer import Transfer, TransferId

AnyRow = Row[Any]

# Building a Path costs more than the rest of a row, and the same ones are read again with every view.
_path = lru_cache(maxsize=1 << 16)(Path)


def snapshot(r: AnyRow) -> Snapshot:
    return Snapshot(
        id=SnapshotId(r.id),
        ref=SnapshotRef(r.dataset, r.name),
        key=r.key,
        path=_path(r.path),
        root_inode=r.root_inode,
        size_bytes=r.size_bytes,
        disk_bytes=r.disk_bytes,
        files=r.files,
        entries=r.entries,
        first_seen_at=r.first_seen_at,
        changed_at=r.changed_at,
        accessed_at=r.accessed_at,
        access_source=r.access_source,
        read_at=r.read_at,
        written_at=r.written_at,
        episodes=r.episodes,
        weight=r.weight,
        weight_at=r.weight_at,
        warmed_at=r.warmed_at,
        scanned_at=r.scanned_at,
        gone_at=r.gone_at,
        problem=r.problem,
        floor=r.floor,
    )


def placement(r: AnyRow) -> Placement:
    return Placement(
        snapshot_id=SnapshotId(r.snapshot_id),
        tier=TierName(r.tier),
        state=r.state,
        location=r.location,
        content_id=r.content_id,
        size_bytes=r.size_bytes,
        entries=r.entries,
        verified_at=r.verified_at,
    )


def transfer(r: AnyRow) -> Transfer:
    return Transfer(
        id=TransferId(r.id),
        key=r.key,
        snapshot_id=SnapshotId(r.snapshot_id),
        kind=r.kind,
        state=r.state,
        source=TierName(r.source),
        destination=TierName(r.destination),
        release=r.release,
        priority=r.priority,
        reason=r.reason,
        requested_by=r.requested_by,
        attempt=r.attempt,
        not_before=r.not_before,
        error=r.error,
        error_code=r.error_code,
        bytes_total=r.bytes_total,
        bytes_done=r.bytes_done,
        files_total=r.files_total,
        files_done=r.files_done,
        first=r.first,
        only=r.only,
        restore_cost=r.restore_cost,
        waits_for=r.waits_for,
        expected_at=r.expected_at,
        is_paused=r.is_paused,
        cancel_requested=r.cancel_requested,
        created_at=r.created_at,
        started_at=r.started_at,
        finished_at=r.finished_at,
        due_at=r.due_at,
    )


def part(r: AnyRow) -> Part:
    return Part(
        transfer_id=TransferId(r.transfer_id),
        key=r.key,
        snapshot_id=SnapshotId(r.snapshot_id),
        tier=TierName(r.tier),
        location=r.location,
        only=r.only,
        content_id=r.content_id,
        entries=r.entries,
        size_bytes=r.size_bytes,
        as_of=r.as_of,
    )


def hold(r: AnyRow) -> Hold:
    return Hold(
        id=HoldId(r.id),
        snapshot_id=SnapshotId(r.snapshot_id),
        kind=r.kind,
        holder=r.holder,
        since=r.since,
        # An ended hold is over since then, whatever it was promised.
        expires_at=r.expires_at if r.ended_at is None else r.ended_at,
        generation=r.generation,
        note=r.note,
        renewed_at=r.renewed_at,
        tie=_tie(r),
    )


def _tie(r: AnyRow) -> Tie | None:
    if r.pid is None and r.job is None:
        return None
    return Tie(pid=r.pid, pid_started=r.pid_started, boot_id=r.boot_id, job=r.job)


def announcement(r: AnyRow) -> Announcement:
    return Announcement(
        id=AnnouncementId(r.id),
        snapshot_id=SnapshotId(r.snapshot_id),
        source=r.source,
        holder=r.holder,
        use_at=r.use_at,
        until=r.until,
        confidence=r.confidence,
        note=r.note,
    )


def event(r: AnyRow) -> Event:
    return Event(
        id=r.id,
        at=r.at,
        kind=r.kind,
        ref=None if r.dataset is None else SnapshotRef(r.dataset, r.name),
        transfer_id=None if r.transfer_id is None else TransferId(r.transfer_id),
        message=r.message,
        detail=json.loads(r.detail),
    )
