"""Where a copy's bytes are: its objects, and the piece of one of them that holds each file.

Two tables beside the entries of a manifest. They are the journal while a copy is uploaded, and afterwards the index
that finds any file by one ranged GET.

    object    number, key (with the copy's location), kind, size, CRC64NVME (hexadecimal), ETag
    piece     path of a file → object, offset of its data there, length, and the segments of a sparse file

Kinds of objects: `pack` (a tar of many files), `file` (a large file as it is), `solo` (a tar of one large file that
cannot be kept as it is: sparse, with attributes, or with a name that is no key), `tree` (a tar of everything else).
A file in a pack is stored as its segments, back to back; a `NULL` means the whole file. While a copy is uploaded, a
piece may name an object that is not there (yet): it is recorded only when the store has it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple, cast

from tierd.storage.manifest import CHUNK, Manifest

Segments = tuple[tuple[int, int], ...]
"""The ranges (start, stop) of a file that hold data; what lies between is a hole."""

_PAIR = struct.Struct("<QQ")

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS object (number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,"
    " size INTEGER NOT NULL, crc64nvme TEXT NOT NULL, etag TEXT NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS piece (path BLOB PRIMARY KEY, object INTEGER NOT NULL, offset INTEGER NOT NULL,"
    " length INTEGER NOT NULL, segments BLOB) STRICT, WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS piece_place ON piece (object, offset)",
)


class Object(NamedTuple):
    """One object of a copy; `crc64nvme` in hexadecimal."""

    number: int
    key: str
    kind: str
    size: int
    crc64nvme: str
    etag: str


class Piece(NamedTuple):
    """The place of one file's bytes. `segments` is None for a file without holes."""

    path: bytes
    object: int
    offset: int
    length: int
    segments: Segments | None


class Index:
    """The objects and pieces in a manifest. Nothing is committed but by the manifest."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        for statement in _SCHEMA:
            manifest.execute(statement)

    def add(self, item: Object) -> None:
        """Record an object that the store has."""
        self._manifest.execute("INSERT OR REPLACE INTO object VALUES (?, ?, ?, ?, ?, ?)", item)

    def place(self, pieces: Sequence[Piece]) -> None:
        """Record where files are, or will be."""
        self._manifest.execute_many(
            "INSERT OR REPLACE INTO piece VALUES (?, ?, ?, ?, ?)",
            [(*piece[:4], _pack(piece.segments)) for piece in sorted(pieces, key=itemgetter(0))],  # as the table is
        )

    def remove(self, number: int) -> None:
        """Forget an object and its pieces."""
        self._manifest.execute("DELETE FROM piece WHERE object = ?", (number,))
        self._manifest.execute("DELETE FROM object WHERE number = ?", (number,))

    def objects(self, kind: str | None = None) -> list[Object]:
        """All objects by number, or those of one kind."""
        where = "" if kind is None else " WHERE kind = ?"
        rows = self._manifest.execute(f"SELECT * FROM object{where} ORDER BY number", () if kind is None else (kind,))
        return [Object(*cast(tuple[int, str, str, int, str, str], row)) for row in rows]

    def next_number(self) -> int:
        """A number that no object has."""
        row = self._manifest.execute("SELECT coalesce(max(number), 0) + 1 FROM object")
        return cast(int, row[0][0])

    def piece(self, path: bytes) -> Piece | None:
        """Where a file's bytes are; None for a path that has none (or is unknown)."""
        rows = self._manifest.execute("SELECT * FROM piece WHERE path = ?", (path,))
        return _piece(rows[0]) if rows else None

    def pieces(self, number: int) -> Iterator[Piece]:
        """The pieces of an object in the order in which they lie there; a thousand at a time."""
        after, path = -1, b""
        while True:
            rows = self._manifest.execute(
                "SELECT * FROM piece WHERE object = ? AND (offset, path) > (?, ?) ORDER BY offset, path LIMIT 1000",
                (number, after, path),
            )
            found = [_piece(row) for row in rows]
            yield from found
            if len(found) < 1000:
                return
            after, path = found[-1].offset, found[-1].path

    def drop_unfinished(self) -> None:
        """Forget the pieces of objects that were never recorded."""
        self._manifest.execute("DELETE FROM piece WHERE object NOT IN (SELECT number FROM object)")

    def clear(self) -> None:
        """Forget everything."""
        self._manifest.execute("DELETE FROM piece")
        self._manifest.execute("DELETE FROM object")


def chunk_segments(segments: Segments) -> dict[int, list[tuple[int, int]]]:
    """The segments of a sparse file by chunk, cut at the borders of chunks."""
    found: dict[int, list[tuple[int, int]]] = {}
    for start, stop in segments:
        at = start
        while at < stop:
            chunk = at // CHUNK
            end = min(stop, (chunk + 1) * CHUNK)
            found.setdefault(chunk, []).append((at, end))
            at = end
    return found


def _pack(segments: Segments | None) -> bytes | None:
    return None if segments is None else b"".join(_PAIR.pack(*pair) for pair in segments)


def _piece(row: tuple[object, ...]) -> Piece:
    path, number, offset, length, packed = cast(tuple[bytes, int, int, int, bytes | None], row)
    return Piece(path, number, offset, length, unpack_segments(packed))


def unpack_segments(packed: bytes | None) -> Segments | None:
    """The segments as the table has them."""
    return None if packed is None else tuple(cast("Iterator[tuple[int, int]]", _PAIR.iter_unpack(packed)))
