"""Where a snapshot's path leads, and making it lead elsewhere."""

from __future__ import annotations

import os

from tierd.model.tier import TierKind
from tierd.move.job import Job, Place
from tierd.storage.base import Storage
from tierd.storage.posix.homepath import HomePath, Kind
from tierd.storage.posix.store import PosixStorage, side_of


def open_storage(place: Place) -> Storage:
    """The driver for a tier."""
    match place.tier.kind:
        case TierKind.POSIX:
            return PosixStorage(place.tier.root, place.identity)
        case TierKind.S3:
            from tierd.storage.s3.store import S3Storage  # its libraries take a while to load

            assert place.tier.s3 is not None
            return S3Storage(place.tier.s3, place.identity)


def load_driver(kind: TierKind) -> None:
    """Load what `open_storage` would load for such a tier, and what its first requests need."""
    if kind is TierKind.S3:
        from tierd.storage.s3.connect import preload  # as above
        from tierd.storage.s3.store import S3Storage  # noqa: F401

        preload()


def home_path(job: Job) -> HomePath:
    """The snapshot's path and its slot."""
    return _home(job).home(job.home.site)


def leads_to(job: Job, place: Place) -> bool:
    """Whether the path leads to this place's copy now; False also when something unknown is there."""
    now = home_path(job).at_path()
    if place.site.home_path is not None:
        return now.kind is Kind.DIRECTORY and now.inode == home_inode(job)
    return place.site.location is not None and now.kind is Kind.LINK and now.target == _link(place)


def leads_elsewhere(job: Job) -> bool:
    """Whether the path leads to a copy that this transfer neither reads nor makes: it stays as it is then."""
    return any(leads_to(job, place) for place in job.others)


def lead_to(job: Job, place: Place) -> None:
    """Make the path lead to this place's copy. Idempotent.

    Raises:
        SourceGone, SourceChanged: something else is there, and was left alone.
    """
    path = home_path(job)
    known = [_link(p) for p in job.places if p.site.location]
    if place.site.home_path is not None:
        path.lead_home(expected_inode=home_inode(job), known_targets=known)
    else:
        path.lead_to(_link(place), expected_inode=home_inode(job), known_targets=known)


def home_inode(job: Job) -> int:
    """Root inode of the tree on the home tier: what tierd put there last, else what was found there first."""
    manifest = _home(job).manifest(job.home.site)
    if manifest is None:
        return job.snapshot.root_inode
    with manifest:
        root = manifest.root_stamp(side_of(manifest))
    return root.inode if root is not None else job.snapshot.root_inode


def _home(job: Job) -> PosixStorage:
    return PosixStorage(job.home.tier.root, job.home.identity)


def _link(place: Place) -> bytes:
    return os.fsencode(place.tier.root / (place.site.location or ""))
