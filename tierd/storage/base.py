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

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from tierd.model.s3 import Counts
from tierd.storage.control import Control, Rate
from tierd.storage.manifest import Manifest, Side

Leases = Literal["all", "writers"]
"""Whom a proof looks for: whoever has anything of the tree open, or whoever may write to it."""


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
    """How hard a copy may work: processes, and its rate; `first`: patterns of what to bring first, `only`: of what to
    bring at all (all, where there are none).
    """

    processes: int = 2
    rate: Rate = field(default_factory=Rate)
    first: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Published:
    """A copy that is in place: where (None on the home tier), its root's inode and its manifest's content id."""

    location: str | None
    root_inode: int
    content_id: str
    entries: int
    size_bytes: int


@dataclass(frozen=True)
class Tree:
    """A copy that can be read as a tree of a local file system: its open root directory."""

    fd: int


class Bundle(Protocol):
    """A copy that is no tree: it unpacks itself."""

    def unpack(self, staging: Path, limits: CopyLimits, control: Control) -> Manifest:
        """Make `staging/tree` and `staging/manifest.db` of it, going on where an earlier call stopped."""


Source = Tree | Bundle


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A copy that cannot be read yet.

    Attributes:
        until: when it should be readable; None when nobody can say.
        message: what is waited for, for people.
    """

    until: datetime | None
    message: str


class Storage(Protocol):
    """One tier's driver. See the module for the contract."""

    @property
    def kept(self) -> Collection[str]:
        """Where `publish` put stale copies, and `sweep` parts, that somebody had written to."""

    def asked(self) -> Mapping[str, Counts]:
        """Requests made of a store so far, by operation; empty for a tier that is asked nothing."""

    def attach(self) -> None:
        """Check the identity and make the private directories.

        Raises:
            TierOffline: the root is missing, or carries another identity or none.
        """

    def prepare_reading(self, site: Site, *, now: datetime, control: Control) -> Waiting | None:
        """Ask for what must be done before the copy in place can be read; None when it can be read now.

        To be called again later, as often as one likes, until it returns None. It may cost money.

        Raises:
            SourceGone, SourceChanged: the copy is not complete any more.
        """

    def reading(self, site: Site) -> AbstractContextManager[Source]:
        """The copy in place, to be read.

        Raises:
            SourceGone: there is none.
        """

    def receive(self, source: Source, transfer_key: str, site: Site, limits: CopyLimits, control: Control) -> Manifest:
        """Copy a source into the staging area, going on where an earlier call stopped."""

    def needs_verification(self, transfer_key: str) -> bool:
        """Whether a staged copy lies here that is not verified, or that `publish` has not begun to put in place."""

    def verify(self, transfer_key: str, mode: str, control: Control, rate: Rate | None = None) -> Manifest:
        """Make the staged copy durable and compare it with its manifest, reading no faster than `rate`.

        Raises:
            Corrupt: it differs; what differs is copied again by the next `receive`.
        """

    def fence(self, site: Site, like_fd: int) -> None:
        """Make ready the place of the copy, open to those who may enter the directory `like_fd`, and to nobody else."""

    def publish(self, transfer_key: str, site: Site) -> Published:
        """Move the verified copy from staging into place, replacing a stale copy of the same snapshot."""

    def manifest(self, site: Site) -> Manifest | None:
        """The manifest of the copy in place, or None."""

    def save_manifest(self, site: Site, manifest: Manifest, side: Side) -> None:
        """Keep a manifest beside this tier's copy, durably; `side` says which of its stamps are the copy's."""

    def prove(
        self,
        site: Site,
        manifest: Manifest,
        *,
        leases: Leases | None,
        side: Side | None = None,
        control: Control,
    ) -> None:
        """Prove that the copy is what the manifest says, and that nobody uses it.

        Args:
            leases: "all": no process has anything of it open; "writers": none has a file open for writing.
            side: which stamps are this copy's; None asks the manifest.

        Raises:
            SourceChanged, SourceBusy
        """

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
