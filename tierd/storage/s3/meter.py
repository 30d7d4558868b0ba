"""What was asked of a store: requests, repetitions, failures and bytes by operation, and what they cost."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

from tierd.model.s3 import Prices

_FREE = frozenset({"delete", "abort"})
_LIKE_GET = frozenset({"get", "head"})
_GIB = 1 << 30


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


class Meter:
    """Counts by operation: put, begin, part, complete, abort, parts, uploads, get, head, list, delete, restore."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, Counts] = {}

    def add(
        self,
        operation: str,
        *,
        requests: int = 0,
        retries: int = 0,
        errors: int = 0,
        bytes_up: int = 0,
        bytes_down: int = 0,
    ) -> None:
        more = Counts(requests=requests, retries=retries, errors=errors, bytes_up=bytes_up, bytes_down=bytes_down)
        with self._lock:
            self._counts[operation] = self._counts.get(operation, Counts()) + more

    def snapshot(self) -> dict[str, Counts]:
        """The counts up to now."""
        with self._lock:
            return dict(self._counts)


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
