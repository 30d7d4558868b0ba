"""Orphans: snapshots whose owner deleted them. Their copies stay, unless the policy says for how long.

Only what was deleted, is not held and is due loses copies: one after the other, the fastest tier's first, so that the
one that costs least lives longest.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from tierd.decide import charges
from tierd.decide.eligibility import GUARDS_ORPHANED, finding, first_unmet
from tierd.decide.scene import Case, Scene
from tierd.decide.wording import ago, at, listed
from tierd.model.placement import Placement, Residency, own_copies
from tierd.model.plan import Action, Explanation, Finding, SnapshotView, Step
from tierd.model.units import format_duration

PRIORITY_REMOVE = 0
"""Nobody waits for it."""


def kept_until(s: SnapshotView) -> datetime | None:
    """When the copies of an orphan may be removed; None for never, and for what is not deleted."""
    gone_at, keep = s.snapshot.gone_at, s.dataset.policy.keep_deleted
    return None if gone_at is None or keep is None else gone_at + keep


def removal(scene: Scene, s: SnapshotView) -> Step | None:
    """The next copy of an orphan that goes now, if one does."""
    case, due = scene.case(s), kept_until(s)
    if due is None or scene.now < due or first_unmet(GUARDS_ORPHANED, case) is not None:
        return None
    copy = next((copy for copy in _copies(case) if scene.is_online(copy.tier)), None)
    if copy is None:
        return None
    return Step(
        action=Action.REMOVE,
        snapshot_id=s.snapshot.id,
        ref=s.ref,
        source=copy.tier,
        destination=copy.tier,
        reason=_why_removed(case, copy),
        frees_bytes=copy.size_bytes,
        priority=PRIORITY_REMOVE,
    )


def why_kept(scene: Scene, s: SnapshotView) -> str:
    """Why an orphan that loses no copy now keeps them."""
    case, due = scene.case(s), kept_until(s)
    if due is None:
        return f"{_deleted(case)}; what is left of it stays for ever: its policy has no keep_deleted"
    if scene.now < due:
        return f"{_deleted(case)}; what is left of it goes on {at(due, scene.now)}"
    unmet = first_unmet(GUARDS_ORPHANED, case)
    if unmet is not None:
        return f"{_deleted(case)}; {unmet.detail(case)}"
    offline = listed([scene.offline(copy.tier) for copy in _copies(case)])
    return f"{_deleted(case)}; its copies cannot be reached: {offline}"


def explain(scene: Scene, s: SnapshotView) -> Explanation:
    """Explain one orphan."""
    case, step, due = scene.case(s), removal(scene, s), kept_until(s)
    tiers = listed([copy.tier for copy in _copies(case)], most=9)
    why = f"would remove now: {step.reason}" if step is not None else why_kept(scene, s)
    if due is None:
        then = "nothing removes its copies; put the directory back to have it looked after again"
    elif step is not None:
        then = "the copies on its other tiers go after this one" if len(_copies(case)) > 1 else "nothing of it is left"
    else:
        then = f"its copies are removed from {at(max(due, scene.now), scene.now)} on"
    return Explanation(
        ref=s.ref,
        residency=Residency.ORPHANED,
        summary=f"deleted by its owner, with copies left on {tiers}; {why}",
        findings=tuple(_findings(case)),
        next_step=step,
        next_event=then,
    )


def _findings(case: Case) -> Iterator[Finding]:
    for check in GUARDS_ORPHANED:
        yield finding(check, case)
    due, keep = kept_until(case.s), case.policy.keep_deleted
    kept = _deleted(case) if keep is None else f"{_deleted(case)}; kept for {format_duration(keep)}"
    is_over = due is not None and case.now >= due
    yield Finding(rule="kept long enough", holds=is_over, detail=kept, until=None if is_over else due)
    yield from charged(case)


def charged(case: Case) -> Iterator[Finding]:
    """What the stores charge for the copies of a snapshot: whether each could go without paying for time unused."""
    for copy in case.s.placements:
        tier = case.scene.tier(copy.tier)
        words = None if tier is None else charges.kept_in_words(tier, copy, case.now)
        if tier is not None and words is not None:
            left = charges.minimum_left(tier, copy, case.now)
            until = case.now + left if left else None
            yield Finding(rule=f"minimum storage on {tier.name} over", holds=not left, detail=words, until=until)


def _copies(case: Case) -> list[Placement]:
    """What is left of it on configured tiers, the fastest first."""
    ranks = {tier.name: tier.rank for tier in case.scene.view.tiers}
    return sorted((p for p in own_copies(case.s.placements) if p.tier in ranks), key=lambda p: ranks[p.tier])


def _deleted(case: Case) -> str:
    gone_at = case.s.snapshot.gone_at
    return "not deleted" if gone_at is None else f"deleted {ago(gone_at, case.now)}"


def _why_removed(case: Case, copy: Placement) -> str:
    keep, tier = case.policy.keep_deleted, case.scene.tier(copy.tier)
    text = f"{_deleted(case)} and kept for {format_duration(keep)}: the copy on {copy.tier} goes"
    early = "" if tier is None else charges.early_in_words(tier, copy, case.now)
    return f"{text}; {early}" if early else text
