"""The manifest: kept, found, identified, refused when damaged."""

from __future__ import annotations

import sqlite3
import struct
import time
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from tierd.errors import Corrupt, NotFound, StorageError, Unsupported
from tierd.storage.manifest import Entry, Manifest, stamp_of
from tierd.storage.posix.metadata import unpack_xattrs


def entry(path: bytes, **changes: object) -> Entry:
    kind = "d" if path == b"" else "f"
    plain = Entry(path=path, type=kind, size=7, mode=0o644, uid=1, gid=2, mtime_ns=3, atime_ns=4, digest=b"d" * 32)
    return plain._replace(**changes)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    made = Manifest.create(tmp_path / "manifest.db")
    made.add(
        [entry(b"", size=0, digest=None), entry(b"b"), entry(b"a/x"), entry(b"a", type="d", size=0), entry(b"a-b")]
    )
    made.commit()
    return made


def test_entries_come_in_the_order_of_their_paths_as_bytes(manifest: Manifest) -> None:
    assert [e.path for e in manifest.entries()] == [b"", b"a", b"a-b", b"a/x", b"b"]
    assert [e.path for e in manifest.entries(after=b"a-b")] == [b"a/x", b"b"]
    assert [e.path for e in manifest.entries(type="d")] == [b"", b"a"]
    assert [e.path for e in manifest.directories_from_below()] == [b"a", b""]


def test_an_entry_is_found_as_it_was_put_in(manifest: Manifest) -> None:
    rich = entry(b"\xff\n", xattrs=b"\x00", target=b"t", link_group=b"g", source_inode=5, source_ctime_ns=6, attempt=2)
    manifest.add([rich])
    assert manifest.find(b"\xff\n") == rich
    assert manifest.find(b"none") is None
    assert manifest.find_all([b"\xff\n", b"b", b"none"]) == {b"\xff\n": rich, b"b": entry(b"b")}
    assert stamp_of(rich, "source") == (5, 7, 3, 6)
    assert stamp_of(rich, "copy") is None


def test_hard_linked_bytes_are_counted_once(manifest: Manifest) -> None:
    manifest.add([entry(b"h1", link_group=b"h1", size=100), entry(b"h2", link_group=b"h1", size=100)])
    assert manifest.totals() == (7, 5, 3 * 7 + 100)


def test_the_content_id_can_be_computed_from_its_description(manifest: Manifest) -> None:
    record = b""
    for e in manifest.entries():
        record += struct.pack("<cIIIqQQ", e.type.encode(), 0o644, 1, 2, 3, e.size, 0)
        for field in (e.path, b"", b"", b"", e.digest or b""):
            record += struct.pack("<I", len(field)) + field
    assert manifest.content_id() == blake3(b"tierd manifest 1\n" + record).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        {"type": "l"}, {"size": 8}, {"mode": 0o600}, {"uid": 9}, {"gid": 9}, {"mtime_ns": -1}, {"rdev": 1},
        {"xattrs": b"x"}, {"target": b"t"}, {"link_group": b"b"}, {"digest": b"e" * 32},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_the_content_id_covers_what_a_user_sees(manifest: Manifest, change: dict[str, object]) -> None:
    before = manifest.content_id()
    manifest.add([entry(b"b", **change)])
    assert manifest.content_id() != before


@pytest.mark.parametrize("change", [{"atime_ns": 0}, {"source_inode": 9}, {"copy_ctime_ns": 9}, {"attempt": 5}])
def test_the_content_id_leaves_out_what_a_user_does_not_see(manifest: Manifest, change: dict[str, object]) -> None:
    before = manifest.content_id()
    manifest.add([entry(b"b", **change)])
    assert manifest.content_id() == before


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=9), st.binary(max_size=9)), min_size=2, max_size=2, unique=True)
)
def test_no_two_entries_share_a_record(pairs: list[tuple[bytes, bytes]]) -> None:
    first, second = (entry(path, xattrs=xattrs).canonical() for path, xattrs in pairs)
    assert first != second or (pairs[0][0] == pairs[1][0] and not pairs[0][1] and not pairs[1][1])


def test_bulk_writing_ends_in_one_file(tmp_path: Path) -> None:
    manifest = Manifest.create(tmp_path / "m.db")
    manifest.begin_bulk()
    manifest.add(entry(b"%d" % n) for n in range(5000))
    manifest.end_bulk()
    assert [p.name for p in tmp_path.iterdir()] == ["m.db"]
    with Manifest.open(tmp_path / "m.db") as again:  # the exclusive lock is gone
        assert again.totals().entries == 5000
    manifest.close()


def test_a_copy_of_a_manifest_is_equal(manifest: Manifest, tmp_path: Path) -> None:
    manifest.add_chunks(b"b", b"1" * 32 + b"2" * 32)
    manifest.set_meta({"side": "copy"})
    with manifest.copy_to(tmp_path / "second.db") as second:
        assert second.content_id() == manifest.content_id()
        assert second.chunks(b"b") == [b"1" * 32, b"2" * 32]
        assert second.meta["side"] == "copy"
    with pytest.raises(StorageError):
        manifest.copy_to(tmp_path / "second.db")


def test_a_missing_manifest_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Manifest.open(tmp_path / "none.db")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"not a database at all, but text" * 100,
        lambda data: b"\0" * len(data),
        lambda data: data[: len(data) // 2],
        lambda data: data[:100] + b"\xff" * (len(data) - 100),
    ],
    ids=["empty", "text", "zeros", "cut off", "garbage"],
)
def test_a_damaged_manifest_is_corrupt(manifest: Manifest, damage) -> None:  # type: ignore[no-untyped-def]  # lambdas
    manifest.close()
    manifest.path.write_bytes(damage(manifest.path.read_bytes()))
    with pytest.raises(Corrupt):
        Manifest.open(manifest.path)


def test_another_database_is_no_manifest(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "other.db")
    db.execute("CREATE TABLE entry (path)")
    db.commit()
    db.close()
    with pytest.raises(Corrupt):
        Manifest.open(tmp_path / "other.db")


def test_a_manifest_of_a_newer_format_is_refused(manifest: Manifest) -> None:
    manifest.set_meta({"format": "2"})
    manifest.close()
    with pytest.raises(Unsupported, match="format 2"):
        Manifest.open(manifest.path)


def test_looking_one_entry_up_takes_less_than_a_millisecond(tmp_path: Path) -> None:
    with Manifest.create(tmp_path / "m.db") as manifest:
        manifest.begin_bulk()
        manifest.add(entry(b"directory/%07d" % n) for n in range(100_000))
        manifest.end_bulk()
        began = time.perf_counter()
        for n in range(0, 100_000, 100):
            assert manifest.find(b"directory/%07d" % n) is not None
        assert (time.perf_counter() - began) / 1000 < 0.001


def test_packed_attributes_are_read_back() -> None:
    packed = struct.pack("<H", 6) + b"user.a" + struct.pack("<I", 3) + b"\0\1\2"
    assert unpack_xattrs(packed) == {b"user.a": b"\0\1\2"}
    assert unpack_xattrs(None) == {}
