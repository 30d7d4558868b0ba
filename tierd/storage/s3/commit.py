"""The commit object of a copy, `manifest.json`: without it there is no copy. It says what the copy is, for programs
and for people who have nothing but the bucket; the entries themselves lie beside it in `entries.db.zst`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import zstandard
from blake3 import blake3

from tierd.errors import Conflict, Corrupt, SourceGone, Unsupported
from tierd.fs.walk import translated
from tierd.storage.manifest import Manifest, delete_manifest
from tierd.storage.s3 import layout
from tierd.storage.s3.bucket import Bucket, Part
from tierd.storage.s3.checksums import crc64, to_base64
from tierd.storage.s3.stream import complete

FORMAT = 1
_LEVEL = 3
_TYPES: dict[str, type | tuple[type, ...]] = {"int": int, "str": str, "str | None": (str, type(None))}
_HELP = (
    "This is a copy of a dataset snapshot, made by tierd. To have it back without tierd, in an empty directory, as "
    "root: 1. download everything below DATA/files/, DATA being what `data` says here "
    "(rclone copy --metadata REMOTE:BUCKET/PREFIX/DATA/files . ; then take away what rclone notes on files: "
    "find . -type f -exec setfattr -x user.content-type {} + -exec setfattr -x user.tier {} + ); "
    "2. download DATA/packs/*.tar and unpack them in the order of their names, tree.tar last "
    "(tar --xattrs --xattrs-include='*' --acls -xpf PACK)."
)


@dataclass(frozen=True, kw_only=True)
class Commit:
    """What `manifest.json` says.

    Attributes:
        copy: the location of the copy; data: where its objects are, the same unless it shares those of another copy.
        as_of: ISO time of which the copy is.
        entries_size, entries_blake3: of `entries.db.zst`.
    """

    dataset: str
    snapshot: str
    snapshot_key: str
    copy: str
    data: str
    content_id: str
    entries: int
    files: int
    size_bytes: int
    as_of: str | None
    entries_size: int
    entries_blake3: str

    def to_json(self) -> bytes:
        return json.dumps({"format": FORMAT, **asdict(self), "help": _HELP}, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes, location: str) -> Commit:
        """Read it.

        Raises:
            Corrupt: it is damaged. Unsupported: a newer tierd wrote it.
        """
        try:
            found: dict[str, Any] = json.loads(data)
            version = int(found["format"])
            said = {name: found[name] for name in cls.__dataclass_fields__}
            if not all(isinstance(said[field.name], _TYPES[str(field.type)]) for field in fields(cls)):
                raise TypeError
        except (ValueError, KeyError, TypeError) as error:
            raise Corrupt(f"{layout.commit_key(location)} is damaged", hint="Run `tierd audit`.") from error
        if version > FORMAT:
            raise Unsupported(f"{layout.commit_key(location)} has format {version}", hint="Upgrade tierd.")
        return cls(**said)


def read_commit(bucket: Bucket, location: str) -> Commit | None:
    """The commit object of a copy; None when there is no such copy."""
    try:
        data = bucket.get(layout.commit_key(location))
    except SourceGone:
        return None
    return Commit.from_json(data, location)


def write_commit(bucket: Bucket, commit: Commit) -> None:
    """Make the copy exist. Safe to repeat.

    Raises:
        Conflict: another copy is there under the same name.
    """
    data = commit.to_json()
    try:
        bucket.put(layout.commit_key(commit.copy), data, storage_class="STANDARD", is_new=True)
    except Conflict:
        if read_commit(bucket, commit.copy) != commit:
            raise


def write_entries(bucket: Bucket, manifest: Manifest, location: str, scratch: Path) -> tuple[int, str]:
    """Store a manifest's entries beside a copy; returns the size and the blake3 of the object.

    Args:
        scratch: a directory for two temporary files.
    """
    plain, packed = scratch / "entries.db", scratch / "entries.db.zst"
    with translated(str(scratch)):
        delete_manifest(plain)
        packed.unlink(missing_ok=True)
        with manifest.copy_to(plain, durable=False) as copy:
            copy.execute("DROP TABLE IF EXISTS part")
            copy.execute("DROP TABLE IF EXISTS upload")
            copy.set_meta({"side": "copy"})
            copy.execute("VACUUM")
        with plain.open("rb") as source, packed.open("wb") as target:
            zstandard.ZstdCompressor(level=_LEVEL).copy_stream(source, target, read_size=1 << 20, write_size=1 << 20)
        size, digest = packed.stat().st_size, blake3()
        with packed.open("rb") as source:
            while block := source.read(1 << 20):
                digest.update(block)
        _put_file(bucket, layout.entries_key(location), packed, size)
        delete_manifest(plain)
        packed.unlink()
    return size, digest.hexdigest()


def _put_file(bucket: Bucket, key: str, path: Path, size: int) -> None:
    part_bytes = bucket.settings.part_bytes
    with path.open("rb") as source:
        if size <= part_bytes:
            data = source.read()
            bucket.put(key, data, crc64nvme=to_base64(crc64(data)), storage_class="STANDARD")
            return
        upload = bucket.begin(key, storage_class="STANDARD")
        parts: list[tuple[Part, int]] = []
        while data := source.read(part_bytes):
            value = crc64(data)
            parts.append((bucket.upload_part(key, upload, len(parts) + 1, data, crc64nvme=to_base64(value)), value))
        complete(bucket, key, upload, parts)


def fetch_manifest(bucket: Bucket, commit: Commit, target: Path, checkpoint: Callable[[], None]) -> None:
    """Write the manifest of a copy to a new file `target`, checked, durable and complete or not at all.

    Raises:
        SourceGone: the entries are missing. Corrupt: they are damaged.
    """
    part, packed = target.with_suffix(".part"), target.with_suffix(".zst")
    key, step = layout.entries_key(commit.copy), bucket.settings.part_bytes
    with translated(str(target)):
        delete_manifest(part)
        digest = blake3()
        with packed.open("wb") as out:
            for start in range(0, commit.entries_size, step):
                checkpoint()
                block = bucket.get(key, start=start, length=min(step, commit.entries_size - start))
                digest.update(block)
                out.write(block)
        if digest.hexdigest() != commit.entries_blake3:
            packed.unlink()
            raise Corrupt(f"{key} is damaged", hint="Restore it from a version of the bucket, or use another copy.")
        with packed.open("rb") as source, part.open("wb") as out:
            zstandard.ZstdDecompressor().copy_stream(source, out, read_size=1 << 20, write_size=1 << 20)
        packed.unlink()
        with Manifest.open(part) as manifest:
            _check_sane(manifest, key)
            if manifest.compute_content_id() != commit.content_id:
                raise Corrupt(f"{key} does not describe what {layout.commit_key(commit.copy)} says")
            manifest.set_meta({"content_id": commit.content_id, "location": commit.copy, "data": commit.data})
        part.rename(target)


_PARTS = "CAST(x'2f' || path || x'2f' AS BLOB)"
_INSANE = (
    "SELECT 1 FROM sqlite_schema WHERE type IN ('trigger', 'view') LIMIT 1",
    "SELECT 1 FROM entry WHERE type NOT IN ('f', 'd', 'l', 'p', 'c', 'b') OR size < 0 LIMIT 1",
    f"SELECT 1 FROM entry WHERE path <> x'' AND (instr({_PARTS}, x'2f2f') OR instr({_PARTS}, x'2f2e2f')"
    f" OR instr({_PARTS}, x'2f2e2e2f') OR instr(path, x'00')) LIMIT 1",
    "SELECT 1 FROM entry WHERE link_group NOT IN (SELECT path FROM entry) LIMIT 1",
    "SELECT 1 FROM piece p LEFT JOIN entry e ON e.path = p.path WHERE e.type IS NOT 'f' LIMIT 1",
)


def _check_sane(manifest: Manifest, key: str) -> None:
    """What comes from a bucket may have been written by anybody: nothing but paths below the copy's root may be in it.

    Raises:
        Corrupt
    """
    if any(manifest.execute(query) for query in _INSANE):
        raise Corrupt(
            f"{key} holds what no copy made by tierd has",
            hint="Find out who can write to the bucket, and restore it from a version of the bucket.",
        )
