"""The seam between moving and storing: what every storage driver offers for one tier.

Contract, for every driver:

- A driver works on one tier and knows nothing of the catalog, of other tiers, or of why bytes move.
- `attach` comes first and fails with TierOffline unless the tier carries the identity that is expected:
  an empty mount point where a disk is missing is never written to, and never read as "the data is gone".
- Every method is idempotent: called again after a crash at any instruction it finishes or repeats its work.
- Methods raise errors of `tierd.errors` only.
- What is below the transfer's staging area may be removed at any time while no worker runs that transfer.
  What has been moved to the trash is authorised for deletion. Nothing else is ever deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from tierd.storage.control import Control
from tierd.storage.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Site:
    """Which copy of which snapshot is meant.

    Attributes:
        snapshot_key: names the snapshot's private files.
        dataset, name: for choosing a location that people recognise.
        location: of the copy below the tier's root; None on the snapshot's home tier.
        home_path: the dataset's own path for the snapshot; set on the home tier only.
    """

    snapshot_key: str
    dataset: str
    name: str
    location: str | None
    home_path: bytes | None


@dataclass(frozen=True, kw_only=True)
class CopyLimits:
    """How hard a copy may work: processes, and bytes/s (None is no limit)."""

    processes: int = 2
    bytes_per_s: int | None = None


@dataclass(frozen=True, kw_only=True)
class Published:
    """A copy that is in place: where (None on the home tier), its root's inode and its manifest's content id."""

    location: str | None
    root_inode: int
    content_id: str
    entries: int
    size_bytes: int


class Storage(Protocol):
    """One tier's driver. See the module for the contract."""

    def attach(self) -> None:
        """Check the identity and make the private directories.

        Raises:
            TierOffline: the root is missing, or carries another identity or none.
        """

    def receive(self, source_fd: int, transfer_key: str, limits: CopyLimits, control: Control) -> Manifest:
        """Copy the tree below `source_fd` into the staging area, going on where an earlier call stopped."""

    def verify(self, transfer_key: str, mode: str, control: Control) -> Manifest:
        """Make the staged copy durable and compare it with its manifest.

        Raises:
            Corrupt: it differs; what differs is copied again by the next `receive`.
        """

    def publish(self, transfer_key: str, site: Site) -> Published:
        """Move the verified copy from staging into place, replacing a stale copy of the same snapshot."""

    def manifest(self, site: Site) -> Manifest | None:
        """The manifest of the copy in place, or None."""

    def discard(self, transfer_key: str) -> None:
        """Remove the transfer's staging area."""

    def to_trash(self, transfer_key: str, site: Site) -> None:
        """Take the copy out of its place; from here on it may be deleted."""

    def empty_trash(self, transfer_key: str, control: Control) -> None:
        """Delete what `to_trash` took away."""

    def sweep(self, live: Callable[[], Collection[str]], control: Control) -> list[str]:
        """Remove litter of transfers whose keys `live` does not give; returns what was removed.

        `live` is asked after it was listed what there is: transfers may begin meanwhile.
        """
