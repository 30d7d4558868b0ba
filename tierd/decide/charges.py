"""What a store charges for: keeping a copy at least so long, and making an archived one readable."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from tierd.decide.wording import ago
from tierd.model.placement import Placement
from tierd.model.plan import Restore
from tierd.model.tier import Tier
from tierd.model.units import format_duration

_GIB = 1 << 30
_MONTH = timedelta(days=30)


def restore(tier: Tier, copy: Placement) -> Restore | None:
    """What it takes to make this copy readable; None where it can be read as it is."""
    s3 = tier.s3
    if s3 is None or not s3.is_archive:
        return None
    prices = s3.prices
    cost = None
    if prices.retrieval is not None:
        objects = math.ceil(copy.size_bytes / s3.pack_bytes)
        per_gib = prices.retrieval + (prices.egress or 0.0)
        per_object = ((prices.put or 0.0) + (prices.get or 0.0)) / 1000
        cost = copy.size_bytes / _GIB * per_gib + objects * per_object
    return Restore(
        tier=tier.name,
        storage_class=s3.storage_class,
        retrieval=s3.restore_tier,
        takes=s3.restore_takes,
        cost=cost,
        currency=prices.currency,
    )


def recall_money(tier: Tier, size_bytes: int, files: int) -> float | None:
    """What a store charges for reading a copy once; None where it has no prices, 0 where it charges nothing."""
    s3 = tier.s3
    if s3 is None:
        return 0.0
    prices = s3.prices
    if prices.get is None or prices.egress is None:
        return None
    # Files share packs; how many are larger than may share one is not known here: at least by their bytes.
    objects = min(files, math.ceil(size_bytes / s3.pack_bytes)) or 1
    requests = max(objects, math.ceil(size_bytes / s3.part_bytes))
    retrieval = 0.0 if s3.is_archive else prices.retrieval or 0.0  # of an archive the restore charges it
    return size_bytes / _GIB * (prices.egress + retrieval) + requests * prices.get / 1000


def restore_in_words(asked: Restore) -> str:
    """`its copy on cloud is archived as GLACIER: restoring it (Standard) takes about 5h and costs about 1.20 USD`."""
    what = f"its copy on {asked.tier} is archived as {asked.storage_class}"
    takes = f"restoring it ({asked.retrieval}) takes about {format_duration(asked.takes)}"
    if asked.cost is None:
        return f"{what}: {takes}; cost unknown: no retrieval price is configured for tier {asked.tier}"
    return f"{what}: {takes} and costs about {money(asked.cost, asked.currency)}"


def money(amount: float, currency: str) -> str:
    """`12.40 USD`; what is less than a cent is said so."""
    return f"less than 0.01 {currency}" if 0 < amount < 0.01 else f"{amount:,.2f} {currency}"


def minimum_left(tier: Tier, copy: Placement, now: datetime) -> timedelta:
    """How much longer the copy is charged for even if it is deleted now; zero where no minimum is configured."""
    minimum = None if tier.s3 is None else tier.s3.prices.minimum
    if minimum is None or copy.verified_at is None:
        return timedelta(0)
    return max(timedelta(0), copy.verified_at + minimum - now)


def kept_in_words(tier: Tier, copy: Placement, now: datetime) -> str | None:
    """How long a store has kept a copy, as what, and how much longer it charges for it; None for other tiers."""
    if tier.s3 is None or copy.verified_at is None:
        return None
    text = f"on {tier.name} as {tier.s3.storage_class}, verified {ago(copy.verified_at, now)}"
    minimum = tier.s3.prices.minimum
    if minimum is None:
        return text
    left = minimum_left(tier, copy, now)
    if not left:
        return f"{text}; its minimum of {format_duration(minimum)} is over"
    return f"{text}; {early_in_words(tier, copy, now)}"


def early_in_words(tier: Tier, copy: Placement, now: datetime) -> str:
    """`its minimum of 90d is charged for another 78d (about 1.20 USD)`; nothing when the minimum is over."""
    left = minimum_left(tier, copy, now)
    if not left or tier.s3 is None:
        return ""
    prices = tier.s3.prices
    charge = ""
    if prices.storage is not None:
        amount = copy.size_bytes / _GIB * prices.storage * (left / _MONTH)
        charge = f" (about {money(amount, prices.currency)})"
    return f"its minimum of {format_duration(prices.minimum)} is charged for another {format_duration(left)}{charge}"
