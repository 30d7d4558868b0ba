"""What a tier says of the copies on it by itself, to somebody whose catalog does not know them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class FoundCopy:
    """A copy that a tier describes; nothing was proven of it.

    Attributes:
        snapshot_key: of the snapshot in the catalog that made the copy.
        dataset, name: of the snapshot when the copy was made; None where an older tierd did not write it down.
        location: below the tier's root or prefix, where it is now; None where no tree lies in the tier's store: it is
            the dataset's own tree then, which lies at its path or aside, or it is gone.
        is_aside: the tree lies in the slot beside the dataset's path.
        root_inode: of the tree; 0 in a bucket.
        as_of: the moment of which the copy is; None where nobody wrote it down.
    """

    snapshot_key: str
    dataset: str | None
    name: str | None
    location: str | None
    content_id: str
    entries: int
    files: int
    size_bytes: int
    as_of: datetime | None
    is_aside: bool = False
    root_inode: int = 0


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """What should describe a copy (`what`), and why it cannot be read."""

    what: str
    reason: str


def parse_as_of(text: str | None) -> datetime | None:
    """A moment as manifests have it; None for one that is missing or illegible."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else None
