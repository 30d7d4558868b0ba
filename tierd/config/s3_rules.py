"""Checks between the values of S3 tiers that need nothing but the text."""

from __future__ import annotations

from itertools import combinations
from urllib.parse import urlsplit

from tierd.config.document import Document, Draft
from tierd.config.fault import Faults
from tierd.config.s3_values import is_address
from tierd.model.s3 import ARCHIVE_CLASSES, S3Settings
from tierd.model.units import format_size

_AWS = ("amazonaws.com", "amazonaws.com.cn")
_PORTS = {"http": 80, "https": 443}


def check_s3(document: Document, faults: Faults) -> None:
    """Check each S3 tier, and that no two of them share keys of a bucket."""
    tiers = [tier for tier in document.tiers if tier.is_s3]
    for tier in tiers:
        _check_encryption(tier, faults)
        _check_restore(tier, faults)
        _check_verify(tier, faults)
        _check_packs(tier, faults)
        _check_addressing(tier, faults)
    for one, other in combinations(tiers, 2):
        _check_overlap(one, other, faults)


def _check_encryption(tier: Draft, faults: Faults) -> None:
    if "kms_key" in tier.s3 and tier.s3.get("encryption") != "aws:kms":
        reason = 'is only used with encryption = "aws:kms"'
        faults.add(f"{tier.where}.kms_key", reason, 'Write encryption = "aws:kms", or remove kms_key.')


def _check_restore(tier: Draft, faults: Faults) -> None:
    if tier.s3.get("restore_tier") == "Expedited" and tier.s3.get("storage_class") == "DEEP_ARCHIVE":
        reason = "there is no expedited restore from DEEP_ARCHIVE"
        faults.add(f"{tier.where}.restore_tier", reason, 'Write "Standard" (hours) or "Bulk" (days).')


def _check_verify(tier: Draft, faults: Faults) -> None:
    if tier.s3.get("verify") == "read" and tier.s3.get("storage_class") in ARCHIVE_CLASSES:
        reason = f"what is in {tier.s3['storage_class']} cannot be read back"
        faults.add(f"{tier.where}.verify", reason, 'Write "store": the checksums that the store computed are compared.')


def _check_packs(tier: Draft, faults: Faults) -> None:
    if {"pack_bytes", "pack_up_to"}.isdisjoint(tier.s3):
        return
    pack = tier.s3.get("pack_bytes", S3Settings.pack_bytes)
    largest = tier.s3.get("pack_up_to", S3Settings.pack_up_to)
    if largest <= pack:
        return
    key, missing = ("pack_files_up_to", "pack_bytes") if "pack_up_to" in tier.s3 else ("pack_size", "pack_up_to")
    reason = f"pack_files_up_to ({format_size(largest)}) is more than pack_size ({format_size(pack)})"
    if missing not in tier.s3:
        reason += f"; {'pack_size' if missing == 'pack_bytes' else 'pack_files_up_to'} is not set here"
    instead = f'A pack must have room for any file that goes into one: write pack_files_up_to = "{format_size(pack)}".'
    faults.add(f"{tier.where}.{key}", reason, instead)


def _check_addressing(tier: Draft, faults: Faults) -> None:
    endpoint = tier.s3.get("endpoint")
    if tier.s3.get("addressing") == "virtual" and endpoint is not None and is_address(endpoint):
        reason = f"the bucket cannot be a part of the host's name: {endpoint} is an address"
        faults.add(f"{tier.where}.addressing", reason, 'Write "path" or "auto", or give the endpoint by name.')


def _check_overlap(one: Draft, other: Draft, faults: Faults) -> None:
    bucket = one.s3.get("bucket")
    if bucket is None or bucket != other.s3.get("bucket") or _service(one) != _service(other):
        return
    first, second = (f"{tier.s3.get('prefix', '')}/".removeprefix("/") for tier in (one, other))
    if first.startswith(second) or second.startswith(first):
        relation = "is the same place" if first == second else "lies inside" if second.startswith(first) else "contains"
        reason = f"s3://{bucket}/{second} {relation}{' as' if first == second else ''} that of {one.where}"
        instead = "Give every tier a bucket of its own, or prefixes beside each other."
        faults.add(f"{other.where}.prefix", reason, instead)


def _service(tier: Draft) -> tuple[str, str | None, int | None]:
    """Which service a tier's bucket belongs to, however its URL is written; all of AWS is one."""
    endpoint = tier.s3.get("endpoint")
    if endpoint is None:
        return "https", _AWS[0], None
    url = urlsplit(endpoint)
    host = (url.hostname or "").rstrip(".")
    if any(host == name or host.endswith(f".{name}") for name in _AWS):
        return "https", _AWS[0], None
    return url.scheme, host, url.port or _PORTS[url.scheme]
