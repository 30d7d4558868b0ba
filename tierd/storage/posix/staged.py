"""What every engine that fills a staging directory does with its tree: keep it private, clean it, finish it."""

from __future__ import annotations

import os

from tierd.fs.walk import open_directory, scan, show, translated
from tierd.storage.control import Control
from tierd.storage.manifest import Manifest
from tierd.storage.posix.metadata import forget_acls, write_refused, write_xattrs
from tierd.storage.posix.trash import delete_tree


def make_private(fd: int) -> None:
    """A directory of the copy while it is filled: nobody else enters, nothing is inherited."""
    os.fchmod(fd, 0o700)
    forget_acls(fd)


def empty_dropped(dropped_fd: int, control: Control) -> None:
    """Delete what an earlier attempt left where something else belongs."""
    with translated("what an earlier attempt left"):
        for name in os.listdir(dropped_fd):
            delete_tree(dropped_fd, os.fsencode(name), control.checkpoint)


def sweep_strangers(tree_fd: int, dropped_fd: int, manifest: Manifest, control: Control) -> None:
    """Remove from the tree what is not in the manifest: gone from the source, or never recorded."""
    serial = 0
    for names in scan(tree_fd):
        control.checkpoint()
        prefix = names.path + b"/" if names.path else b""
        strangers: list[tuple[int, bytes, str]] = []
        for at in range(0, len(names.entries), 500):
            part = names.entries[at : at + 500]
            known = manifest.find_all([prefix + name for _, name, _ in part])
            strangers += [entry for entry in part if prefix + entry[1] not in known]
        for entry in strangers:
            serial += 1
            with translated(show(prefix + entry[1])):
                if entry[2] == "d" and os.geteuid() != 0:  # to move a directory is to write its ".."
                    os.chmod(entry[1], 0o700, dir_fd=names.fd)
                os.rename(entry[1], b"s%d" % serial, src_dir_fd=names.fd, dst_dir_fd=dropped_fd)
            names.entries.remove(entry)  # so that the walk does not enter it
    empty_dropped(dropped_fd, control)


def finish_directories(tree_fd: int, manifest: Manifest, control: Control, *, is_new: bool) -> None:
    """Give every directory its owner, mode, attributes and times, the deepest first."""
    for number, entry in enumerate(manifest.directories_from_below()):
        if number % 256 == 0:
            control.checkpoint()
        try:
            fd = open_directory(tree_fd, entry.path)
            try:
                os.fchown(fd, entry.uid, entry.gid)
                os.fchmod(fd, entry.mode)
                write_xattrs(fd, entry.xattrs, is_new=is_new)
                os.utime(fd, ns=(entry.atime_ns, entry.mtime_ns))
            finally:
                os.close(fd)
        except OSError as error:
            raise write_refused(error, show(entry.path)) from error
