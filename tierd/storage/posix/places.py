"""Directories of tierd's own on a tier, among those of others."""

from __future__ import annotations

import os
from pathlib import Path

from tierd.errors import Denied
from tierd.fs.walk import translated
from tierd.storage.posix.fence import fence
from tierd.storage.posix.homepath import open_below
from tierd.storage.posix.identity import fsync_directory


def make_fenced(root: Path, path: Path, like_fd: int) -> None:
    """Make a directory below a tier's root, open to those who may enter the directory `like_fd`, and to nobody else.

    Raises:
        Denied, SourceGone: as `open_own`.
    """
    with translated(str(path)):
        try:
            path.mkdir(mode=0o700)
            fsync_directory(path.parent)
        except FileExistsError:
            if not path.is_dir() or path.is_symlink():
                raise
        fd = open_own(root, path)
        try:
            fence(fd, like_fd)
        finally:
            os.close(fd)


def open_own(root: Path, path: Path) -> int:
    """Open a directory that must be tierd's.

    Raises:
        Denied: somebody else owns it.
        SourceGone: a link is on the way.
    """
    fd = open_below(root, os.fsencode(path))
    if os.fstat(fd).st_uid != os.geteuid():
        os.close(fd)
        raise Denied(
            f"{path} belongs to another user, who could move copies under tierd's feet",
            hint="Remove it, or give it to the user that runs tierd.",
        )
    return fd


def free_name(directory: Path, name: str) -> Path:
    """A name in a private directory that is not in use."""
    path, number = directory / name, 1
    while os.path.lexists(path):
        path, number = directory / f"{name}.{number}", number + 1
    return path
