"""Checks of tierd's own places (database, socket, view, what S3 tiers keep beside their buckets) against the others.

Also gives S3 tiers the paths that follow from the rest: a root below the view, and a directory beside the database.
"""

from __future__ import annotations

import os
from itertools import combinations
from pathlib import Path

from tierd.config.document import Document, Draft
from tierd.config.fault import Faults, Mounts
from tierd.config.places import PRIVATE, Spot, find_spot
from tierd.config.s3_values import credentials_directory
from tierd.config.settings import Config

_STATE = "s3"
"""Directory beside the database with one directory for each S3 tier."""
_OUTSIDE = "Choose a path outside it, like the default."


def place_s3(document: Document) -> None:
    """Set the root of every S3 tier, and its state directory where none is given."""
    view = document.top.get("view", Config.view)
    for tier in document.tiers:
        if tier.is_s3 and tier.name is not None:
            tier.values["root"] = view / tier.name
            tier.s3["state"] = _state(tier, document)


def _state(tier: Draft, document: Document) -> Path:
    database: Path = document.top.get("database", Config.database)
    given: Path | None = tier.s3.get("state")
    return given or database.parent / _STATE / str(tier.name)


def check_own_places(document: Document, mounts: Mounts, faults: Faults) -> None:
    """Check everything that is tierd's own; the drafts' paths are the real ones by now."""
    others = _Others(document, mounts)
    own = {"database": document.top.get("database"), "api.socket": document.sections["api"].get("socket")}
    for key, path in own.items():
        if path is not None:
            _check_outside(key, find_spot(path, mounts), others, faults)
    s3 = [tier for tier in document.tiers if tier.is_s3]
    _check_states(document, s3, others, mounts, faults)
    if s3 or "view" in document.top:
        _check_view(find_spot(document.top.get("view", Config.view), mounts), others, faults)
    if mounts is Mounts.REQUIRED:
        for tier in s3:
            _check_given_files(tier, faults)


class _Others:
    """Where datasets and the roots of mounted tiers are."""

    def __init__(self, document: Document, mounts: Mounts) -> None:
        self.datasets = [
            (d, find_spot(d.values["path"], mounts, follow=d.values.get("pattern", "*") is not None))
            for d in document.datasets
            if "path" in d.values
        ]
        on_mounts = [d for d in document.tiers if not d.is_s3]
        self.roots = [(d, find_spot(d.values["root"], mounts)) for d in on_mounts if "root" in d.values]


def _check_outside(key: str, spot: Spot, others: _Others, faults: Faults) -> None:
    """What is tierd's own must not lie where tierd moves or deletes trees."""
    for dataset, there in others.datasets:
        if there.contains(spot):
            faults.add(key, f"lies inside {dataset.where}, which tierd moves", _OUTSIDE)
    for _, root in others.roots:
        if spot.path.is_relative_to(root.path / PRIVATE):
            faults.add(key, f"lies in tierd's own directory {root.path / PRIVATE}", _OUTSIDE)


def _check_states(document: Document, s3: list[Draft], others: _Others, mounts: Mounts, faults: Faults) -> None:
    """What S3 tiers keep here is swept: nothing else may be in these directories."""
    states = {f"{d.where}.state": find_spot(_state(d, document), mounts) for d in s3 if d.name is not None}
    given = {f"{d.where}.state" for d in s3 if "state" in d.s3}
    database = find_spot(document.top.get("database", Config.database), mounts)
    is_database_sound = all(fault.key != "database" for fault in faults.found())
    for key, spot in states.items():
        # Where the directory follows from a database that lies wrong, that has been said.
        if key in given or is_database_sound:
            _check_outside(key, spot, others, faults)
        inside = [draft.where for draft, there in others.datasets if spot.contains(there)]
        inside += [f"the root of {draft.where}" for draft, root in others.roots if spot.contains(root)]
        inside += ["the database"] if spot.contains(database) else []
        for what in inside:
            faults.add(key, f"contains {what}", "Choose a directory that nothing else is in, like the default.")
    for (one, first), (other, second) in combinations(states.items(), 2):
        if first.overlaps(second):
            faults.add(other, f"overlaps {one}", "Give every S3 tier a directory of its own.")


def _check_view(spot: Spot, others: _Others, faults: Faults) -> None:
    """Where a path leads tells where its bytes are: below the view in a bucket, below a root on that tier."""
    for tier, root in others.roots:
        if root.overlaps(spot):
            inside = "lies inside" if root.contains(spot) else "contains"
            faults.add("view", f"{inside} the root of {tier.where}", "Choose a path beside all roots.")


def _check_given_files(tier: Draft, faults: Faults) -> None:
    """Files that the operator names must be there; a systemd credential is, as long as the service runs."""
    for key in ("ca_bundle", "credentials"):
        path: Path | None = tier.s3.get(key)
        if path is None or path.parent == credentials_directory():
            continue
        place = f"{tier.where}.{key}"
        if not path.exists():
            faults.add(place, f"{path} does not exist", "Create the file, or correct the path.")
        elif not path.is_file():
            faults.add(place, f"{path} is not a file", "Name the file itself.")
        elif not os.access(path, os.R_OK, effective_ids=True):
            faults.add(place, f"{path} cannot be read", "Run tierd (and this check) as a user that may read it.")
