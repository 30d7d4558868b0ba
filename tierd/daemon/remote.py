"""Whether an S3 tier can be reached: asked now and then by a thread of its own, so that nobody waits for a network."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from tierd.catalog import Catalog
from tierd.errors import TierdError
from tierd.model.tier import Tier, TierUsage

if TYPE_CHECKING:
    from tierd.storage.s3.bucket import Bucket

log = logging.getLogger(__name__)

_INTERVAL_S = 30.0
_PATIENCE_S = 5.0
"""A probe is no transfer: a store that does not answer at once is off line for now."""
UNLIMITED = 1 << 60
"""Free bytes of a store without a configured capacity."""


class Remote:
    """Keeps an eye on one S3 tier.

    Args:
        on_change: called when the store came back or went away.
        interval_s: between two questions.
    """

    def __init__(
        self,
        tier: Tier,
        catalog: Catalog,
        clock: Callable[[], datetime],
        on_change: Callable[[], None],
        interval_s: float = _INTERVAL_S,
    ) -> None:
        assert tier.s3 is not None
        self._tier = tier
        self._catalog, self._clock, self._on_change = catalog, clock, on_change
        self._interval_s = interval_s
        patient = min(_PATIENCE_S, tier.s3.retry_for_s)
        self._settings = replace(tier.s3, retry_for_s=patient, timeout_s=min(_PATIENCE_S, tier.s3.timeout_s))
        self._bucket: Bucket | None = None
        self._stop = threading.Event()
        self._reason: str | None = "not asked yet"
        self._thread: threading.Thread | None = None

    def look(self, known_bytes: int) -> TierUsage:
        """How the tier is, as last asked; the first call asks by itself."""
        if self._thread is None:
            self._ask()
            self._thread = threading.Thread(target=self._loop, name=f"remote-{self._tier.name}", daemon=True)
            self._thread.start()
        if self._reason is not None:
            return TierUsage(tier=self._tier.name, is_online=False, offline_reason=self._reason)
        capacity = self._tier.capacity_bytes or 0
        free = max(0, capacity - known_bytes) if capacity else UNLIMITED
        return TierUsage(
            tier=self._tier.name, is_online=True, capacity_bytes=capacity, used_bytes=known_bytes, free_bytes=free
        )

    def stop(self) -> None:
        self._stop.set()

    def _loop(self) -> None:
        while not self._stop.wait(self._interval_s):
            before = self._reason
            self._ask()
            if before != self._reason:
                self._on_change()

    def _ask(self) -> None:
        # Here, so that a daemon without such a tier does not load their libraries.
        from tierd.storage.s3.bucket import Bucket
        from tierd.storage.s3.identity import establish_identity

        try:
            if self._bucket is None:
                self._bucket = Bucket(self._settings)
            known = self._catalog.tier_identity(self._tier.name)
            identity = establish_identity(self._bucket, self._tier.name, known=known, now=self._clock())
            if known is None:
                self._catalog.set_tier_identity(self._tier.name, identity)
            self._reason = None
        except TierdError as error:
            self._reason = error.message
            self._bucket = None  # made anew: with the credentials that somebody may have corrected by then
