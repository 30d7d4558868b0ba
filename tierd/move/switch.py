"""Where a snapshot's path leads, and making it lead elsewhere."""

from __future__ import annotations

import os

from tierd.model.tier import TierKind
from tierd.move.job import Job, Place
from tierd.storage.posix.homepath import Kind
from tierd.storage.posix.store import PosixStorage, side_of


def open_storage(place: Place) -> PosixStorage:
    """The driver for a tier."""
    match place.tier.kind:
        case TierKind.POSIX:
            return PosixStorage(place.tier.root, place.identity)


def leads_to(job: Job, place: Place) -> bool:
    """Whether the path leads to this place's copy now; False also when something unknown is there."""
    home = open_storage(job.home)
    now = home.home(job.home.site).at_path()
    if place.site.home_path is not None:
        return now.kind is Kind.DIRECTORY and now.inode == home_inode(job)
    return place.site.location is not None and now.kind is Kind.LINK and now.target == _link(place)


def lead_to(job: Job, place: Place) -> None:
    """Make the path lead to this place's copy. Idempotent.

    Raises:
        SourceGone, SourceChanged: something else is there, and was left alone.
    """
    path = open_storage(job.home).home(job.home.site)
    known = [_link(p) for p in (job.source, job.destination) if p.site.location]
    if place.site.home_path is not None:
        path.lead_home(expected_inode=home_inode(job), known_targets=known)
    else:
        target = open_storage(place).tree(place.site)
        path.lead_to(target, expected_inode=home_inode(job), known_targets=known)


def home_inode(job: Job) -> int:
    """Root inode of the tree on the home tier: what tierd put there last, else what was found there first."""
    manifest = open_storage(job.home).manifest(job.home.site)
    if manifest is None:
        return job.snapshot.root_inode
    with manifest:
        root = manifest.root_stamp(side_of(manifest))
    return root.inode if root is not None else job.snapshot.root_inode


def _link(place: Place) -> bytes:
    return os.fsencode(place.tier.root / (place.site.location or ""))
