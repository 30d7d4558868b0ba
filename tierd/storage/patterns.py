"""Patterns of files within a snapshot, as people write them."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterable
from fnmatch import translate

from tierd.errors import NotFound
from tierd.fs.walk import walk
from tierd.model.part import PartSize
from tierd.storage.manifest import Manifest

Wanted = Callable[[bytes], bool]


def matcher(patterns: tuple[str, ...]) -> Wanted:
    """Whether a path matches one of some shell patterns; `*` also matches slashes."""
    one_of = re.compile("|".join(translate(pattern) for pattern in patterns) or "(?!)")
    return lambda path: one_of.match(path.decode(errors="surrogateescape")) is not None


def chosen(patterns: tuple[str, ...]) -> Wanted:
    """As `matcher`; the name of a directory stands for all in it."""
    plain = [p.strip("/") for p in patterns]
    return matcher((*plain, *(f"{p}/*" for p in plain)))


def wanted_size(manifest: Manifest, patterns: tuple[str, ...]) -> PartSize:
    """How many files match the patterns, and their bytes.

    Raises:
        NotFound: none does.
    """
    matches = chosen(patterns)
    return _sum((entry.size for entry in manifest.entries(type="f") if matches(entry.path)), patterns)


def wanted_in_tree(root_fd: int, patterns: tuple[str, ...]) -> PartSize:
    """As `wanted_size`, of a tree that has no manifest.

    Raises:
        NotFound: none matches.
        SourceChanged, Denied, Unsupported: it cannot be walked.
    """
    matches = chosen(patterns)
    found = (
        st.st_size
        for listing in walk(root_fd)
        for name, st in listing.entries
        if stat.S_ISREG(st.st_mode) and matches(listing.join(name))
    )
    return _sum(found, patterns)


def _sum(sizes: Iterable[int], patterns: tuple[str, ...]) -> PartSize:
    found = list(sizes)
    if not found:
        raise NotFound(
            f"no file of the copy matches {', '.join(patterns)}",
            hint="Patterns are paths below the snapshot, like 'val/*.tar'; a directory stands for all in it.",
        )
    return PartSize(files=len(found), size_bytes=sum(found))
