"""S3 tiers: where the bucket is, how objects are stored, what was asked of it, and what that costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path

_FREE = frozenset({"delete", "abort"})
_LIKE_GET = frozenset({"get", "head"})
_GIB = 1 << 30

_RESTORE_TAKES = {
    ("GLACIER", "Expedited"): timedelta(minutes=5),
    ("GLACIER", "Standard"): timedelta(hours=5),
    ("GLACIER", "Bulk"): timedelta(hours=12),
    ("DEEP_ARCHIVE", "Standard"): timedelta(hours=12),
    ("DEEP_ARCHIVE", "Bulk"): timedelta(hours=48),
}
_LONGEST_RESTORE = timedelta(hours=48)
"""For a combination that is not known: better too long than a job that waits in vain."""

ARCHIVE_CLASSES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes whose objects must be restored, for money and hours, before they can be read."""


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Money per operation, in `currency`; None where it is not configured: no price is built in.

    Attributes:
        put, get: per 1,000 requests.
        retrieval, egress: per GiB read from the class, and sent out of the store.
        storage: per GiB and month (30 days).
        minimum: an object deleted earlier is charged for this long.
    """

    currency: str = "USD"
    put: float | None = None
    get: float | None = None
    retrieval: float | None = None
    egress: float | None = None
    storage: float | None = None
    minimum: timedelta | None = None


@dataclass(frozen=True, kw_only=True)
class S3Settings:
    """One S3 tier's own settings.

    Attributes:
        state: local directory for journals of uploads and cached manifests; can be lost without losing a copy.
        prefix: of every key, without a slash at either end; may be empty.
        endpoint: URL of the service; None is AWS.
        addressing: "auto", "path" or "virtual".
        ca_bundle: PEM file that is trusted instead of the system's.
        proxy: URL of an HTTP proxy.
        profile: of the AWS configuration; credentials: an AWS credentials file that is used alone. Where neither is
            set, the usual chain (environment, ~/.aws, container, instance).
        encryption: None (the bucket's default), "AES256" or "aws:kms"; kms_key: its id, None for the account's own.
        storage_class: of packs and large files; manifests are always STANDARD.
        restore_tier: "Standard", "Bulk" or "Expedited"; restore_for: how long restored objects stay readable.
        tags: put on every object.
        verify: "store" believes the checksums that the store computed; "read" reads everything back.
        checksum: "auto", "crc64nvme" or "md5" (stores that know no other).
        pack_bytes: a pack is closed when it has this many; files of more than `pack_up_to` bytes are objects of
            their own; part_bytes: of multipart uploads (grows for very large files) and of ranged reads.
        connections: requests at the same time, at most; the number in use adapts to the store.
        timeout_s: without a byte for this long a request is given up and tried again.
        retry_for_s: a request that keeps failing is tried again for this long.
    """

    bucket: str
    state: Path
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    addressing: str = "auto"
    ca_bundle: Path | None = None
    proxy: str | None = None
    profile: str | None = None
    credentials: Path | None = None
    encryption: str | None = None
    kms_key: str | None = None
    storage_class: str = "STANDARD"
    restore_tier: str = "Standard"
    restore_for: timedelta = timedelta(days=7)
    requester_pays: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    verify: str = "store"
    checksum: str = "auto"
    pack_bytes: int = 64 << 20
    pack_up_to: int = 4 << 20
    part_bytes: int = 16 << 20
    connections: int = 8
    timeout_s: float = 30.0
    retry_for_s: float = 300.0
    prices: Prices = field(default_factory=Prices)

    @property
    def is_archive(self) -> bool:
        """Whether objects must be restored before they can be read."""
        return self.storage_class in ARCHIVE_CLASSES

    @property
    def restore_takes(self) -> timedelta:
        """How long a restore from an archive class usually takes (S3 User Guide, "Archive retrieval options")."""
        return _RESTORE_TAKES.get((self.storage_class, self.restore_tier), _LONGEST_RESTORE)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Of one operation.

    Attributes:
        requests: sent, repetitions included; retries: of these, sent again after a failure.
        errors: operations given up.
        bytes_up, bytes_down: of bodies.
    """

    requests: int = 0
    retries: int = 0
    errors: int = 0
    bytes_up: int = 0
    bytes_down: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


def total(several: Iterable[Mapping[str, Counts]]) -> dict[str, Counts]:
    """The counts of several meters together."""
    found: dict[str, Counts] = {}
    for counts in several:
        for operation, count in counts.items():
            found[operation] = found.get(operation, Counts()) + count
    return found


def money(counts: Mapping[str, Counts], prices: Prices) -> float | None:
    """About what the requests and the bytes read cost, in `prices.currency`; None where a price is missing."""
    puts = sum(c.requests for name, c in counts.items() if name not in _FREE | _LIKE_GET)
    gets = sum(c.requests for name, c in counts.items() if name in _LIKE_GET)
    gib_down = sum(c.bytes_down for c in counts.values()) / _GIB
    charges = [(puts / 1000, prices.put), (gets / 1000, prices.get)]
    charges += [(gib_down, prices.egress), (gib_down, prices.retrieval)]
    cost = 0.0
    for amount, price in charges:
        if amount and price is None:
            return None
        cost += amount * (price or 0.0)
    return cost
