"""The plan: what should move down now, why, and why everything else stays.

1. By age: coldest first, what is unused for `release_after` is released, for `migrate_after` gets a cold copy.
2. By pressure: while flash is above its high watermark, the coldest leave until it is at the low one.
3. For warms that wait for room: the coldest leave until they fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from tierd.decide.eligibility import cold_enough, obstacle, unused
from tierd.decide.room import Ledger, ledgers, occupies
from tierd.model.dataset import SnapshotRef
from tierd.model.plan import Action, Plan, SnapshotView, Step, View
from tierd.model.tier import TierName
from tierd.model.units import format_duration, format_percent, format_size


def plan(view: View, now: datetime) -> Plan:
    """Decide what should move down now. Pure: the same view and time give the same plan."""
    return _Planner(view, now).make()


def coldest_first(snapshots: Iterable[SnapshotView]) -> list[SnapshotView]:
    """The order in which snapshots leave: least recently used, then the larger, then by name."""
    return sorted(snapshots, key=lambda s: (s.snapshot.accessed_at, -s.snapshot.size_bytes, s.ref))


class _Planner:
    def __init__(self, view: View, now: datetime) -> None:
        self.view = view
        self.now = now
        self.books = ledgers(view)
        self.flash = self.books[view.flash_tier.name]
        self.share_before = self.flash.share()
        self.steps: dict[SnapshotRef, Step] = {}
        self.kept: dict[SnapshotRef, str] = {}
        self.notes: list[str] = []

    def make(self) -> Plan:
        for book in self.books.values():
            if not book.is_online:
                usage = self.view.usage.get(book.tier.name)
                why = (usage.offline_reason if usage else None) or "not looked at yet"
                self.notes.append(f"tier {book.tier.name} is offline: {why}")
        order = coldest_first(self.view.snapshots)
        candidates = [s for s in order if self._may_leave(s)]
        for s in candidates:
            self._by_age(s)
        self._by_pressure(candidates)
        self._for_warms(candidates)
        kept = {ref: why for ref, why in self.kept.items() if ref not in self.steps}
        return Plan(made_at=self.now, steps=tuple(self.steps.values()), kept=kept, notes=tuple(self.notes))

    def _may_leave(self, s: SnapshotView) -> bool:
        flash = self.flash.tier.name
        if s.on(flash) is None:
            where = ", ".join(p.tier for p in s.placements if s.on(p.tier)) or "no tier"
            self.kept[s.ref] = f"on {where}, not on {flash}; a warm brings it there"
            return False
        if not self.flash.is_online:
            self.kept[s.ref] = f"tier {flash} is offline"
            return False
        hindrance = obstacle(s, self.now)
        if hindrance is not None:
            self.kept[s.ref] = hindrance.detail
        return hindrance is None

    # -- the three reasons to move ---------------------------------------------------------------------------

    def _by_age(self, s: SnapshotView) -> None:
        policy = s.dataset.policy
        release = cold_enough(s, self.now, policy.release_after, "release_after")
        if release.holds:
            self._release(s, release.detail)
            return
        migrate = cold_enough(s, self.now, policy.migrate_after, "migrate_after")
        if cold_tier(s, self.view) is not None:
            self.kept[s.ref] = f"has a cold copy; {release.detail}"
        elif migrate.holds:
            self._premigrate(s, migrate.detail)
        else:
            self.kept[s.ref] = migrate.detail

    def _by_pressure(self, candidates: list[SnapshotView]) -> None:
        tier = self.flash.tier
        if not self.flash.is_online or self.share_before <= tier.high:
            return
        name, high, low = tier.name, format_percent(tier.high), format_percent(tier.low)
        for s in self._releasable(candidates):
            if self.flash.share() <= tier.low:
                return
            idle = format_duration(unused(s, self.now))
            self._release(s, f"{name} is above its high watermark {high}: coldest first until {low}; unused for {idle}")
        if self.flash.share() > tier.low:
            self.notes.append(
                f"tier {name} is {format_percent(self.share_before)} used, above {high}; what may leave is not enough"
            )

    def _for_warms(self, candidates: list[SnapshotView]) -> None:
        if not self.flash.coming_bytes or not self.flash.is_online:
            return
        for s in self._releasable(candidates):
            missing = self.flash.missing_for_coming()
            if missing <= 0:
                return
            self._release(s, f"a warm waits for {format_size(missing)} on {self.flash.tier.name}: coldest first")
        missing = self.flash.missing_for_coming()
        if missing > 0:
            self.notes.append(f"a warm waits for {format_size(missing)} on {self.flash.tier.name}, nothing may leave")

    def _releasable(self, candidates: list[SnapshotView]) -> Iterator[SnapshotView]:
        for s in candidates:
            planned = self.steps.get(s.ref)
            if planned is None or planned.action is Action.MIGRATE:
                yield s

    # -- steps --------------------------------------------------------------------------------------------------

    def _premigrate(self, s: SnapshotView, why: str) -> None:
        book = self._destination(s)
        if book is None:
            return
        size, entries = s.snapshot.size_bytes, s.snapshot.entries
        book.come(size, entries)
        self.steps[s.ref] = Step(
            action=Action.MIGRATE,
            snapshot_id=s.snapshot.id,
            ref=s.ref,
            source=self.flash.tier.name,
            destination=book.tier.name,
            reason=why,
            copies_bytes=size,
        )

    def _release(self, s: SnapshotView, why: str) -> None:
        size, entries = s.snapshot.size_bytes, s.snapshot.entries
        before = self.steps.get(s.ref)
        copied = cold_tier(s, self.view)
        if copied is not None:
            destination, copies = copied, 0
        elif before is not None:  # planned as a premigration a moment ago: release it as well
            destination, copies = before.destination, before.copies_bytes
        else:
            book = self._destination(s)
            if book is None:
                return
            book.come(size, entries)
            destination, copies = book.tier.name, size
        self.flash.go(occupies(s), entries)
        self.steps[s.ref] = Step(
            action=Action.RELEASE,
            snapshot_id=s.snapshot.id,
            ref=s.ref,
            source=self.flash.tier.name,
            destination=destination,
            reason=why,
            frees_bytes=occupies(s),
            copies_bytes=copies,
        )

    def _destination(self, s: SnapshotView) -> Ledger | None:
        """The tier for a cold copy; None (with the reason noted) when there is none."""
        book, why = destination(s, self.view, self.books)
        if book is None:
            self.kept[s.ref] = why
        return book


def cold_tier(s: SnapshotView, view: View) -> TierName | None:
    """The fastest online tier below flash with a verified copy."""
    for tier in sorted(view.tiers, key=lambda t: t.rank):
        usage = view.usage.get(tier.name)
        if tier.rank > 0 and s.on(tier.name) is not None and usage is not None and usage.is_online:
            return tier.name
    return None


def destination(s: SnapshotView, view: View, books: dict[TierName, Ledger]) -> tuple[Ledger | None, str]:
    """Where a cold copy of it goes: its home when that is a colder tier, else the next colder tier with room."""
    flash = view.flash_tier.name
    if s.dataset.home != flash:
        home = books[s.dataset.home]
        return (home, "") if home.is_online else (None, f"its home {home.tier.name} is offline")
    whys = []
    for tier in sorted(view.tiers, key=lambda t: t.rank):
        if tier.name == flash:
            continue
        book = books[tier.name]
        if not book.is_online:
            whys.append(f"{tier.name} is offline")
        elif book.fits(s.snapshot.size_bytes, s.snapshot.entries):
            return book, ""
        else:
            whys.append(
                f"{format_size(s.snapshot.size_bytes)} do not fit on {tier.name} below {format_percent(tier.high)}"
            )
    return None, "; ".join(whys) or "there is no colder tier"
