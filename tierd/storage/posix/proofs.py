"""Proving that nobody changed a tree, and that nobody uses it."""

from __future__ import annotations

import os

from tierd.errors import SourceBusy
from tierd.storage.base import Leases
from tierd.storage.control import Control
from tierd.storage.manifest import Manifest, Side
from tierd.storage.posix.evidence import inodes_inside
from tierd.storage.posix.holders import find_holders
from tierd.storage.posix.prove import prove_unchanged


def prove_tree(
    fd: int, manifest: Manifest, *, stamps: Side, leases: Leases | None, name: str, control: Control
) -> None:
    """Prove that the tree below `fd` is what the manifest says, and (leases="all") that nobody is in it.

    Args:
        leases: "all": no process has anything of it open; "writers": none has a file open for writing.
        name: of the snapshot, for messages.

    Raises:
        SourceChanged, SourceBusy
    """
    if leases == "all":
        _check_holders(fd, manifest, stamps, name)
    prove_unchanged(fd, manifest, stamps=stamps, leases=leases, control=control)
    if leases == "all":
        _check_holders(fd, manifest, stamps, name)


def _check_holders(fd: int, manifest: Manifest, side: Side, name: str) -> None:
    ours = (os.getpid(), os.getppid())  # the daemon's scans hold directories open for an instant
    holders = [h for h in find_holders(os.fstat(fd).st_dev) if h.is_mount or h.pid not in ours]
    inside = inodes_inside(manifest, side, {h.inode for h in holders})
    for holder in holders:
        if holder.inode in inside:
            raise SourceBusy(f"{name} is in use: {holder}")
