"""INTERIM: replaced soon."""

import os
import tarfile

T = {
    "f": tarfile.REGTYPE,
    "d": tarfile.DIRTYPE,
    "l": tarfile.SYMTYPE,
    "p": tarfile.FIFOTYPE,
    "c": tarfile.CHRTYPE,
    "b": tarfile.BLKTYPE,
}


def header(entry, *, link_to=None, segments=None):
    ti = tarfile.TarInfo(os.fsdecode(entry.path) or "./")
    ti.type = T[entry.type]
    ti.mode = entry.mode
    ti.uid = entry.uid
    ti.gid = entry.gid
    ti.mtime = entry.mtime_ns / 1e9
    if entry.type == "f":
        ti.size = entry.size
    if entry.target:
        ti.linkname = os.fsdecode(entry.target)
    if link_to is not None:
        ti.type = tarfile.LNKTYPE
        ti.size = 0
        ti.linkname = os.fsdecode(link_to)
    return ti.tobuf(tarfile.PAX_FORMAT, errors="surrogateescape")


END = bytes(1024)


def padding(n):
    return bytes(-n % 512)


def data_size(e, s=None):
    return e.size if s is None else sum(b - a for a, b in s)
