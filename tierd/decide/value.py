"""What a snapshot is worth on flash: from what the catalog knows of it to what a policy wants to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from tierd.decide.charges import recall_money, restore
from tierd.decide.policies import SCORES, Standing
from tierd.model.announced import Announcement
from tierd.model.dataset import decayed
from tierd.model.placement import Placement
from tierd.model.plan import SnapshotView
from tierd.model.tier import Tier, TierName
from tierd.model.value import ASSUMED, Cost, Judgement

_NOTHING = timedelta(0)
_HOUR_S = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """What it costs to bring a snapshot back to flash.

    Attributes:
        source: the tier it would come from; None where it has no colder copy and no tier could take one.
        copy_s: seconds to copy it; samples: finished transfers that this is known from, 0: assumed.
        restore_s: seconds until an archived copy can be read.
        money: what the store charges, in `currency`; None where its prices are not configured.
        money_s: the same in seconds of waiting, see `Judgement.stall_hour_price`.
    """

    source: TierName | None
    copy_s: float
    samples: int
    restore_s: float = 0.0
    money: float | None = None
    currency: str = ""
    money_s: float = 0.0

    @property
    def seconds(self) -> float:
        return self.copy_s + self.restore_s + self.money_s


class Valuer:
    """Tells values, of all snapshots by the same policy.

    Args:
        tiers: the cold ones, fastest first.
        costs: measured, by tier.
    """

    def __init__(self, tiers: tuple[Tier, ...], costs: Mapping[TierName, Cost], judgement: Judgement) -> None:
        self._tiers, self._costs, self.judgement = tiers, costs, judgement
        self._by_name = {tier.name: tier for tier in tiers}
        self._is_plain = {t.name: t.s3 is None for t in tiers}
        self._score = SCORES[judgement.policy].value

    def value(self, s: SnapshotView, cold: Placement | None, now: datetime) -> float:
        """The least valuable leaves flash first; in the unit of the policy."""
        return self._score(self.standing(s, self._seconds(s, cold), now))

    def standing(self, s: SnapshotView, cost_s: float, now: datetime) -> Standing:
        """What a policy may know. That it came to be counts as a use: what nobody has read yet is not worthless."""
        snapshot = s.snapshot
        first_seen, weight_at = snapshot.first_seen_at, snapshot.weight_at
        announced = next_use(s.announcements, now) if s.announcements else None
        return Standing(
            size_bytes=max(1, snapshot.size_bytes),
            weight=decayed(snapshot.weight, weight_at, now) + decayed(1.0, first_seen, now),
            idle_s=max(0.0, (now - snapshot.accessed_at).total_seconds()),
            resident_s=max(0.0, (now - (snapshot.warmed_at or first_seen)).total_seconds()),
            uses=snapshot.episodes,
            cost_s=cost_s,
            announced_in_s=None if announced is None else announced.in_s(now),
            confidence=1.0 if announced is None else announced.confidence,
            floor=snapshot.floor,
        )

    def _seconds(self, s: SnapshotView, cold: Placement | None) -> float:
        """The same as `price(…).seconds`; most tiers charge nothing, and this is asked of every snapshot."""
        tier = cold.tier if cold is not None else self._tiers[0].name if self._tiers else None
        if tier is None or self._is_plain.get(tier, True):
            snapshot = s.snapshot
            return (ASSUMED if tier is None else self._costs.get(tier, ASSUMED)).seconds(
                snapshot.size_bytes, snapshot.files
            )
        return self.price(s, cold).seconds

    def price(self, s: SnapshotView, cold: Placement | None) -> Price:
        """What it costs to bring it back; where it has no colder copy, as from the tier that would get one."""
        tier = self._by_name.get(cold.tier) if cold is not None else self._tiers[0] if self._tiers else None
        size_bytes, files = s.snapshot.size_bytes, s.snapshot.files
        if tier is None:
            return Price(source=None, copy_s=ASSUMED.seconds(size_bytes, files), samples=0)
        cost = self._costs.get(tier.name, ASSUMED)
        asked = None if cold is None else restore(tier, cold)
        money = recall_money(tier, size_bytes, files)
        if asked is not None and asked.cost is not None:
            money = (money or 0.0) + asked.cost
        rate = self.judgement.stall_hour_price
        return Price(
            source=tier.name,
            copy_s=cost.seconds(size_bytes, files),
            samples=cost.samples,
            restore_s=0.0 if asked is None else asked.takes.total_seconds(),
            money=money,
            currency=tier.s3.prices.currency if tier.s3 is not None else "",
            money_s=money / rate * _HOUR_S if money is not None and rate else 0.0,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class NextUse:
    """The next announced use."""

    at: datetime
    confidence: float
    holder: str

    def in_s(self, now: datetime) -> float:
        return max(0.0, (self.at - now).total_seconds())


def next_use(announcements: tuple[Announcement, ...], now: datetime) -> NextUse | None:
    """The announced use that says most: the soonest, or a surer one somewhat later."""
    best: NextUse | None = None
    for each in announcements:
        if each.until < now:
            continue
        found = NextUse(at=each.use_at, confidence=each.confidence, holder=each.holder)
        if best is None or _urgency(found, now) > _urgency(best, now):
            best = found
    return best


def _urgency(use: NextUse, now: datetime) -> tuple[float, float]:
    return use.confidence / max(use.in_s(now), _HOUR_S), -use.in_s(now)
