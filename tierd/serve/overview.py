"""What a live view at a terminal shows, in one answer each: everything at a glance, and a cut of the snapshots."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from tierd.decide.scene import Scene
from tierd.model.plan import Plan, SnapshotView, View
from tierd.model.value import PolicyName
from tierd.serve import schemas as out
from tierd.serve.look import Look, live_transfers
from tierd.serve.schemas import Shape
from tierd.serve.table import matching

MAX_TRANSFERS, MAX_HOLDS, MAX_STEPS, MAX_EVENTS = 100, 100, 30, 25


class OverviewOut(Shape):
    """Everything at a glance. Lists are cut: `…_total` says how long they are, `status.live_transfers` of transfers.

    `seconds_to_high`: when tiers reach their high watermark, if they fill as in the last hours; only where they will.
    Events: the newest first.
    """

    at: datetime
    status: out.StatusOut
    seconds_to_high: dict[str, float]
    transfers: list[out.TransferOut]
    holds: list[out.LeaseOut]
    holds_total: int
    steps: list[out.StepOut]
    steps_total: int
    notes: list[str]
    events: list[out.EventOut]


class RowOut(Shape):
    """A snapshot, what it is worth on flash (in the unit of the policy), and what happens to it next, or why not."""

    snapshot: out.SnapshotOut
    value: float
    why: str


class RowsOut(Shape):
    """Rows from `offset` on, of those that match; `total`: of all snapshots."""

    items: list[RowOut]
    offset: int
    matching: int
    total: int
    policy: PolicyName


class Order(StrEnum):
    """Orders of the rows."""

    NAME = "name"
    SIZE = "size"
    """The largest first."""
    VALUE = "value"
    """The most valuable first."""
    ACCESSED = "accessed"
    """The one used last first."""
    HELD = "held"
    """Those that most hold first."""


_KEYS: Mapping[Order, Callable[[Scene, SnapshotView], Any]] = MappingProxyType(
    {
        Order.NAME: lambda _, s: 0,
        Order.SIZE: lambda _, s: -s.snapshot.size_bytes,
        Order.VALUE: lambda scene, s: -scene.case(s).value,
        Order.ACCESSED: lambda _, s: -s.snapshot.accessed_at.timestamp(),
        Order.HELD: lambda scene, s: -sum(h.is_active(scene.now) for h in s.holds),
    }
)


def holds_of(view: View, look: Look, now: datetime) -> list[out.LeaseOut]:
    """All holds, oldest first."""
    held = sorted(((h, s.ref) for s in view.snapshots for h in s.holds if h.is_active(now)), key=lambda x: x[0].id)
    return [look.hold(h, ref) for h, ref in held]


def transfers_of(view: View, look: Look) -> list[out.TransferOut]:
    """The live transfers: those that were begun first."""
    live = sorted(live_transfers(view), key=lambda t: (t.started_at is None, t.id))
    return [look.transfer(t) for t in live[:MAX_TRANSFERS]]


def rows(
    view: View,
    plan: Plan,
    look: Look,
    now: datetime,
    *,
    text: str,
    order: Order,
    is_reversed: bool,
    offset: int,
    limit: int,
) -> RowsOut:
    """A cut of the snapshots that match, in an order. Past the end it is the last one that is full."""
    scene, key, found = Scene(view, now), _KEYS[order], matching(view, text)
    found.sort(key=lambda s: (str(s.ref), s.snapshot.id), reverse=is_reversed and order is Order.NAME)
    if order is not Order.NAME:
        found.sort(key=lambda s: key(scene, s), reverse=is_reversed)
    begin = max(0, min(offset, len(found) - limit))
    steps = {s.ref: s for s in plan.steps}
    return RowsOut(
        items=[
            RowOut(
                snapshot=look.snapshot(s, view.residency(s), now),
                value=scene.case(s).value,
                why=steps[s.ref].reason if s.ref in steps else plan.kept.get(s.ref, ""),
            )
            for s in found[begin : begin + limit]
        ],
        offset=begin,
        matching=len(found),
        total=len(view.snapshots) + len(view.orphans),
        policy=view.judgement.policy,
    )
