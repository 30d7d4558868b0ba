"""Questions about a tree that its manifests answer."""

from __future__ import annotations

from collections.abc import Collection

from tierd.fs.walk import show
from tierd.storage.manifest import Entry, Manifest, Side, stamp_of


def first_rotten(known: Manifest, side: Side, fresh: Manifest) -> str | None:
    """A file whose bytes changed while nobody wrote it: same inode, size and times as recorded, another digest.

    Args:
        known: the manifest that lies beside a tree; `side` says which of its stamps are the tree's.
        fresh: the manifest of a copy just made of that tree.

    Returns:
        Its name for people, or None.
    """
    before = known.entries(type="f")
    old = next(before, None)
    for new in fresh.entries(type="f"):
        while old is not None and old.path < new.path:
            old = next(before, None)
        if old is not None and old.path == new.path and _is_rotten(old, side, new):
            return show(new.path)
    return None


def _is_rotten(old: Entry, side: Side, new: Entry) -> bool:
    stamp = stamp_of(old, side)
    return stamp is not None and stamp == stamp_of(new, "source") and old.digest != new.digest


def inodes_inside(manifest: Manifest, side: Side, inodes: Collection[int]) -> set[int]:
    """Which of these inodes belong to the tree (one pass over the manifest, however many are asked for)."""
    inside: set[int] = set()
    column = "source_inode" if side == "source" else "copy_inode"
    wanted = sorted(set(inodes))
    for start in range(0, len(wanted), 500):
        part = wanted[start : start + 500]
        marks = ", ".join("?" * len(part))
        rows = manifest.execute(f"SELECT {column} FROM entry WHERE {column} IN ({marks})", part)
        inside.update(int(str(row[0])) for row in rows)
    return inside
