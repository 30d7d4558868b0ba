"""File leases: the kernel's own answer to who has a file open. Source: fcntl(2), "Leases"."""

from __future__ import annotations

import errno
import fcntl

NO_LEASES = (errno.EINVAL, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM, errno.ENOLCK)
"""This file system or the caller's rights do not allow leases: nothing can be said."""


def has_writer(fd: int) -> bool | None:
    """Whether somebody has the file, open for reading at `fd`, open or mapped for writing; None: cannot be known.

    A read lease is granted only while nobody has. It is given back at once; the process must ignore SIGIO, which
    tells of an opener that came in between.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return True
        if error.errno in NO_LEASES:
            return None
        raise
    return False
