"""The headers of our packs: PAX tar, which GNU tar and Python's tarfile unpack as it was, without tierd.

    x block     name "././@PaxHeader"; its data are records "<length> <keyword>=<value>\\n", padded to 512 bytes
    ustar       name, mode, ids, size, mtime in seconds, type, link target
    map         of a sparse file: how many ranges, then offset and size of each, in decimal lines, padded
    data        what the caller writes, then `padding`

Whatever fits the ustar block is there alone, as raw bytes; the mtime (to the nanosecond), and what does not fit, are
records. Names stand there as they are, without "./" before them: tar treats none of them as an option, and only a
leading "/" or ".." would be changed. Directories end in "/"; the root is "./". A name of more than 100 bytes becomes a
record, which GNU tar converts from UTF-8 to the locale's characters: in the locales UTF-8 and C no byte changes.

Access times are left out: without `--incremental`, GNU tar does not restore them. Our index has them.
POSIX ACLs become `SCHILY.acl.*` with numeric ids, other attributes `SCHILY.xattr.<name>` with "%" and "=" escaped as
GNU tar does. A second name of a file carries no attributes: they are those of the file it is linked to.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache

from tierd.storage.manifest import Entry
from tierd.storage.posix.metadata import unpack_xattrs

_BLOCK = 512

END = bytes(2 * _BLOCK)
"""What comes after the last entry."""

_FLAGS = {"f": b"0", "d": b"5", "l": b"2", "p": b"6", "c": b"3", "b": b"4"}
_HARD_LINK = b"1"

# name; mode, uid and gid; size and mtime; checksum; type; link target; magic; owner and group by name, left empty so
# that the numbers count; device number; prefix and filler
_USTAR = struct.Struct("<100s24s24s8sc100s8s64x16s167x")
_MAGIC = b"ustar\x0000"
_NO_DEVICE = b"0000000\x00" * 2
_SHORT = 100
"""Bytes of a name or link target in the ustar block."""
_SPACES = 8 * ord(" ")
"""A checksum is made as if its own field were blank."""

_MOST_ID = 0o7777777
_MOST = 0o77777777777
"""What the fields for ids, and for sizes and times, can say."""

_ACLS = {
    b"system.posix_acl_access": b"SCHILY.acl.access",
    b"system.posix_acl_default": b"SCHILY.acl.default",
}
_ACL_VERSION, _ACL_ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
_ACL_TAGS = {
    0x01: b"user::%s",
    0x02: b"user:%d:%s",
    0x04: b"group::%s",
    0x08: b"group:%d:%s",
    0x10: b"mask::%s",
    0x20: b"other::%s",
}
_NAMED = (0x02, 0x08)
_RIGHTS = [b"---", b"--x", b"-w-", b"-wx", b"r--", b"r-x", b"rw-", b"rwx"]


def header(entry: Entry, *, link_to: bytes | None = None, segments: Sequence[tuple[int, int]] | None = None) -> bytes:
    """Everything that comes before an entry's data; a multiple of 512 bytes.

    Args:
        link_to: the path of another entry: this one is a second name of it, and no data follow.
        segments: the ranges (start, stop) of a sparse file that hold data, sorted; the data that follow are these
            ranges back to back. May be empty. None for a file that is stored whole.
    """
    name = entry.path
    if entry.type == "d":
        name = name + b"/" if name else b"./"
    owner, records = _owner(entry.mode, entry.uid, entry.gid)
    records += _mtime_record(entry.mtime_ns)
    flag, target, size, sparse_map = _FLAGS[entry.type], entry.target or b"", 0, b""
    if link_to is not None:
        flag, target = _HARD_LINK, link_to
    else:
        size = data_size(entry, segments)
        if entry.xattrs:
            records += b"".join(_xattr_records(entry.xattrs))
        if segments is not None:
            sparse_map = _sparse_map(entry.size, segments)
            size += len(sparse_map)
            records += _sparse_records(entry)
            name = b"GNUSparseFile.0/" + os.path.basename(name)[: _SHORT // 2]
    if len(name) > _SHORT:
        records += _record(b"path", name)
    if len(target) > _SHORT:
        records += _record(b"linkpath", target)
    if size > _MOST and segments is None:  # of a sparse file, tarfile takes this record for the size with holes
        records += _record(b"size", b"%d" % size)
    device = _device(entry.rdev) if entry.type in "cb" else _NO_DEVICE
    return b"".join((
        _record_header(len(records)),
        records,
        padding(len(records)),
        _ustar(name, owner, size, entry.mtime_ns // 1_000_000_000, flag, target, device),
        sparse_map,
    ))  # fmt: skip


def data_size(entry: Entry, segments: Sequence[tuple[int, int]] | None = None) -> int:
    """Bytes of data that follow the header, without padding."""
    if entry.type != "f":
        return 0
    return entry.size if segments is None else sum(stop - start for start, stop in segments)


def padding(size: int) -> bytes:
    """The zeros from `size` to the next multiple of 512."""
    return bytes(-size % _BLOCK)


# -- blocks --------------------------------------------------------------------------------------------------


def _ustar(name: bytes, owner: bytes, size: int, seconds: int, flag: bytes, target: bytes, device: bytes) -> bytes:
    """A header block; what does not fit is cut, or 0, and stands in a record. A large size is here too, in binary."""
    name, target = name[:_SHORT], target[:_SHORT]
    numbers = b"%b%011o\0" % (
        b"%011o\0" % size if size <= _MOST else b"\x80" + size.to_bytes(11),
        seconds if 0 <= seconds <= _MOST else 0,
    )
    checksum = sum(b"".join((name, owner, numbers, flag, target, _MAGIC, device)), _SPACES)
    return _USTAR.pack(name, owner, numbers, b"%06o\0 " % checksum, flag, target, _MAGIC, device)


@lru_cache(maxsize=1024)
def _record_header(size: int) -> bytes:
    """The block before `size` bytes of records."""
    owner, _ = _owner(0o644, 0, 0)
    return _ustar(b"././@PaxHeader", owner, size, 0, b"x", b"", _NO_DEVICE)


@lru_cache(maxsize=1024)
def _owner(mode: int, uid: int, gid: int) -> tuple[bytes, bytes]:
    """The fields for mode, uid and gid, and the records for ids that are too large for them."""
    fields, records = b"%07o\0" % mode, b""
    for keyword, number in ((b"uid", uid), (b"gid", gid)):
        if number > _MOST_ID:
            records += _record(keyword, b"%d" % number)
            number = 0
        fields += b"%07o\0" % number
    return fields, records


def _device(rdev: int) -> bytes:
    return b"%07o\0%07o\0" % (os.major(rdev), os.minor(rdev))


# -- records -------------------------------------------------------------------------------------------------


def _record(keyword: bytes, value: bytes) -> bytes:
    return b"%d %s=%s\n" % (_record_size(len(keyword) + len(value)), keyword, value)


@lru_cache(maxsize=1024)
def _record_size(content: int) -> int:
    """The length of a record, which counts its own digits, by that of keyword and value."""
    rest = content + len(b" =\n")
    size = rest + len(str(rest))
    return rest + len(str(size))


def _mtime_record(ns: int) -> bytes:
    seconds, fraction = divmod(abs(ns), 1_000_000_000)
    return _record(b"mtime", b"%s%d.%09d" % (b"-" if ns < 0 else b"", seconds, fraction))


def _xattr_records(packed: bytes) -> Iterator[bytes]:
    for name, value in unpack_xattrs(packed).items():
        text = _acl_text(value) if name in _ACLS else None
        if text is not None:
            yield _record(_ACLS[name], text)
        else:
            yield _record(b"SCHILY.xattr." + name.replace(b"%", b"%25").replace(b"=", b"%3D"), value)


def _acl_text(value: bytes) -> bytes | None:
    """The text form of an ACL with numeric ids; None for one in a form that is not known."""
    if len(value) % _ACL_ENTRY.size != _ACL_VERSION.size or _ACL_VERSION.unpack_from(value) != (2,):
        return None
    found = []
    for tag, rights, number in _ACL_ENTRY.iter_unpack(value[_ACL_VERSION.size :]):
        if tag not in _ACL_TAGS or rights >= len(_RIGHTS):
            return None
        found.append(_ACL_TAGS[tag] % ((number, _RIGHTS[rights]) if tag in _NAMED else _RIGHTS[rights]))
    return b",".join(found)


# -- sparse files --------------------------------------------------------------------------------------------


def _sparse_records(entry: Entry) -> bytes:
    """GNU's format 1.0: the true name and size are in records, the map is before the data."""
    return b"".join((
        _record(b"GNU.sparse.major", b"1"),
        _record(b"GNU.sparse.minor", b"0"),
        _record(b"GNU.sparse.name", entry.path),
        _record(b"GNU.sparse.realsize", b"%d" % entry.size),
    ))  # fmt: skip


def _sparse_map(size: int, segments: Sequence[tuple[int, int]]) -> bytes:
    ranges = [(start, stop - start) for start, stop in segments]
    if not segments or segments[-1][1] < size:
        ranges.append((size, 0))  # tells readers where the last hole ends
    text = b"%d\n" % len(ranges) + b"".join(b"%d\n%d\n" % pair for pair in ranges)
    return text + padding(len(text))
