"""The keys of a copy's objects, below the tier's prefix. See the package for the picture."""

from __future__ import annotations

import re

from tierd.model.dataset import WHOLE, SnapshotRef, is_dataset_name, is_snapshot_name

PRIVATE = ".tierd"
IDENTITY = f"{PRIVATE}/tier.json"
CONTENTS = f"{PRIVATE}/contents"
COMMIT = "manifest.json"
ENTRIES = "entries.db.zst"
_MAX_KEY = 1024
_COPY = re.compile("[0-9a-f]{16}")


def location(dataset: str, name: str, transfer_key: str) -> str:
    """Of a copy: what `Published.location` and the catalog say."""
    return f"{dataset}/{name}/{transfer_key}"


def commit_key(location: str) -> str:
    return f"{location}/{COMMIT}"


def entries_key(location: str) -> str:
    return f"{location}/{ENTRIES}"


def pack_key(location: str, number: int) -> str:
    return f"{location}/packs/{number:05}.tar"


def tree_key(location: str) -> str:
    """Its name sorts after those of all packs, so that a glob unpacks it last."""
    return f"{location}/packs/tree.tar"


def file_key(location: str, path: bytes, prefix: str) -> str | None:
    """Of a large file; None where its path cannot be a key (not text, or too long with the tier's prefix)."""
    try:
        text = path.decode()
    except UnicodeDecodeError:
        return None
    key = f"{location}/files/{text}"
    if not text.isprintable() or "\\" in text or len(prefix.encode()) + 1 + len(key.encode()) > _MAX_KEY:
        return None
    return key


def content_prefix(entries: int, size_bytes: int) -> str:
    """Below it are the markers of all copies with so many entries and bytes."""
    return f"{CONTENTS}/{entries}-{size_bytes}/"


def content_key(entries: int, size_bytes: int, content_id: str, location: str) -> str:
    """An empty object that says: the copy at `location` has this content."""
    return f"{content_prefix(entries, size_bytes)}{content_id}/{location}"


def users_prefix(location: str) -> str:
    """Below it are the markers of all copies that share the bytes of the one at `location`."""
    return f"{location}/used-by/"


def user_key(location: str, user: str) -> str:
    """An empty object that says: the copy at `user` shares the bytes of the one at `location`."""
    return f"{users_prefix(location)}{user}"


def ref_of(location: str) -> SnapshotRef:
    """The snapshot that a copy is of, by its location."""
    dataset, _, rest = location.partition("/")
    return SnapshotRef(dataset, rest.rpartition("/")[0])


def is_location(text: str) -> bool:
    """Whether this can be the location of a copy: nothing else may ever be deleted."""
    dataset, _, rest = text.partition("/")
    name, _, copy = rest.rpartition("/")
    is_named = name == WHOLE or is_snapshot_name(name)
    return is_dataset_name(dataset) and is_named and _COPY.fullmatch(copy) is not None
