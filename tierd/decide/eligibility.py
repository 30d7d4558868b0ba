"""The checks that decide about a snapshot: one list, which the planner asks and `explain` shows.

A check is told apart from its words: the planner asks ten thousand snapshots and needs the words of one check each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from tierd.decide import wording
from tierd.decide.scene import Case, is_leaving
from tierd.decide.wording import ago, at
from tierd.model.dataset import AccessSource
from tierd.model.plan import Finding
from tierd.model.transfer import Transfer, TransferState
from tierd.model.units import format_duration, format_percent


@dataclass(frozen=True, kw_only=True)
class Check:
    """One condition.

    Attributes:
        rule: its name, true when it holds; otherwise: what a snapshot is for which it does not.
        holds: whether it is met.
        detail: how it stands, met or not, in words.
        until: when it changes by itself; None for never.
    """

    rule: str
    otherwise: str
    holds: Callable[[Case], bool]
    detail: Callable[[Case], str]
    until: Callable[[Case], datetime | None] = lambda _: None


def finding(check: Check, case: Case) -> Finding:
    """How a check stands for one snapshot."""
    return Finding(rule=check.rule, holds=check.holds(case), detail=check.detail(case), until=check.until(case))


def first_unmet(checks: Iterable[Check], case: Case) -> Check | None:
    """The first check that is not met."""
    for check in checks:
        if not check.holds(case):
            return check
    return None


# -- where it is -----------------------------------------------------------------------------------------


def _where(case: Case) -> str:
    if case.flash is not None:
        return f"a verified copy is on {case.flash.tier}"
    if case.cold is not None:
        return f"it is on {case.cold.tier}, unused for {unused(case)}; a warm brings it to {case.scene.flash.name}"
    return "no verified copy of it is known on any tier"


def _flash_online(case: Case) -> str:
    flash = case.scene.flash.name
    return f"tier {flash} is online" if case.scene.is_online(flash) else case.scene.offline(flash)


def _problem(case: Case) -> str:
    problem = case.s.snapshot.problem
    return "nothing stands in the way of looking after it" if problem is None else f"it is not looked after: {problem}"


# -- what it waits for -------------------------------------------------------------------------------------


def _transfer(case: Case) -> str:
    live = case.s.live
    return "no transfer of it is under way" if live is None else transfer_in_words(live)


def transfer_in_words(t: Transfer) -> str:
    """`transfer 12, a recall from hdd to flash, is copying (45%)`."""
    what = f"a {t.kind} with release" if is_leaving(t) else f"a {t.kind}"
    done = f" ({format_percent(t.bytes_done / t.bytes_total)})" if t.bytes_done and t.bytes_total else ""
    rest = f", waits: {t.waits_for}" if t.waits_for else ""
    rest += ", paused" if t.is_paused else ""
    rest += ", to be cancelled" if t.cancel_requested else ""
    if t.error is not None and t.state is TransferState.QUEUED:
        rest += f", after attempt {max(1, t.attempt - 1)} failed: {t.error}"
    way = f"from {t.source}" if t.source == t.destination else f"from {t.source} to {t.destination}"
    return f"transfer {t.id}, {what} {way}, is {t.state}{done}{rest}"


def _held(case: Case) -> str:
    holds = case.holds
    if not holds:
        return "no lease or pin holds it"
    # A pin first, then the lease that ends last: that is what one has to wait for.
    longest = sorted(holds, key=lambda h: (h.expires_at is not None, -(h.expires_at or h.since).timestamp(), h.id))
    return f"held by {wording.listed([wording.hold(h, case.now) for h in longest])}"


def _hold_ends(case: Case) -> datetime | None:
    ends = [h.expires_at for h in case.holds]
    known = [end for end in ends if end is not None]
    return max(known) if known and len(known) == len(ends) else None


def _settled(case: Case) -> str:
    changed_at, after = case.s.snapshot.changed_at, format_duration(case.policy.settle_after)
    if case.now >= case.settles_at:
        return f"changed {ago(changed_at, case.now)}; settled after {after} without a change"
    changed = "its newest change lies" if changed_at > case.now else "changed"
    return (
        f"{changed} {ago(changed_at, case.now)}; settled after {after} without a change, "
        f"on {at(case.settles_at, case.now)}"
    )


def _residency(case: Case) -> str:
    warmed_at, ends_at = case.s.snapshot.warmed_at, case.residency_ends_at
    if warmed_at is None or ends_at is None:
        return "it was never warmed"
    least = format_duration(case.policy.min_residency)
    if case.now >= ends_at:
        return f"warmed {ago(warmed_at, case.now)}; it stays at least {least}"
    return f"warmed {ago(warmed_at, case.now)}; it stays at least {least}, until {at(ends_at, case.now)}"


def _backoff(case: Case) -> str:
    failed, retries_at = case.s.last_failure, case.retries_at
    if failed is None or retries_at is None:
        return "no transfer of it failed last"
    what = f"the last {failed.kind} failed: {failed.error or 'for an unknown reason'}"
    if case.now >= retries_at:
        return f"{what}; it may be tried again"
    return f"{what}; it is tried again on {at(retries_at, case.now)}"


# -- how long it is unused ---------------------------------------------------------------------------------


def unused(case: Case) -> str:
    return format_duration(max(case.now - case.accessed_at, timedelta(0)))


def used(case: Case) -> str:
    """`used 3d ago`, or that nothing is known but when it was found."""
    if case.s.snapshot.access_source is AccessSource.DISCOVERY:
        return f"found {ago(case.accessed_at, case.now)}, not seen in use since"
    if case.s.snapshot.access_source is AccessSource.UNOBSERVED:
        return f"not seen in use for {unused(case)} of watched time (some time nobody could watch is left out)"
    return f"used {ago(case.accessed_at, case.now)}"


def _migrate_age(case: Case) -> str:
    after, then = case.policy.migrate_after, case.migrates_at
    if after is None or then is None:
        return f"{used(case)}; its policy migrates it only under pressure"
    when = "" if case.now >= then else f", on {at(then, case.now)}"
    return f"{used(case)}; migrates after {format_duration(after)} unused{when}"


def _phase(case: Case) -> str:
    dataset, policy = case.s.dataset, case.policy
    stands = f"dataset {dataset.name} is in phase {dataset.phase}"
    if policy.keeps_flash:
        return f"{stands}, which keeps it on {case.scene.flash.name}"
    return f"{stands}, which lets it leave {case.scene.flash.name}{' before others' if policy.leaves < 0 else ''}"


def quiet_hours(case: Case) -> str:
    """`quiet hours until 06:00 CET`, or what it waits for."""
    quiet, then = case.scene.view.quiet, case.quiet_at
    if quiet.window is None:
        return "no quiet hours are configured"
    if then is None or then > case.now:
        when = "" if then is None else f", on {at(then, case.now)} ({quiet.window.clock(then)})"
        return f"copied in quiet hours after {format_duration(quiet.after)} unused{when}"
    end = quiet.window.closes_at(case.now)
    return f"quiet hours{'' if end is None else f' until {quiet.window.clock(end)}'}"


def _quiet(case: Case) -> str:
    return f"{used(case)}; {quiet_hours(case)}"


def _release_age(case: Case) -> str:
    after, then = case.policy.release_after, case.releases_at
    if case.policy.keeps_flash:
        return f"{used(case)}; {_phase(case)}"
    if after is None or then is None:
        return f"{used(case)}; its policy releases it only under pressure"
    announced = case.announced_until
    if announced is not None and then == announced:
        return f"{used(case)}; a use is announced that ends about {at(announced, case.now)}, it stays until then"
    when = "" if case.now >= then else f", on {at(then, case.now)}"
    return f"{used(case)}; released after {format_duration(then - case.accessed_at)} unused{when}"


def _cold_copy(case: Case) -> str:
    cold = case.cold
    if cold is None:
        stale = [p.tier for p in case.s.placements if p.tier != case.scene.flash.name]
        rest = f"; what is on {wording.listed(sorted(stale))} is not it" if stale else ""
        return f"no other tier has a verified copy{rest}"
    # A home that never was digested is the original itself.
    since = f"verified {ago(cold.verified_at, case.now)}" if cold.verified_at is not None else "its original"
    return f"{cold.tier} has a copy, {since}"


def _cold_online(case: Case) -> str:
    if case.cold is None:
        return "no cold copy whose tier could be offline"
    if case.scene.is_online(case.cold.tier):
        return f"tier {case.cold.tier} is online"
    return f"its only other copy cannot be reached: {case.scene.offline(case.cold.tier)}"


def _is_past(moment: datetime | None, case: Case) -> bool:
    return moment is not None and case.now >= moment


def _unless_past(moment: datetime | None, case: Case) -> datetime | None:
    return None if moment is None or case.now >= moment else moment


# -- the lists ---------------------------------------------------------------------------------------------

ON_FLASH = Check(rule="on flash", otherwise="not on flash", holds=lambda c: c.flash is not None, detail=_where)
NO_TRANSFER = Check(
    rule="no transfer under way", otherwise="being moved", holds=lambda c: c.s.live is None, detail=_transfer
)
NOT_HELD = Check(
    rule="not held", otherwise="held", holds=lambda c: not c.s.holds or not c.holds, detail=_held, until=_hold_ends
)
NO_PROBLEM = Check(
    rule="no problem", otherwise="with a problem", holds=lambda c: c.s.snapshot.problem is None, detail=_problem
)
COLD_COPY = Check(
    rule="cold copy verified", otherwise="without a cold copy", holds=lambda c: c.cold is not None, detail=_cold_copy
)

SETTLED = Check(
    rule="settled",
    otherwise="not settled",
    holds=lambda c: c.now >= c.settles_at,
    detail=_settled,
    until=lambda c: _unless_past(c.settles_at, c),
)
NO_BACKOFF = Check(
    rule="no back-off",
    otherwise="backing off from a failure",
    holds=lambda c: c.s.last_failure is None or _is_past(c.retries_at, c),
    detail=_backoff,
    until=lambda c: _unless_past(c.retries_at, c),
)

GUARDS: tuple[Check, ...] = (
    NO_TRANSFER,
    ON_FLASH,
    Check(
        rule="flash online",
        otherwise="out of reach",
        holds=lambda c: c.scene.is_online(c.scene.flash.name),
        detail=_flash_online,
    ),
    NO_PROBLEM,
    NOT_HELD,
    SETTLED,
    Check(
        rule="minimum residency over",
        otherwise="in their minimum residency",
        holds=lambda c: c.s.snapshot.warmed_at is None or _is_past(c.residency_ends_at, c),
        detail=_residency,
        until=lambda c: _unless_past(c.residency_ends_at, c),
    ),
    NO_BACKOFF,
    Check(
        rule="cold tier online",
        otherwise="with their copy on an offline tier",
        holds=lambda c: c.cold is None or c.scene.is_online(c.cold.tier),
        detail=_cold_online,
    ),
)
"""What must hold for any step, in the order in which it is told; pressure does not override any of them."""

MAY_LEAVE = Check(
    rule="its phase lets it leave flash",
    otherwise="kept on flash by their phase",
    holds=lambda c: not c.policy.keeps_flash,
    detail=_phase,
)
GUARDS_RELEASE: tuple[Check, ...] = (*GUARDS, MAY_LEAVE)
"""What must hold besides before a snapshot leaves flash; a copy of it may be made all the same."""

GUARDS_BELOW: tuple[Check, ...] = (NO_TRANSFER, NO_PROBLEM, NOT_HELD, SETTLED, NO_BACKOFF)
"""The same for a snapshot that is not on flash, whose copies move between the tiers below it."""

GUARDS_ORPHANED: tuple[Check, ...] = (NO_TRANSFER, NOT_HELD, NO_BACKOFF)
"""The same for one whose owner deleted it."""

UNUSED_FOR_MIGRATE = Check(
    rule="unused long enough to migrate",
    otherwise="in use",
    holds=lambda c: _is_past(c.migrates_at, c),
    detail=_migrate_age,
    until=lambda c: _unless_past(c.migrates_at, c),
)
IN_QUIET_HOURS = Check(
    rule="in quiet hours",
    otherwise="waiting for quiet hours",
    holds=lambda c: c.is_quiet_due,
    detail=_quiet,
    until=lambda c: None if c.quiet_at is None or c.quiet_at == c.now else c.quiet_at,
)
UNUSED_FOR_RELEASE = Check(
    rule="unused long enough to release",
    otherwise="in use",
    holds=lambda c: _is_past(c.releases_at, c),
    detail=_release_age,
    until=lambda c: _unless_past(c.releases_at, c),
)
