"""Opaque cursors: where a page of snapshots ended, as its last item's place in the order."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType

from tierd.errors import NotFound
from tierd.model.plan import SnapshotView

Place = tuple[int, str, int]
"""Where an item is in an order: a number, its name to tell equals apart, and its id: orphans may share a name."""


class Sort(StrEnum):
    """Orders of snapshots."""

    NAME = "name"
    SIZE = "size"
    """The largest first."""
    ACCESSED = "accessed"
    """The one used last first."""


_NUMBER: Mapping[Sort, Callable[[SnapshotView], int]] = MappingProxyType(
    {
        Sort.NAME: lambda s: 0,
        Sort.SIZE: lambda s: -s.snapshot.size_bytes,
        Sort.ACCESSED: lambda s: -round(s.snapshot.accessed_at.timestamp() * 1e6),
    }
)


def place(s: SnapshotView, sort: Sort) -> Place:
    """The place of a snapshot in an order."""
    return _NUMBER[sort](s), str(s.ref), s.snapshot.id


def encode(sort: Sort, last: Place) -> str:
    """A cursor that continues after this place."""
    return base64.urlsafe_b64encode(json.dumps([sort, *last]).encode()).decode().rstrip("=")


def decode(cursor: str, sort: Sort) -> Place:
    """The place a cursor continues after.

    Raises:
        NotFound: it is none of ours, or of another order.
    """
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        made_for, number, name, snapshot_id = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if made_for == sort and type(number) is type(snapshot_id) is int and isinstance(name, str):
            return number, name, snapshot_id
    except (binascii.Error, ValueError, TypeError, RecursionError):
        pass  # told below, like a cursor that can be read and means nothing
    raise NotFound("there is no page at this cursor", hint="Start again without a cursor; keep the order the same.")
