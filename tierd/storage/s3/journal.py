"""What was uploaded so far of large files: beside the entries and the index in the staged manifest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, cast

from tierd.storage.manifest import Manifest

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS upload (path BLOB PRIMARY KEY, number INTEGER NOT NULL, key TEXT NOT NULL,"
    " id TEXT NOT NULL, stamp TEXT NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS part (path BLOB, number INTEGER, size INTEGER NOT NULL, etag TEXT NOT NULL,"
    " crc64nvme INTEGER NOT NULL, digests BLOB NOT NULL, PRIMARY KEY (path, number)) STRICT, WITHOUT ROWID",
)
_SIGN = 1 << 63


class SentPart(NamedTuple):
    """A part that the store has; `digests` are those of its chunks, one after the other."""

    number: int
    size: int
    etag: str
    crc64nvme: int
    digests: bytes


@dataclass(frozen=True, kw_only=True)
class Begun:
    """An upload under way: of which file in which state (`stamp`), as which object."""

    path: bytes
    number: int
    key: str
    id: str
    stamp: str


class Journal:
    """The uploads under way in a staged manifest; committed with it."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        for statement in _SCHEMA:
            manifest.execute(statement)

    def begin(self, upload: Begun) -> None:
        """Record a new upload of a file; what was known of an older one is forgotten."""
        self.end(upload.path)
        row = (upload.path, upload.number, upload.key, upload.id, upload.stamp)
        self._manifest.execute("INSERT INTO upload VALUES (?, ?, ?, ?, ?)", row)

    def add(self, path: bytes, part: SentPart) -> None:
        number, size, etag, value, digests = part
        row = (path, number, size, etag, value - _SIGN, digests)
        self._manifest.execute("INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?, ?, ?)", row)

    def end(self, path: bytes) -> None:
        """The upload is complete, or given up."""
        self._manifest.execute("DELETE FROM part WHERE path = ?", (path,))
        self._manifest.execute("DELETE FROM upload WHERE path = ?", (path,))

    def find(self, path: bytes) -> Begun | None:
        rows = self._manifest.execute("SELECT path, number, key, id, stamp FROM upload WHERE path = ?", (path,))
        return next(_begun(rows), None)

    def all(self) -> list[Begun]:
        return list(_begun(self._manifest.execute("SELECT path, number, key, id, stamp FROM upload")))

    def parts(self, path: bytes) -> list[SentPart]:
        rows = self._manifest.execute(
            "SELECT number, size, etag, crc64nvme, digests FROM part WHERE path = ? ORDER BY number", (path,)
        )
        found = cast(list[tuple[int, int, str, int, bytes]], rows)
        return [SentPart(number, size, etag, value + _SIGN, digests) for number, size, etag, value, digests in found]

    def drop(self) -> None:
        """The copy is complete: its manifest keeps no trace of how it came about."""
        self._manifest.execute("DROP TABLE part")
        self._manifest.execute("DROP TABLE upload")


def _begun(rows: Iterable[tuple[object, ...]]) -> Iterator[Begun]:
    for path, number, key, upload, stamp in cast(Iterable[tuple[bytes, int, str, str, str]], rows):
        yield Begun(path=path, number=number, key=key, id=upload, stamp=stamp)
