"""What is found on the tiers, and what shall be done about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tierd.model.dataset import Dataset, SnapshotRef
from tierd.model.effect import PutPlacement
from tierd.model.tier import Tier, TierName
from tierd.storage.found import FoundCopy
from tierd.storage.posix.homepath import Occupant


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A copy in a tier's own store."""

    tier: TierName
    copy: FoundCopy


@dataclass(frozen=True, kw_only=True)
class HomeTree:
    """The tree of a snapshot on its home tier, known by its manifest and its root's inode.

    Attributes:
        ref: where it lies at a path: which one; else what its manifest says.
        is_at_path: False: it lies in the slot beside the path.
        is_unchanged: every entry is still as its manifest says.
    """

    tier: TierName
    ref: SnapshotRef
    copy: FoundCopy
    is_at_path: bool
    is_unchanged: bool


@dataclass(frozen=True, kw_only=True)
class Found:
    """Everything that was found.

    Attributes:
        copies: whether their datasets are configured or not.
        paths: what lies where snapshots are looked for; nothing lies at a path that is missing here.
        missing: datasets whose directory is not there.
        identities: uuid of each tier that has one.
        notes: what could not be read, in sentences for people.
    """

    tiers: tuple[Tier, ...]
    datasets: tuple[Dataset, ...]
    copies: tuple[Copy, ...]
    homes: tuple[HomeTree, ...]
    paths: Mapping[SnapshotRef, Occupant]
    missing: tuple[str, ...]
    identities: Mapping[TierName, str]
    notes: tuple[str, ...]


class Action(StrEnum):
    """What is done at a snapshot's path."""

    KEEP_TREE = "its tree is at the path"
    KEEP_LINK = "the path leads there"
    MAKE_LINK = "link the path to it"
    PUT_BACK = "move its tree back to the path"


@dataclass(frozen=True, kw_only=True)
class Restore:
    """A snapshot that is entered into the catalog.

    Attributes:
        leads_to: the tier to which the path leads afterwards.
        target: of the link that is made; only for MAKE_LINK.
        newest: the copy by which the snapshot is described.
    """

    key: str
    ref: SnapshotRef
    path: Path
    home: TierName
    action: Action
    leads_to: TierName
    target: Path | None
    root_inode: int
    newest: FoundCopy
    placements: tuple[PutPlacement, ...]


@dataclass(frozen=True, kw_only=True)
class Left:
    """A copy that is left alone.

    Attributes:
        hint: a sentence that says what could be done about it.
    """

    tier: TierName
    copy: FoundCopy
    reason: str
    hint: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a rebuild does. Nothing that lies anywhere is replaced or deleted."""

    restored: tuple[Restore, ...]
    left: tuple[Left, ...]
