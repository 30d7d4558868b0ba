"""A snapshot's value spelled out: each term with its words, and where it stands in the order of release."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from tierd.decide.charges import money
from tierd.decide.policies import Standing, use_rate
from tierd.decide.scene import Case
from tierd.decide.value import Price, next_use
from tierd.decide.wording import ago, at, counted
from tierd.model.dataset import WEIGHT_DECAY
from tierd.model.plan import Term, Worth
from tierd.model.units import format_duration, format_rate, format_size
from tierd.model.value import PolicyName

_DAY_S = 86_400.0
_GIB = 1 << 30
_USES = frozenset({PolicyName.LFU_DA, PolicyName.GDSF, PolicyName.S3_FIFO})


def worth(case: Case) -> Worth:
    """What a snapshot is worth, and why."""
    valuer = case.scene.valuer
    price = valuer.price(case.s, case.cold)
    standing = valuer.standing(case.s, price.seconds, case.now)
    policy = valuer.judgement.policy
    terms = _ewr_terms(case, standing, price) if policy is PolicyName.EWR else _terms(case, standing, policy)
    rank, of = _rank(case)
    return Worth(policy=policy, value=case.value, terms=tuple(terms), rank=rank, of=of)


def _ewr_terms(case: Case, standing: Standing, price: Price) -> Iterator[Term]:
    snapshot = case.s.snapshot
    per_day = use_rate(standing) * _DAY_S
    uses = f"{snapshot.episodes} {'use' if snapshot.episodes == 1 else 'uses'} known"
    yield Term(
        name="uses per day",
        amount=per_day,
        detail=f"{_announced(case, standing)}{uses}, first seen {ago(snapshot.first_seen_at, case.now)}; "
        f"a use counts 1/e after {format_duration(WEIGHT_DECAY)}",
    )
    yield Term(name="seconds to bring it back", amount=price.seconds, detail=_price(case, price))
    yield Term(
        name="seconds saved per GiB and day",
        amount=case.value * _GIB * _DAY_S,
        detail=f"{per_day:.3g} uses a day × {format_duration(price.seconds)} / {format_size(standing.size_bytes)}",
    )


def _announced(case: Case, standing: Standing) -> str:
    use = next_use(case.s.announcements, case.now)
    if use is None or standing.announced_in_s is None:
        return ""
    when = "is going on" if use.at <= case.now else f"is announced for {at(use.at, case.now)}"
    sure = "" if use.confidence >= 1 else f" ({use.confidence:.0%} sure)"
    return f"a use {when} by {use.holder}{sure}; "


def _price(case: Case, price: Price) -> str:
    snapshot = case.s.snapshot
    if price.source is None:
        return "there is no colder tier; assumed a hard disk"
    measured = f"measured, {counted(price.samples, 'transfer')}"
    known = measured if price.samples else "assumed, nothing was measured yet"
    rate = f", {format_rate(snapshot.size_bytes / price.copy_s)}" if snapshot.size_bytes else ""
    text = f"{format_duration(price.copy_s)} from {price.source} ({known}{rate})"
    if price.restore_s:
        text += f", {format_duration(price.restore_s)} until the archived copy can be read"
    if price.money_s and price.money is not None:
        text += (
            f", {money(price.money, price.currency)} charged, as much as {format_duration(price.money_s)} of waiting"
        )
    elif price.money:
        text += f"; {money(price.money, price.currency)} charged, not weighed"
    return text


def _terms(case: Case, standing: Standing, policy: PolicyName) -> Iterator[Term]:
    """What the simpler policies look at."""
    if policy in (PolicyName.LRU, PolicyName.STP):
        yield Term(
            name="days unused", amount=standing.idle_s / _DAY_S, detail=f"used {ago(case.accessed_at, case.now)}"
        )
    if policy in (PolicyName.TTL, PolicyName.S3_FIFO):
        since = format_duration(timedelta(seconds=standing.resident_s))
        yield Term(name="days on flash", amount=standing.resident_s / _DAY_S, detail=f"there for {since}")
    if policy in _USES:
        yield Term(name="uses", amount=standing.uses, detail="known uses, each counted once")
    if policy in (PolicyName.LFU_DA, PolicyName.GDSF):
        yield Term(name="floor", amount=standing.floor, detail="what had left last when it was last used")
    if policy in (PolicyName.GDSF, PolicyName.STP):
        yield Term(name="GiB", amount=standing.size_bytes / _GIB, detail=format_size(standing.size_bytes))


def _rank(case: Case) -> tuple[int | None, int]:
    """Its place among what is on flash, 1 leaves first; None where it is not there."""
    scene = case.scene
    there = [other for s in scene.view.snapshots if (other := scene.case(s)).flash is not None]
    if case.flash is None:
        return None, len(there)
    key = case.coldness
    return 1 + sum(other.coldness < key for other in there), len(there)
