"""Delete a tree that has been authorised for deletion, however deep it is and whoever still plays in it.

Every directory is emptied at depth one: a child directory that is not empty is renamed into the trash
directory first. So no path is ever built, no descriptor stack grows, and a name swapped for a link is
unlinked as a link.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from tierd.errors import StorageError
from tierd.fs.walk import show, translate

_BATCH = 512
_PATIENCE = 1000
"""Times that a directory may fill again before it counts as a failure, to be tried again much later."""


def delete_tree(trash_fd: int, name: bytes, checkpoint: Callable[[], None]) -> None:
    """Delete `name` below the directory `trash_fd` (mode 0700, on the same file system).

    Args:
        checkpoint: called every few hundred entries; may sleep (throttle) or raise to stop. Calling again goes on.
    """
    todo = [name]
    serial = 0
    patience = _PATIENCE
    while todo:
        current = todo.pop()
        try:
            st = os.stat(current, dir_fd=trash_fd, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(st.st_mode):
            os.unlink(current, dir_fd=trash_fd)
            continue
        fd = os.open(current, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=trash_fd)
        try:
            for child in _empty(fd, checkpoint):
                serial += 1
                moved = b"%s.%d-%d" % (name, os.getpid(), serial)
                os.rename(child, moved, src_dir_fd=fd, dst_dir_fd=trash_fd)
                todo.append(moved)
            os.rmdir(current, dir_fd=trash_fd)
        except OSError as error:
            if error.errno == errno.ENOTEMPTY and patience > 0:
                patience -= 1  # someone with an open descriptor still creates names in it
                todo.append(current)
                checkpoint()
                continue
            raise translate(error, f"{show(current)} in the trash") from error
        finally:
            os.close(fd)


def _empty(fd: int, checkpoint: Callable[[], None]) -> list[bytes]:
    """Unlink everything but non-empty directories; returns the names of those."""
    if os.geteuid() != 0 and not os.fstat(fd).st_mode & stat.S_IWUSR:
        os.fchmod(fd, 0o700)  # a read-only directory of an unprivileged owner
    children: list[bytes] = []
    with os.scandir(fd) as found:
        entries = [(os.fsencode(e.name), e.is_dir(follow_symlinks=False)) for e in found]
    for number, (name, is_directory) in enumerate(entries):
        if number % _BATCH == 0:
            checkpoint()
        try:
            if not is_directory:
                os.unlink(name, dir_fd=fd)
                continue
            os.rmdir(name, dir_fd=fd)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                if os.geteuid() != 0:  # renaming a directory elsewhere writes its ".."
                    os.chmod(name, 0o700, dir_fd=fd)
                children.append(name)
            elif error.errno in (errno.EISDIR, errno.ENOTDIR):
                raise StorageError(f"{show(name)} changes while it is deleted") from error
            else:
                raise
    return children
