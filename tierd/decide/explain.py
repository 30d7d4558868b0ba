"""Why a snapshot is where it is, what holds it, and what would move it: the planner's own checks, spelled out."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from tierd.decide import chains, orphans
from tierd.decide import room as rooms
from tierd.decide.eligibility import (
    COLD_COPY,
    GUARDS,
    IN_QUIET_HOURS,
    MAY_LEAVE,
    NO_PROBLEM,
    NO_TRANSFER,
    NOT_HELD,
    ON_FLASH,
    UNUSED_FOR_MIGRATE,
    UNUSED_FOR_RELEASE,
    finding,
    used,
)
from tierd.decide.planner import Planner
from tierd.decide.scene import Case, Scene
from tierd.decide.wording import ago, at
from tierd.decide.worth import worth
from tierd.errors import NotFound
from tierd.model.dataset import SnapshotRef
from tierd.model.placement import PlacementState, Residency
from tierd.model.plan import Action, Explanation, Finding, Step, View
from tierd.model.tier import Tier
from tierd.model.transfer import TransferKind
from tierd.model.units import format_percent, format_size

_ANYWHERE = (NO_TRANSFER, ON_FLASH, NO_PROBLEM, NOT_HELD)
"""Guards that say something also about a snapshot that is not on flash."""


def explain(view: View, ref: SnapshotRef, now: datetime) -> Explanation:
    """Explain one snapshot.

    Raises:
        NotFound: there is no such snapshot.
    """
    s = view.find(ref)
    if s is None:
        orphan = view.find_orphan(ref)
        if orphan is not None:
            return orphans.explain(Scene(view, now), orphan)
        raise NotFound(f"there is no snapshot {ref}", hint="`tierd ls` lists what there is.")
    planner = Planner(view, now)
    plan = planner.plan()
    case = planner.scene.case(s)
    step = next((step for step in plan.steps if step.snapshot_id == s.snapshot.id), None)
    residency = view.residency(s)
    why = f"would {step.action} now: {step.reason}" if step is not None else plan.kept[ref]
    return Explanation(
        ref=ref,
        residency=residency,
        summary=f"{_where(case, residency)}; {why}",
        findings=tuple(_findings(case, planner, step)),
        next_step=step,
        next_event=_after(case, step) if step is not None else _next_event(case),
        worth=worth(case),
    )


def _where(case: Case, residency: Residency) -> str:
    flash, cold = case.scene.flash.name, case.cold.tier if case.cold is not None else ""
    match residency:
        case Residency.RESIDENT:
            return f"only on {flash}"
        case Residency.PREMIGRATED:
            return f"on {flash}, with a verified copy on {cold}"
        case Residency.MIGRATED:
            return f"only on {cold}"
        case Residency.PARTIAL:
            return f"on {cold}, on its way to {flash}"
        case Residency.ORPHANED | Residency.GONE:
            return "without a complete copy that tierd knows"


# -- findings --------------------------------------------------------------------------------------------


def _findings(case: Case, planner: Planner, step: Step | None) -> Iterator[Finding]:
    for check in GUARDS:
        if case.flash is not None or check in _ANYWHERE:
            yield finding(check, case)
    if case.flash is not None:
        yield finding(MAY_LEAVE, case)
        yield finding(UNUSED_FOR_MIGRATE, case)
        if case.cold is None and case.scene.view.quiet.window is not None:
            yield finding(IN_QUIET_HOURS, case)
        yield finding(UNUSED_FOR_RELEASE, case)
    yield finding(COLD_COPY, case)
    if case.flash is not None:
        if case.cold is None:
            yield _destination(case, planner, step)
        yield _pressure(case)
    yield from _chain(case)
    yield from _copies(case)
    yield from orphans.charged(case)


def _copies(case: Case) -> Iterator[Finding]:
    """Every copy, the fastest tier first, and how long ago it was proven."""
    for tier in (case.scene.flash, *case.scene.cold):
        copy = next((p for p in case.s.placements if p.tier == tier.name), None)
        if copy is None:
            continue
        is_sound = copy.state is PlacementState.VERIFIED
        proof = "the original" if copy.verified_at is None else f"verified {ago(copy.verified_at, case.now)}"
        detail = f"{format_size(copy.size_bytes)}, {proof if is_sound else copy.state}"
        yield Finding(rule=f"copy on {tier.name} is good", holds=is_sound, detail=detail)


def _chain(case: Case) -> Iterator[Finding]:
    """What age does on the tiers below flash, and whether those are too full."""
    for due in chains.dues(case):
        is_due = case.now >= due.at
        aim = f"release from {due.tier}" if due.is_release else f"migrate to {due.tier}"
        detail = f"{used(case)}; {chains.due_in_words(due, case)}"
        until = None if is_due else due.at
        yield Finding(rule=f"unused long enough to {aim}", holds=is_due, detail=detail, until=until)
    tier = chains.path_tier(case)
    if tier is not None and tier in case.scene.between and rooms.excess(case.scene, tier).is_lacking:
        yield _pressure(case, tier)


def _destination(case: Case, planner: Planner, step: Step | None) -> Finding:
    """Room below, as the plan leaves it: what is planned for others before is taken."""
    found = step.destination if step is not None else planner.room.destination(case)
    detail = f"there is {planner.room.shortage(case)}" if found is None else f"a copy fits on {found}"
    return Finding(rule="room for a cold copy", holds=found is not None, detail=detail)


def _pressure(case: Case, on: Tier | None = None) -> Finding:
    tier = on or case.scene.flash
    is_over = rooms.excess(case.scene, tier).is_lacking
    full = rooms.fullness(case.scene, tier.name)
    below = "above" if is_over else "not above"
    detail = f"{full}, {below} its high watermark of {format_percent(tier.high)}"
    what = "flash" if on is None else tier.name
    return Finding(rule=f"{what} below its high watermark", holds=not is_over, detail=detail)


# -- what comes next -----------------------------------------------------------------------------------------


def _after(case: Case, step: Step) -> str:
    """What comes after the step that is planned."""
    flash = case.scene.flash.name
    if step.action is Action.RELEASE:
        return f"a warm brings it back to {flash}"
    if step.source != flash:
        return f"it stays on {step.source} until age or pressure releases it from there"
    after = case.policy.release_after
    if not MAY_LEAVE.holds(case):
        return f"it stays on {step.source}: {MAY_LEAVE.detail(case)}"
    if after is None:
        return f"released when {step.source} rises above its high watermark"
    return f"released on {at(max(case.now, case.accessed_at + after), case.now)} if nobody uses it before"


def _next_event(case: Case) -> str:
    """The earliest thing that would move it, with its time."""
    live, flash = case.s.live, case.scene.flash
    if live is not None:
        what = "it is back on" if live.kind is TransferKind.RECALL else "it is copied to"
        what = "it is released to" if live.release else what
        return f"when transfer {live.id} ends {what} {live.destination}"
    if case.flash is None:
        first = min(chains.dues(case), key=lambda due: due.at, default=None)
        if first is None or first.at <= case.now:
            return f"a warm brings it to {flash.name}; nothing else moves it"
        moment = at(first.at, case.now)
        return f"{first.what} on {moment} if nobody uses it before; a warm brings it to {flash.name}"
    endless = [check for check in GUARDS if not check.holds(case) and check.until(case) is None]
    if endless:
        return f"nothing moves it as long as this stands: {endless[0].detail(case)}"
    age = case.releases_at if case.cold is not None else _copied_at(case)
    if not MAY_LEAVE.holds(case) and age is None:
        return f"nothing releases it as long as this stands: {MAY_LEAVE.detail(case)}"
    guarded = max((t for t in (check.until(case) for check in GUARDS) if t is not None), default=case.now)
    pressure = f"{flash.name} rises above its high watermark of {format_percent(flash.high)}"
    verb = "released" if case.cold is not None else "copied to a colder tier"
    after = f" after {at(guarded, case.now)}" if guarded > case.now else ""
    sooner = f"; earlier when {pressure}{after}" if MAY_LEAVE.holds(case) else ""
    if age is None:
        return f"released when {pressure}{after}"
    if age <= case.now and guarded <= case.now:
        return f"{verb} as soon as a colder tier has room for it"
    return f"{verb} on {at(max(age, guarded), case.now)} if nobody uses it before{sooner}"


def _copied_at(case: Case) -> datetime | None:
    """When its age or quiet hours have its first cold copy made; None: never."""
    return min((then for then in (case.migrates_at, case.quiet_at) if then is not None), default=None)
