"""The copies on a posix tier, by the manifests that lie there."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from tierd.errors import StorageError, TierdError
from tierd.fs.walk import translated
from tierd.model.dataset import is_dataset_name, is_snapshot_name
from tierd.storage.found import FoundCopy, Unreadable, parse_as_of
from tierd.storage.manifest import Manifest
from tierd.storage.posix.identity import PRIVATE
from tierd.storage.posix.store import side_of

_KEY = re.compile("[0-9a-f]{16}")
_SUFFIX = re.compile("~[0-9a-f]{8}$")


def find_copies(root: Path) -> Iterator[FoundCopy | Unreadable]:
    """Every copy that a manifest on this tier describes, by snapshot key.

    Raises:
        StorageError: the tier cannot be read.
    """
    manifests = root / PRIVATE / "manifests"
    with translated(str(manifests)):
        names = sorted(os.listdir(manifests)) if manifests.is_dir() else []
    places: dict[int, str] | None = None
    for name in names:
        key, suffix = os.path.splitext(name)
        if suffix != ".db" or _KEY.fullmatch(key) is None:
            continue
        try:
            with Manifest.open(manifests / name) as manifest:
                described = _describe(root, key, manifest)
        except TierdError as error:
            yield Unreadable(what=f"{PRIVATE}/manifests/{name}", reason=error.message)
            continue
        if described.location is None and not described.is_aside:
            # A manifest of an older tierd need not say where the tree is: it is known by its inode.
            places = _places(root) if places is None else places
            described = _placed(described, places.get(described.root_inode))
        yield described


def _describe(root: Path, key: str, manifest: Manifest) -> FoundCopy:
    meta, stamp, totals = manifest.meta, manifest.root_stamp(side_of(manifest)), manifest.totals()
    if stamp is None:
        raise StorageError("it is of a copy that was never verified")
    location = meta.get("location")
    if location is not None and (not _is_location(location) or directory_inode(root / location) != stamp.inode):
        location = None
    dataset, _, name = (meta.get("location") or "").partition("/")
    return FoundCopy(
        snapshot_key=key,
        dataset=meta.get("dataset") or dataset or None,
        name=meta.get("name") or _SUFFIX.sub("", name) or None,
        location=location,
        content_id=manifest.content_id(),
        entries=totals.entries,
        files=totals.files,
        size_bytes=totals.size_bytes,
        as_of=parse_as_of(meta.get("as_of")),
        is_aside=directory_inode(root / PRIVATE / "aside" / key) == stamp.inode,
        root_inode=stamp.inode,
    )


def _placed(copy: FoundCopy, location: str | None) -> FoundCopy:
    if location is None:
        return copy
    dataset, _, name = location.partition("/")
    changes = {"dataset": copy.dataset or dataset, "name": copy.name or _SUFFIX.sub("", name), "location": location}
    return FoundCopy(**{**vars(copy), **changes})


def _is_location(text: str) -> bool:
    dataset, slash, name = text.partition("/")
    return bool(slash) and is_dataset_name(dataset) and is_snapshot_name(name)


def _places(root: Path) -> dict[int, str]:
    """Directories where copies may lie, by inode."""
    found: dict[int, str] = {}
    with translated(str(root)):
        for dataset in sorted(os.listdir(root)):
            if not is_dataset_name(dataset) or directory_inode(root / dataset) is None:
                continue
            with contextlib.suppress(PermissionError):
                for name in sorted(os.listdir(root / dataset)):
                    inode = directory_inode(root / dataset / name) if is_snapshot_name(name) else None
                    if inode is not None:
                        found[inode] = f"{dataset}/{name}"
    return found


def directory_inode(path: Path) -> int | None:
    """Inode of the directory there, no link followed at the end; None where there is none."""
    try:
        st = os.lstat(path)
    except OSError:
        return None
    return st.st_ino if stat.S_ISDIR(st.st_mode) else None
