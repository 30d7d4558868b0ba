"""What observation reports: the measure of a tree, and accesses seen."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from tierd.model.dataset import AccessSource, SnapshotId, SnapshotRef


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One walk over a snapshot's tree (metadata only, no file is opened).

    Attributes:
        root_inode: of the tree's root directory.
        size_bytes: apparent bytes of its regular files, each hard-linked file once; disk_bytes: allocated.
        files: regular files; entries: everything, the root included.
        newest_change: the newest mtime or ctime of any entry.
        newest_access: the newest atime of a regular file; None where the mount keeps none (noatime).
        problem: why tierd cannot look after this tree (names the entry), or None.
    """

    root_inode: int
    size_bytes: int
    disk_bytes: int
    files: int
    entries: int
    newest_change: datetime
    newest_access: datetime | None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Who accessed a snapshot, as far as the kernel still knew when it was asked.

    Attributes:
        program: name of the process (`comm`); "" when it had ended before it could be asked.
        uid: of its owner; None when unknown.
        job: what it runs in, as `<kind>:<id>`: `slurm:4711`, `docker:3f2a91c07b4e`, `podman:…`, `containerd:…`,
            `pod:<uid>`, `unit:jupyter.service`, `session:3`; None when it is in none of these, or unknown.
    """

    program: str = ""
    uid: int | None = None
    job: str | None = None


@dataclass(frozen=True, kw_only=True)
class ReaderTally:
    """What one reader did to one snapshot since the last flush: from `first_at` to `last_at`, `reads` and `writes`
    events seen (merged by the kernel: a lower bound of the accesses)."""

    reader: Reader
    first_at: datetime
    last_at: datetime
    reads: int = 0
    writes: int = 0


@dataclass(frozen=True, kw_only=True)
class AccessBatch:
    """Accesses of one snapshot since the last flush.

    Attributes:
        read_at, written_at: the newest of each kind, None where there was none.
        reads, writes: how many events were merged.
        readers: who it was; empty where the back end cannot tell, or is told not to.
    """

    snapshot_id: SnapshotId
    read_at: datetime | None = None
    written_at: datetime | None = None
    reads: int = 0
    writes: int = 0
    source: AccessSource = AccessSource.EVENTS
    readers: tuple[ReaderTally, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrackerStatus:
    """How well access tracking sees.

    Attributes:
        name: of the back end: `fanotify`, `watchdog`, `atime`.
        detail: for people: what it does, or why it is degraded and what to do about it.
        events_seen: since the start.
        events_lost: times at which the kernel dropped events since the start (it does not say how many).
        watches: directories watched, or trees sampled.
    """

    name: str
    is_degraded: bool = False
    detail: str = ""
    events_seen: int = 0
    events_lost: int = 0
    watches: int = 0


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One time of use of a snapshot by one reader: accesses without a long pause. One of more than a
    day is told day by day.

    Attributes:
        reads, writes: events seen, a lower bound of the accesses.
    """

    id: int
    ref: SnapshotRef
    reader: Reader
    source: AccessSource
    first_at: datetime
    last_at: datetime
    reads: int
    writes: int


@dataclass(frozen=True, kw_only=True)
class Span:
    """What was seen of a snapshot in an hour or a day (UTC) that begins at `start`.

    Attributes:
        episodes: uses that began then, whoever it was.
    """

    ref: SnapshotRef
    start: datetime
    reads: int
    writes: int
    episodes: int


@dataclass(frozen=True, kw_only=True)
class Use:
    """One time of use of a snapshot by anybody, as `simulate` replays it."""

    ref: SnapshotRef
    first_at: datetime
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One line of a ranking of readers or snapshots: `name` is what it was ranked by, None where nobody knows."""

    name: str | None
    snapshots: int
    episodes: int
    reads: int
    writes: int
    size_bytes: int
    last_at: datetime
