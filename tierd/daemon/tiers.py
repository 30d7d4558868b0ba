"""The tiers as the daemon sees them: identity, on line or not, how full. Looked at by one thread, read by all."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import datetime

from tierd.catalog import Catalog
from tierd.daemon.remote import Remote
from tierd.errors import Interrupted, TierdError, TierOffline
from tierd.model.dataset import Snapshot
from tierd.model.part import Part, PartSize
from tierd.model.placement import Placement
from tierd.model.tier import Tier, TierKind, TierName, TierUsage
from tierd.observe.usage import usage as measure_usage
from tierd.storage.base import Site, Storage, Tree
from tierd.storage.control import Control
from tierd.storage.patterns import wanted_in_tree, wanted_size
from tierd.storage.posix.identity import establish_identity
from tierd.storage.posix.partstore import PartStore
from tierd.storage.posix.store import PosixStorage

log = logging.getLogger(__name__)


class Tiers:
    """Keeps the usage of every tier fresh.

    Args:
        known_bytes: bytes of the copies that the catalog has on a tier (for tiers with a capacity override).
        on_change: called, from any thread, when a look is worth while at once.
    """

    def __init__(
        self,
        tiers: tuple[Tier, ...],
        catalog: Catalog,
        clock: Callable[[], datetime],
        known_bytes: Callable[[TierName], int],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._tiers = tiers
        self._catalog = catalog
        self._clock = clock
        self._known_bytes = known_bytes
        self._lock = threading.Lock()
        self._usage: dict[TierName, TierUsage] = {}
        self._remotes = {t.name: Remote(t, catalog, clock, on_change) for t in tiers if t.kind is TierKind.S3}

    def look(self) -> bool:
        """Look at every tier now; a change of on line or off line becomes an event.

        Returns:
            Whether a tier is on line that was not before.
        """
        is_back = False
        for tier in self._tiers:
            fresh = self._look_at(tier)
            with self._lock:
                before = self._usage.get(tier.name)
                self._usage[tier.name] = fresh
            if before is None or before.is_online != fresh.is_online:
                self._announce(fresh, is_first=before is None)
                is_back = is_back or (before is not None and fresh.is_online)
        return is_back

    def stop(self) -> None:
        """Look no more."""
        for remote in self._remotes.values():
            remote.stop()

    def _look_at(self, tier: Tier) -> TierUsage:
        try:
            if tier.name in self._remotes:
                return self._remotes[tier.name].look(self._known_bytes(tier.name))
            known = self._catalog.tier_identity(tier.name)
            identity = establish_identity(tier.root, tier.name, known=known, now=self._clock())
            if known is None:
                self._catalog.set_tier_identity(tier.name, identity)
            PosixStorage(tier.root, identity).attach()
            return measure_usage(tier, known_bytes=self._known_bytes(tier.name) if tier.capacity_bytes else 0)
        except TierOffline as error:
            return TierUsage(tier=tier.name, is_online=False, offline_reason=error.message)
        except TierdError as error:
            return TierUsage(tier=tier.name, is_online=False, offline_reason=f"cannot be used: {error.message}")

    def _announce(self, usage: TierUsage, *, is_first: bool) -> None:
        if usage.is_online and is_first:
            return
        kind = "tier.online" if usage.is_online else "tier.offline"
        message = f"tier {usage.tier} is back" if usage.is_online else f"tier {usage.tier}: {usage.offline_reason}"
        self._catalog.add_event(kind, now=self._clock(), message=message, detail={"tier": usage.tier})

    def usage(self) -> Mapping[TierName, TierUsage]:
        """As last looked at; instant."""
        with self._lock:
            return dict(self._usage)

    def is_online(self, name: TierName) -> bool:
        with self._lock:
            usage = self._usage.get(name)
        return usage is not None and usage.is_online

    def measure(self, snapshot: Snapshot, placement: Placement, only: tuple[str, ...]) -> PartSize:
        """How much the chosen files of a cold copy come to.

        Raises:
            NotFound: none matches.
            TierdError: the copy cannot be read.
        """
        tier = next(t for t in self._tiers if t.name == placement.tier)
        site = Site(
            snapshot_key=snapshot.key,
            dataset=snapshot.ref.dataset,
            name=snapshot.ref.name,
            location=placement.location,
            home_path=None if placement.location is not None else bytes(snapshot.path),
        )
        storage = _open(tier, self._catalog.tier_identity(tier.name) or "")
        manifest = storage.manifest(site)
        if manifest is not None:
            with manifest:
                return wanted_size(manifest, only)
        with storage.reading(site) as source:  # at home, and never copied
            assert isinstance(source, Tree)
            return wanted_in_tree(source.fd, only)

    def is_untouched(self, part: Part) -> bool:
        """Whether a part is there, and as it was made.

        Raises:
            TierdError: it cannot be looked at.
        """
        tier = next(t for t in self._tiers if t.name == part.tier)
        return PartStore(tier.root).is_untouched(part.location, part.key)

    def sweep(self, live_keys: Callable[[], set[str]], control: Control) -> None:
        """Remove what transfers left behind that are not live any more; deleting may take long."""
        for tier in self._tiers:
            identity = self._catalog.tier_identity(tier.name)
            if identity is None or not self.is_online(tier.name):
                continue
            try:
                storage = _open(tier, identity)
                for name in storage.sweep(live_keys, control):
                    log.info("tier %s: removed leftover %s", tier.name, name)
                for path in storage.kept:
                    log.warning("tier %s: somebody had written to a part: it was kept at %s", tier.name, path)
            except Interrupted:
                raise
            except TierdError as error:
                log.warning("tier %s could not be swept: %s", tier.name, error)


def _open(tier: Tier, identity: str) -> Storage:
    if tier.s3 is None:
        return PosixStorage(tier.root, identity)
    from tierd.storage.s3.store import S3Storage  # its libraries take a while to load

    return S3Storage(tier.s3, identity)
