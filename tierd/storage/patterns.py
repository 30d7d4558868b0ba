"""Patterns of files within a snapshot, as people write them."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import translate

from tierd.errors import NotFound
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
    sizes = [entry.size for entry in manifest.entries(type="f") if matches(entry.path)]
    if not sizes:
        raise NotFound(
            f"no file of the copy matches {', '.join(patterns)}",
            hint="Patterns are paths below the snapshot, like 'val/*.tar'; a directory stands for all in it.",
        )
    return PartSize(files=len(sizes), size_bytes=sum(sizes))
