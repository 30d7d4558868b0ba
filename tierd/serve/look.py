"""How model values look in responses. The only place that knows both shapes."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from tierd.decide.orphans import kept_until
from tierd.model.dataset import Dataset, SnapshotRef
from tierd.model.event import Event
from tierd.model.hold import Hold
from tierd.model.part import Part
from tierd.model.placement import Placement, Residency
from tierd.model.plan import Explanation, Plan, SnapshotView, Step, View, Worth
from tierd.model.tier import Tier, TierName, TierUsage
from tierd.model.transfer import Transfer, TransferKind, TransferState
from tierd.serve import schemas as out
from tierd.serve.ports import Clock, Ports
from tierd.serve.views import Views

_STILL_COPYING = frozenset({TransferState.QUEUED, TransferState.RESTORING, TransferState.COPYING})


def text_of(path: Path) -> str:
    """A path as text that JSON can carry: bytes that are not UTF-8 are shown as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def reserved_bytes(transfers: Iterable[Transfer]) -> Mapping[TierName, int]:
    """Bytes that live transfers will still write, by the tier they go to."""
    reserved: defaultdict[TierName, int] = defaultdict(int)
    for t in transfers:
        if t.is_live and t.state in _STILL_COPYING and t.kind is not TransferKind.REMOVE:
            reserved[t.destination] += max(0, t.bytes_total - t.bytes_done)
    return reserved


def live_transfers(view: View) -> list[Transfer]:
    """The live transfers of a view, oldest first."""
    return sorted((s.live for s in (*view.snapshots, *view.orphans) if s.live is not None), key=lambda t: t.id)


class Look:
    """Renders values; needs the names of snapshots, the progress of transfers, and the time for what is left."""

    def __init__(self, views: Views, ports: Ports, clock: Clock) -> None:
        self._views, self._ports, self._clock = views, ports, clock

    def tiers(self, view: View) -> list[out.TierOut]:
        """All configured tiers, fastest first."""
        reserved = reserved_bytes(live_transfers(view))
        return [
            _tier(t, view.usage.get(t.name) or _never_seen(t.name), reserved.get(t.name, 0))
            for t in sorted(view.tiers, key=lambda t: t.rank)
        ]

    def datasets(self, view: View, datasets: Iterable[Dataset]) -> list[out.DatasetOut]:
        """These datasets, with what the view has of them."""
        counts: defaultdict[str, int] = defaultdict(int)
        sizes: defaultdict[str, int] = defaultdict(int)
        for s in view.snapshots:
            counts[s.dataset.name] += 1
            sizes[s.dataset.name] += s.snapshot.size_bytes
        return [_dataset(d, counts[d.name], sizes[d.name]) for d in datasets]

    def snapshot(self, s: SnapshotView, residency: Residency, now: datetime) -> out.SnapshotOut:
        """One snapshot with its placements, active holds and live transfer."""
        known = s.snapshot
        return out.SnapshotOut(
            ref=str(known.ref),
            dataset=known.ref.dataset,
            name=known.ref.name,
            path=text_of(known.path),
            residency=residency,
            size_bytes=known.size_bytes,
            disk_bytes=known.disk_bytes,
            files=known.files,
            entries=known.entries,
            first_seen_at=known.first_seen_at,
            changed_at=known.changed_at,
            accessed_at=known.accessed_at,
            access_source=known.access_source,
            read_at=known.read_at,
            written_at=known.written_at,
            episodes=known.episodes,
            warmed_at=known.warmed_at,
            is_settled=now - known.changed_at >= s.dataset.policy.settle_after,
            gone_at=known.gone_at,
            kept_until=kept_until(s),
            problem=known.problem,
            placements=[_placement(p) for p in s.placements],
            holds=[self.hold(h, known.ref) for h in s.holds if h.is_active(now)],
            transfer=None if s.live is None else self.transfer(s.live, known.ref),
        )

    def transfer(self, t: Transfer, ref: SnapshotRef | None = None) -> out.TransferOut:
        """One transfer, with the mover's progress while it runs."""
        progress = self._ports.progress(t.id) if t.is_live else None
        return out.TransferOut(
            id=t.id,
            ref=str(ref or self._views.ref(t.snapshot_id)),
            kind=t.kind,
            state=t.state,
            source=t.source,
            destination=t.destination,
            release=t.release,
            reason=t.reason,
            requested_by=t.requested_by,
            attempt=t.attempt,
            not_before=t.not_before,
            error=t.error,
            error_code=t.error_code,
            bytes_total=t.bytes_total,
            bytes_done=t.bytes_done if progress is None else progress.bytes_done,
            files_total=t.files_total,
            files_done=t.files_done if progress is None else progress.files_done,
            rate_bytes_per_s=None if progress is None else progress.rate_bytes_per_s,
            eta_s=self.eta_s(t),
            step=(progress.step if progress is not None else "") or t.waits_for or t.state.value,
            expected_at=t.expected_at,
            restore_cost=t.restore_cost,
            is_paused=t.is_paused,
            cancel_requested=t.cancel_requested,
            created_at=t.created_at,
            started_at=t.started_at,
            finished_at=t.finished_at,
            due_at=t.due_at,
            only=list(t.only),
            is_late=self._is_late(t),
        )

    def _is_late(self, t: Transfer) -> bool:
        """Whether a promise was broken, or will be as things stand."""
        if t.due_at is None:
            return False
        if not t.is_live:
            return t.finished_at is not None and t.finished_at > t.due_at
        return self._clock() > t.due_at or t.snapshot_id in self._views.late()

    def eta_s(self, t: Transfer) -> float | None:
        """Seconds until a live transfer ends, from its progress, else from what such copies took; None if unknown."""
        if not t.is_live or t.is_paused:
            return None
        progress = self._ports.progress(t.id)
        if progress is not None and progress.eta_s is not None:
            return progress.eta_s
        if t.kind is TransferKind.REMOVE or (t.kind is TransferKind.MIGRATE and t.state not in _STILL_COPYING):
            return None
        if t.state is TransferState.RESTORING and t.expected_at is None:
            return None
        waits_s = 0.0 if t.expected_at is None else max(0.0, (t.expected_at - self._clock()).total_seconds())
        done = t if progress is None else progress
        left_bytes, left_files = max(0, t.bytes_total - done.bytes_done), max(0, t.files_total - done.files_done)
        copies_s = self._ports.estimate(t.source, t.destination, left_bytes, left_files)
        return None if copies_s is None else waits_s + copies_s

    def hold(self, h: Hold, ref: SnapshotRef | None = None) -> out.LeaseOut:
        """A lease or a pin."""
        return out.LeaseOut(
            id=h.id,
            ref=str(ref or self._views.ref(h.snapshot_id)),
            kind=h.kind,
            holder=h.holder,
            since=h.since,
            expires_at=h.expires_at,
            generation=h.generation,
            note=h.note,
            pid=None if h.tie is None else h.tie.pid,
            job=None if h.tie is None else h.tie.job,
        )

    def event(self, e: Event) -> out.EventOut:
        """One event."""
        return out.EventOut(
            id=e.id,
            at=e.at,
            kind=e.kind,
            ref=None if e.ref is None else str(e.ref),
            transfer_id=e.transfer_id,
            message=e.message,
            detail=dict(e.detail),
        )

    def steps(self, plan: Plan, limit: int | None = None) -> list[out.StepOut]:
        """The steps of a plan, or the first of them: of many snapshots there are many."""
        return [_step(s) for s in plan.steps[:limit]]

    def plan(self, plan: Plan) -> out.PlanOut:
        """A plan."""
        return out.PlanOut(
            made_at=plan.made_at,
            steps=self.steps(plan),
            kept={str(ref): reason for ref, reason in plan.kept.items()},
            notes=list(plan.notes),
        )

    def explanation(
        self, e: Explanation, events: Iterable[Event], parts: Iterable[tuple[Part, Path]]
    ) -> out.ExplanationOut:
        """An explanation, with the history that led here; `parts` of it that are on flash, and where."""
        return out.ExplanationOut(
            ref=str(e.ref),
            residency=e.residency,
            summary=e.summary,
            findings=[out.FindingOut(rule=f.rule, holds=f.holds, detail=f.detail, until=f.until) for f in e.findings],
            next_step=None if e.next_step is None else _step(e.next_step),
            next_event=e.next_event,
            worth=None if e.worth is None else _worth(e.worth),
            parts=[_part(part, path) for part, path in parts],
            events=[self.event(event) for event in events],
        )


def _part(part: Part, path: Path) -> out.PartOut:
    return out.PartOut(
        only=list(part.only),
        tier=part.tier,
        path=text_of(path),
        entries=part.entries,
        size_bytes=part.size_bytes,
        as_of=part.as_of,
    )


def _worth(worth: Worth) -> out.WorthOut:
    terms = [out.TermOut(name=term.name, amount=term.amount, detail=term.detail) for term in worth.terms]
    return out.WorthOut(policy=worth.policy, value=worth.value, terms=terms, rank=worth.rank, of=worth.of)


def _tier(t: Tier, usage: TierUsage, reserved: int) -> out.TierOut:
    return out.TierOut(
        name=t.name,
        kind=t.kind,
        rank=t.rank,
        root=_root(t),
        is_online=usage.is_online,
        offline_reason=usage.offline_reason,
        capacity_bytes=usage.capacity_bytes,
        used_bytes=usage.used_bytes,
        free_bytes=usage.free_bytes,
        used_ratio=usage.used_ratio,
        capacity_inodes=usage.capacity_inodes,
        used_inodes=usage.used_inodes,
        high=t.high,
        low=t.low,
        reserved_bytes=reserved,
        read_rate=t.read_rate,
        write_rate=t.write_rate,
    )


def _root(t: Tier) -> str:
    """Where the tier is, as people would write it."""
    if t.s3 is None:
        return text_of(t.root)
    return f"s3://{t.s3.bucket}/{t.s3.prefix}" if t.s3.prefix else f"s3://{t.s3.bucket}"


def _never_seen(name: TierName) -> TierUsage:
    return TierUsage(tier=name, is_online=False, offline_reason="not looked at yet")


def _dataset(d: Dataset, snapshots: int, size_bytes: int) -> out.DatasetOut:
    policy = d.policy
    return out.DatasetOut(
        name=d.name,
        path=text_of(d.path),
        home=d.home,
        pattern=d.pattern,
        phase=d.phase,
        configured_phase=d.configured_phase,
        given_phase=d.given_phase,
        policy=out.PolicyOut(
            settle_after_s=policy.settle_after.total_seconds(),
            migrate_after_s=None if policy.migrate_after is None else policy.migrate_after.total_seconds(),
            release_after_s=None if policy.release_after is None else policy.release_after.total_seconds(),
            migrate_after_to_s=_seconds_by_tier(policy.migrate_after_to),
            release_after_from_s=_seconds_by_tier(policy.release_after_from),
            keep_deleted_s=None if policy.keep_deleted is None else policy.keep_deleted.total_seconds(),
            min_residency_s=policy.min_residency.total_seconds(),
            verify=policy.verify,
            leaves=policy.leaves,
            keeps_flash=policy.keeps_flash,
        ),
        snapshots=snapshots,
        size_bytes=size_bytes,
    )


def _seconds_by_tier(ages: Mapping[TierName, timedelta | None]) -> dict[str, float | None]:
    return {tier: None if age is None else age.total_seconds() for tier, age in ages.items()}


def _placement(p: Placement) -> out.PlacementOut:
    return out.PlacementOut(
        tier=p.tier,
        state=p.state,
        location=p.location,
        content_id=p.content_id,
        size_bytes=p.size_bytes,
        entries=p.entries,
        verified_at=p.verified_at,
    )


def _step(s: Step) -> out.StepOut:
    return out.StepOut(
        action=s.action,
        ref=str(s.ref),
        source=s.source,
        destination=s.destination,
        reason=s.reason,
        frees_bytes=s.frees_bytes,
        copies_bytes=s.copies_bytes,
    )
