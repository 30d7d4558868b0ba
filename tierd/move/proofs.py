"""Proving that nobody changed a copy, and that nobody uses it."""

from __future__ import annotations

import os

from tierd.errors import SourceBusy
from tierd.model.dataset import SnapshotRef
from tierd.storage.base import Site
from tierd.storage.control import Control
from tierd.storage.manifest import Manifest, Side
from tierd.storage.posix.evidence import inodes_inside
from tierd.storage.posix.holders import find_holders
from tierd.storage.posix.prove import Leases, prove_unchanged
from tierd.storage.posix.store import PosixStorage, side_of


def prove(
    storage: PosixStorage,
    site: Site,
    manifest: Manifest,
    *,
    leases: Leases | None,
    side: Side | None = None,
    ref: SnapshotRef,
    control: Control,
) -> None:
    """Prove that the tree is what the manifest says, and (leases="all") that nobody is in it.

    Args:
        leases: "all": no process has anything of it open; "writers": none has a file open for writing.
        side: which stamps are this tree's; None asks the manifest.

    Raises:
        SourceChanged, SourceBusy
    """
    stamps = side or side_of(manifest)
    fd = storage.open_tree(site)
    try:
        if leases == "all":
            _check_holders(fd, manifest, stamps, ref)
        prove_unchanged(fd, manifest, stamps=stamps, leases=leases, control=control)
        if leases == "all":
            _check_holders(fd, manifest, stamps, ref)
    finally:
        os.close(fd)


def _check_holders(fd: int, manifest: Manifest, side: Side, ref: SnapshotRef) -> None:
    ours = (os.getpid(), os.getppid())  # the daemon's scans hold directories open for an instant
    holders = [h for h in find_holders(os.fstat(fd).st_dev) if h.is_mount or h.pid not in ours]
    inside = inodes_inside(manifest, side, {h.inode for h in holders})
    for holder in holders:
        if holder.inode in inside:
            raise SourceBusy(f"{ref} is in use: {holder}")
