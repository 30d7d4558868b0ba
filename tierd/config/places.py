"""Checks of where things lie: tier roots, dataset paths, and the places tierd writes to, against one another."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from tierd.config.document import Document, Draft
from tierd.config.fault import Faults, Mounts
from tierd.config.settings import Config

PRIVATE = ".tierd"
"""tierd's own directory below every tier's root."""

_FileId = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Spot:
    """A path as it really is.

    Attributes:
        path: links resolved (as written, when mounts are ignored).
        device: of what is there, None when nothing is.
        ids: device and inode of the path and of every directory above it, as far as they exist. Two paths
            that reach one directory through different mounts differ in their text and agree in these.
    """

    path: Path
    device: int | None = None
    ids: tuple[_FileId | None, ...] = ()

    def contains(self, other: Spot) -> bool:
        """Whether `other` is this directory or lies inside it."""
        own = self.ids[0] if self.ids else None
        return other.path.is_relative_to(self.path) or (own is not None and own in other.ids)

    def overlaps(self, other: Spot) -> bool:
        return self.contains(other) or other.contains(self)


def find_spot(path: Path, mounts: Mounts, *, follow: bool = True) -> Spot:
    """Look where a path really is.

    Args:
        follow: False keeps the last part as it is: where the dataset itself is the snapshot, its path may be
            the link that tierd made.
    """
    if mounts is Mounts.IGNORED:
        return Spot(path=path)
    real = Path(os.path.realpath(path)) if follow else Path(os.path.realpath(path.parent)) / path.name
    ids = tuple(_file_id(place) for place in (real, *real.parents))
    return Spot(path=real, device=ids[0][0] if ids[0] else None, ids=ids)


def _file_id(path: Path) -> _FileId | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@dataclass(kw_only=True)
class Located:
    """A draft and where it lies. `home` is the tier of a dataset, once it is known."""

    draft: Draft
    spot: Spot
    home: Located | None = None

    @property
    def where(self) -> str:
        return self.draft.where


def check_places(document: Document, mounts: Mounts, faults: Faults) -> None:
    """Check every path, replace it in the drafts by the real one, and set each dataset's `home`."""
    on_mounts = [d for d in document.tiers if not d.is_s3]
    tiers = [Located(draft=d, spot=find_spot(d.values["root"], mounts)) for d in on_mounts if "root" in d.values]
    # Nothing need exist below the view, and what lies there is no tree of the machine's.
    view: Path = document.top.get("view", Config.view)
    _check_roots(tiers, mounts, faults)
    datasets = [
        Located(draft=d, spot=find_spot(d.values["path"], mounts, follow=not _is_whole(d)))
        for d in document.datasets
        if "path" in d.values
    ]
    # With a root that could not be read, "on no configured mount" might be its fault alone.
    are_all_known = len(tiers) == len(on_mounts)
    for dataset in datasets:
        if find_spot(view, mounts).contains(dataset.spot):
            reason = f"lies in the view {view}: an S3 tier cannot be the home of a dataset"
            faults.add(f"{dataset.where}.path", reason, "Choose a path below the root of a mounted tier.")
        else:
            _check_dataset(dataset, tiers, view, mounts, faults, are_all_known)
    for one, other in combinations(datasets, 2):
        if one.spot.overlaps(other.spot):
            relation = "is the same as" if one.spot.path == other.spot.path else "overlaps"
            instead = "Datasets must not share files: remove one, or choose paths beside each other."
            faults.add(f"{other.where}.path", f"{relation} the path of {one.where}", instead)
    _check_copies(tiers, datasets, mounts, faults)
    for located, key in [(t, "root") for t in tiers] + [(d, "path") for d in datasets]:
        located.draft.values[key] = located.spot.path


def _is_whole(draft: Draft) -> bool:
    return "pattern" in draft.values and draft.values["pattern"] is None


def _check_roots(tiers: list[Located], mounts: Mounts, faults: Faults) -> None:
    if mounts is not Mounts.IGNORED:
        for tier in tiers:
            _check_root(tier, mounts, faults)
    for one, other in combinations(tiers, 2):
        key = f"{other.where}.root"
        if one.spot.contains(other.spot) and other.spot.contains(one.spot):
            faults.add(key, f"is the same directory as the root of {one.where}", "Give every tier a root of its own.")
        elif one.spot.overlaps(other.spot):
            inside = "lies inside" if one.spot.contains(other.spot) else "contains"
            faults.add(key, f"{inside} the root of {one.where}", "Choose roots beside each other, on their own mounts.")


def _check_root(tier: Located, mounts: Mounts, faults: Faults) -> None:
    root, key = tier.spot.path, f"{tier.where}.root"
    try:
        found = os.stat(root)
    except OSError as error:
        if mounts is Mounts.REQUIRED:
            reason = (
                "does not exist" if isinstance(error, FileNotFoundError) else (error.strerror or str(error)).lower()
            )
            faults.add(
                key,
                f"{root} {_as_verb(reason)}",
                "Mount the file system and create the directory, or correct the path.",
            )
        return
    if not stat.S_ISDIR(found.st_mode):
        faults.add(key, f"{root} is not a directory", "Name the directory on the mount that tierd may use.")
    elif mounts is Mounts.REQUIRED and not os.access(root, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        instead = "Mount it read-write, and run tierd (and this check) as a user that may write there."
        faults.add(key, f"{root} is not writable", instead)


def _as_verb(reason: str) -> str:
    return reason if reason.startswith("does ") else f"cannot be looked at: {reason}"


def _check_dataset(
    dataset: Located, tiers: list[Located], view: Path, mounts: Mounts, faults: Faults, are_all_known: bool
) -> None:
    key, spot = f"{dataset.where}.path", dataset.spot
    for tier in tiers:
        if spot.path == tier.spot.path or (spot.contains(tier.spot) and tier.spot.contains(spot)):
            instead = f"Name a directory below it, like {tier.spot.path / 'datasets'}."
            faults.add(key, f"is the root of {tier.where} itself", instead)
            return
        if (tier.spot.path / PRIVATE) in (spot.path, *spot.path.parents):
            faults.add(key, f"lies in tierd's own directory {tier.spot.path / PRIVATE}", "Choose a path outside it.")
            return
    homes = [tier for tier in tiers if spot.path.is_relative_to(tier.spot.path)]
    if not homes:
        if are_all_known and tiers:
            roots = ", ".join(str(tier.spot.path) for tier in tiers)
            through = "" if spot.path == dataset.draft.values["path"] else f" (it leads to {spot.path})"
            reason = f"{dataset.draft.values['path']} is on no configured mount{through}"
            faults.add(key, reason, f"Choose a path below a tier's root ({roots}), or add a [[tiers]] table for it.")
        return
    dataset.home = max(homes, key=lambda tier: len(tier.spot.path.parts))
    dataset.draft.values["home"] = dataset.home.draft.name
    if mounts is not Mounts.IGNORED:
        _check_tree(dataset, dataset.home, [tier.spot.path for tier in tiers] + [view], mounts, faults)


def _check_tree(dataset: Located, home: Located, roots: list[Path], mounts: Mounts, faults: Faults) -> None:
    """Check what is at a dataset's path now; `roots`: where links of tierd's may lead."""
    key, spot = f"{dataset.where}.path", dataset.spot
    if spot.device is None:
        if mounts is Mounts.REQUIRED:
            faults.add(key, f"{spot.path} does not exist", "Create the directory, or correct the path.")
        return
    if _is_whole(dataset.draft) and spot.path.is_symlink():
        target = Path(os.readlink(spot.path))
        if not any(target.is_relative_to(root) for root in roots if root != home.spot.path):
            instead = f"Name the directory itself: {os.path.realpath(spot.path)}."
            faults.add(key, f"{spot.path} is a symbolic link that tierd did not make", instead)
    elif not spot.path.is_dir():
        faults.add(key, f"{spot.path} is not a directory", "Name the directory that holds the snapshots.")
    if home.spot.device is not None and spot.device != home.spot.device:
        reason = f"{spot.path} is another file system than the root of {home.where}"
        faults.add(key, reason, "Add a [[tiers]] table whose root is on that file system, or choose another path.")


def _check_copies(tiers: list[Located], datasets: list[Located], mounts: Mounts, faults: Faults) -> None:
    """Copies of a dataset go to `<root>/<its name>` on every tier that is not its home; nothing else may be there."""
    for owner in datasets:
        for tier in tiers:
            if tier is owner.home or owner.home is None or owner.draft.name is None:
                continue
            place = find_spot(tier.spot.path / owner.draft.name, mounts, follow=False)
            for other in datasets:
                if other is not owner and other.home is tier and place.overlaps(other.spot):
                    reason = f"overlaps {place.path}, where copies of {owner.where} are kept"
                    faults.add(f"{other.where}.path", reason, f"Choose another path, or rename {owner.where}.")
