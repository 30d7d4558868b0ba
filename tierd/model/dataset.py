"""Datasets and snapshots: the named trees that jobs read, and their versions."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import NewType

from tierd.errors import InvalidRequest
from tierd.model.phase import Phase
from tierd.model.policy import Policy
from tierd.model.tier import TierName

SnapshotId = NewType("SnapshotId", int)

WHOLE = "self"
"""Name of the one snapshot of a dataset whose directory is itself the snapshot."""

_DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def is_dataset_name(name: str) -> bool:
    """Letters, digits, dot, dash, underscore; at most 100; never a leading dot."""
    return _DATASET_NAME.fullmatch(name) is not None


def is_snapshot_name(name: str) -> bool:
    """Whether a directory name can name a snapshot: printable UTF-8 text, no leading dot, no slash."""
    try:
        encoded = name.encode()
    except UnicodeEncodeError:  # surrogates: the name on disk is not UTF-8
        return False
    return 0 < len(encoded) <= 255 and name.isprintable() and not name.startswith(".") and "/" not in name


@dataclass(frozen=True, order=True)
class SnapshotRef:
    """How people name a snapshot: `dataset/snapshot`, or `dataset` alone where the dataset is the snapshot."""

    dataset: str
    name: str = WHOLE

    def __str__(self) -> str:
        return self.dataset if self.name == WHOLE else f"{self.dataset}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> SnapshotRef:
        """Read `dataset/snapshot` or `dataset`.

        Raises:
            InvalidRequest: the text is neither.
        """
        dataset, slash, name = text.partition("/")
        if not is_dataset_name(dataset) or (slash and not is_snapshot_name(name)):
            raise InvalidRequest(
                f"{text!r} is not the name of a snapshot",
                hint="Write DATASET/SNAPSHOT as `tierd ls` shows it; paths are not names.",
            )
        return cls(dataset, name) if slash else cls(dataset)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A dataset as configured, in the phase of its life that it is in.

    Attributes:
        path: its home; snapshots are child directories of it that match `pattern`.
        home: the tier whose root contains `path`.
        pattern: shell pattern for snapshot names; None means that the directory itself is the snapshot.
        configured_phase: what the configuration says; given_phase: what an operator said since, which counts.
        policy: its rules in its present phase; policies: in each of them.
    """

    name: str
    path: Path
    home: TierName
    pattern: str | None = "*"
    configured_phase: Phase = Phase.TRAIN
    given_phase: Phase | None = None
    policy: Policy = field(default_factory=Policy)
    policies: Mapping[Phase, Policy] = field(default_factory=dict, repr=False)

    @property
    def phase(self) -> Phase:
        return self.given_phase or self.configured_phase

    def given(self, phase: Phase | None) -> Dataset:
        """The same dataset in the phase that an operator gave it; None: in the configured one."""
        if phase is self.given_phase:
            return self
        policy = self.policies.get(phase or self.configured_phase, self.policy)
        return replace(self, given_phase=phase, policy=policy)

    def snapshot_path(self, name: str) -> Path:
        """Where jobs find the snapshot of this name."""
        return self.path if self.pattern is None else self.path / name


class AccessSource(StrEnum):
    """How the time of the last access is known."""

    EVENTS = "events"
    ATIME = "atime"
    REPORTED = "reported"
    """Somebody told, of a use that no event shows: an NFS client, a remote reader."""
    UNOBSERVED = "unobserved"
    """The last access that is known, moved by the time in which nobody watched and the mount kept no access times:
    only time in which a use would have been noticed counts as disuse."""
    DISCOVERY = "discovery"
    """Nothing is known: the snapshot counts as used when it was first seen. Unknown is never cold."""


WEIGHT_DECAY = timedelta(weeks=8)
"""After this long a use counts 1/e of what it counted at first: the τ of the placement value."""


def decayed(weight: float, since: datetime | None, now: datetime) -> float:
    """A weight as of `since`, now; a clock that jumped back makes nothing heavier."""
    if since is None or now <= since:
        return weight
    return weight * math.exp(-((now - since) / WEIGHT_DECAY))


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One version of a dataset, as the catalog knows it.

    Attributes:
        key: 16 hex digits, never reused, names the snapshot's private files on every tier.
        size_bytes: allocated or apparent size of its regular files, whichever is larger for the reader:
            the apparent size (what a reader sees). `disk_bytes` is what it occupies.
        entries: files, directories, links and other entries, the root included.
        changed_at: the newest change to any entry, by its times or by a write event.
        accessed_at: the newest access (a read or a write), and `access_source` how that is known.
        weight: how much it was used: one per episode of use, fading by `WEIGHT_DECAY`; as of `weight_at`.
        warmed_at: when the last recall for a warm finished.
        gone_at: when its path was found missing; its cold copies stay.
        floor: what ageing policies had reached when it was last used.
        problem: why it is not looked after (a name that is not text, a hard link that leads outside …).
    """

    id: SnapshotId
    ref: SnapshotRef
    key: str
    path: Path
    root_inode: int
    size_bytes: int = 0
    disk_bytes: int = 0
    files: int = 0
    entries: int = 0
    first_seen_at: datetime
    changed_at: datetime
    accessed_at: datetime
    access_source: AccessSource = AccessSource.DISCOVERY
    read_at: datetime | None = None
    written_at: datetime | None = None
    episodes: int = 0
    weight: float = 0.0
    weight_at: datetime | None = None
    warmed_at: datetime | None = None
    scanned_at: datetime | None = None
    gone_at: datetime | None = None
    problem: str | None = None
    floor: float = 0.0
