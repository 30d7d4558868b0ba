"""Hard links of a tree while it is read: the names found so far are in the manifest's table `link_name`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from tierd.errors import SourceChanged, Unsupported
from tierd.fs.walk import show
from tierd.storage.manifest import Manifest


def check_groups(manifest: Manifest) -> None:
    """Every name of a hard-linked file must be in the tree: another name would outlive the copy's source.

    Raises:
        Unsupported, SourceChanged
    """
    rows = manifest.execute(
        "SELECT min(path), max(count), count(*) FROM link_name GROUP BY inode HAVING count(*) <> max(count) LIMIT 1"
    )
    if not rows:
        return
    path, count, found = cast(tuple[bytes, int, int], rows[0])
    if found > count:
        raise SourceChanged(f"the hard links of {show(path)} changed while the tree was read")
    raise Unsupported(
        f"{show(path)} has {count} names, but only {found} of them in the snapshot: it is hard-linked to outside",
        hint="Replace it by a copy of its own (cp -p FILE FILE.new && mv FILE.new FILE).",
    )


def groups(manifest: Manifest) -> Iterator[tuple[list[bytes], int]]:
    """The paths of each group, sorted: the first one leads; and how many names the file had when they were found."""
    last = -1
    while True:
        rows = manifest.execute(
            "SELECT DISTINCT inode FROM link_name WHERE inode > ? ORDER BY inode LIMIT 500", (last,)
        )
        for (inode,) in cast(list[tuple[int]], rows):
            found = manifest.execute("SELECT path, count FROM link_name WHERE inode = ? ORDER BY path", (inode,))
            names = cast(list[tuple[bytes, int]], found)
            yield [path for path, _ in names], max(count for _, count in names)
            last = inode
        if len(rows) < 500:
            return
