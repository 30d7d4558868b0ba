"""Checks between values that need nothing but the text: ranks, watermarks, retries, who may call."""

from __future__ import annotations

from tierd.config.document import Document, Draft, Values
from tierd.config.fault import Faults
from tierd.config.settings import ApiConfig, MoverConfig
from tierd.model.tier import Tier
from tierd.model.units import format_duration


def check_rules(document: Document, faults: Faults) -> None:
    """Check what values say together."""
    _check_ranks(document.tiers, faults)
    for tier in document.tiers:
        _check_watermarks(tier, faults)
    _check_api(document.sections["api"], faults)
    mover = document.sections["mover"]
    first = mover.get("backoff_s", MoverConfig.backoff_s)
    longest = mover.get("backoff_max_s", MoverConfig.backoff_max_s)
    if first > longest:
        reason = f"{format_duration(longest)} is less than mover.backoff ({format_duration(first)})"
        faults.add("mover.backoff_max", reason, f'Write "{format_duration(first)}" or more.')


def _check_ranks(tiers: list[Draft], faults: Faults) -> None:
    first_of: dict[int, Draft] = {}
    for tier in tiers:
        rank = tier.values.get("rank")
        if rank is None:
            continue
        if rank == 0 and tier.is_s3:
            reason = "0 is flash, which jobs read as files: an S3 tier cannot be that"
            faults.add(f"{tier.where}.rank", reason, "Give it a larger rank than the flash and the HDD have.")
            continue
        if rank in first_of:
            reason = f"{rank} is the rank of {first_of[rank].where} too"
            faults.add(
                f"{tier.where}.rank", reason, "Give every tier a rank of its own; exactly one, the flash, has 0."
            )
        first_of.setdefault(rank, tier)
    # A rank that could not be read may have been meant as 0.
    if tiers and all(tier.values.get("rank", 0) != 0 for tier in tiers):
        faults.add("tiers", "no tier has rank 0", "Give the flash tier `rank = 0`.")


def _check_watermarks(tier: Draft, faults: Faults) -> None:
    high, low = tier.values.get("high", Tier.high), tier.values.get("low", Tier.low)
    if low < high:
        return
    key = "low" if "low" in tier.values else "high"
    reason = f"low ({low:.6g}) is not below high ({high:.6g})"
    instead = 'Release begins above high and ends at low: leave a gap, like low = "80%" and high = "90%".'
    faults.add(f"{tier.where}.{key}", reason, instead)


def _check_api(api: Values, faults: Faults) -> None:
    socket, listen = api.get("socket", ApiConfig.socket), api.get("listen")
    if listen and not api["tokens"]:
        instead = 'Add an [api.tokens] table with "SHA-256 of a token" = "read", "warm" or "admin"; or write "off".'
        faults.add("api.listen", "is open to everyone who reaches it, as there are no tokens", instead)
    if socket is None and not listen:
        faults.add("api.socket", "is off and nothing listens on TCP either", "Give it a path, or set api.listen.")
