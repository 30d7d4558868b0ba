"""Why a snapshot is where it is, what holds it, and what would move it: the planner's own conditions, spelled out."""

from __future__ import annotations

from datetime import datetime

from tierd.decide.eligibility import cold_enough, conditions, has_cold_copy, when
from tierd.decide.planner import destination, plan
from tierd.decide.room import ledgers
from tierd.errors import NotFound
from tierd.model.dataset import SnapshotRef
from tierd.model.placement import Residency
from tierd.model.plan import Explanation, Finding, SnapshotView, Step, View
from tierd.model.units import format_size

_SUMMARIES = {
    Residency.RESIDENT: "only on flash",
    Residency.PREMIGRATED: "on flash, with a verified copy below: releasing it takes seconds",
    Residency.MIGRATED: "on a colder tier only; its path leads there",
    Residency.PARTIAL: "on its way to flash; until it is complete the path leads to the colder copy",
    Residency.GONE: "without a complete copy that tierd knows",
}


def explain(view: View, ref: SnapshotRef, now: datetime) -> Explanation:
    """Explain one snapshot.

    Raises:
        NotFound: there is no such snapshot.
    """
    s = view.find(ref)
    if s is None:
        raise NotFound(f"there is no snapshot {ref}", hint="`tierd ls` lists what there is.")
    residency = view.residency(s)
    made = plan(view, now)
    step = next((step for step in made.steps if step.ref == ref), None)
    findings = [*conditions(s, now), *_rules(s, view, now)]
    return Explanation(
        ref=ref,
        residency=residency,
        summary=f"{ref} ({format_size(s.snapshot.size_bytes)}) is {_SUMMARIES[residency]}.",
        findings=tuple(findings),
        next_step=step,
        next_event=_next_event(s, view, findings, step, made.kept.get(ref, "")),
    )


def _rules(s: SnapshotView, view: View, now: datetime) -> list[Finding]:
    policy = s.dataset.policy
    book, why = destination(s, view, ledgers(view))
    room = f"a copy fits on {book.tier.name}" if book is not None else why
    return [
        cold_enough(s, now, policy.migrate_after, "migrate_after"),
        cold_enough(s, now, policy.release_after, "release_after"),
        has_cold_copy(s, view.flash),
        Finding(rule="room below", holds=book is not None, detail=room),
    ]


def _next_event(s: SnapshotView, view: View, findings: list[Finding], step: Step | None, kept: str) -> str:
    if step is not None:
        return f"now: {step.action} to {step.destination}, because {step.reason}"
    if s.live is not None:
        return f"transfer {s.live.id} ({s.live.kind}) ends"
    if s.on(view.flash_tier.name) is None:
        return "a warm recalls it; nothing else moves it"
    has_copy = next(f for f in findings if f.rule == "cold copy").holds
    age_rule = "release_after" if has_copy else "migrate_after"
    gates = [f for f in findings if not f.holds and f.rule not in ("cold copy", "migrate_after", "release_after")]
    age = next(f for f in findings if f.rule == age_rule)
    if any(f.until is None for f in gates):
        return f"nothing by itself: {kept}"
    times = [f.until for f in (*gates, age) if f.until is not None]
    if not age.holds and age.until is None:
        return f"only when {view.flash_tier.name} passes its high watermark"
    verb = "released" if has_copy else "copied down"
    return f"{verb} from {when(max(times))}, if it stays unused" if times else kept
