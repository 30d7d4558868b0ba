"""`tierd audit`: what is not as the catalog says, and what belongs to nobody, on real tiers."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.rebuilding import call, go, lose_catalog
from tests.seaweed import BUCKET, Seaweed
from tests.world import CLOUD, FLASH, HDD, Trap, World, is_done, s3_settings
from tierd.model.dataset import Snapshot
from tierd.model.transfer import TransferKind
from tierd.storage.manifest import Manifest
from tierd.storage.s3.commit import fetch_manifest, read_commit, write_entries


@pytest.fixture
def world(tmp_path: Path, seaweed: Seaweed) -> Iterator[World]:
    world = World(tmp_path, s3=s3_settings(tmp_path, seaweed.endpoint))
    yield world
    world.close()


def audit(world: World, *words: str) -> dict[str, Any]:
    """What it reports; the exit code is checked against it."""
    result = call(world, "audit", "--json", *words)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    report: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == (1 if report["findings"] else 0)
    return report


def kinds(report: dict[str, Any]) -> list[tuple[str, str]]:
    return [(f["kind"], f["tier"]) for f in report["findings"]]


def everywhere(world: World, name: str = "v1", files: int = 8) -> Snapshot:
    """A snapshot with a copy on every tier."""
    snapshot = world.make(name, files=files)
    go(world, snapshot, TransferKind.MIGRATE, FLASH, HDD)
    go(world, snapshot, TransferKind.MIGRATE, FLASH, CLOUD)
    return snapshot


def find(world: World, end: str) -> str:
    """The object whose key ends like this."""
    keys = world.keys()
    return next(key for key in keys if key.endswith(end))


def full_key(world: World, key: str) -> str:
    assert world.s3 is not None
    return f"{world.s3.prefix}/{key}"


def test_whole_copies_are_no_finding_however_deep_one_looks(world: World) -> None:
    everywhere(world)
    go(world, world.make("v2"), TransferKind.MIGRATE, FLASH, CLOUD, release=True)
    for words in ((), ("--deep",), ("--deep", "--sweep"), ("ds/v1",), ("ds",)):
        report = audit(world, *words)
        assert report["findings"] == [], words
        assert report["copies"] == (2 if words == ("ds/v1",) else 3)


def test_it_reads_the_catalog_while_a_daemon_owns_it_and_without_one(world: World) -> None:
    everywhere(world)
    assert audit(world)["copies"] == 2  # the world's own catalog is open and locked
    world.close()
    assert audit(world)["copies"] == 2
    world._open()


def test_without_a_catalog_it_says_how_to_make_one(world: World) -> None:
    lose_catalog(world)
    result = call(world, "audit")
    assert result.exit_code == 4
    assert "tierd rebuild" in result.stderr
    world._open()


# -- damage --------------------------------------------------------------------------------------------------------


def test_a_missing_object_is_found(world: World) -> None:
    everywhere(world)
    pack = find(world, "00001.tar")
    world.bucket.delete([pack])
    report = audit(world)
    assert kinds(report) == [("missing", CLOUD)]
    assert report["findings"][0]["where"] == pack
    assert report["findings"][0]["ref"] == "ds/v1"


def test_a_missing_manifest_object_is_found_and_what_is_left_of_the_copy_is_never_swept(world: World) -> None:
    everywhere(world)
    keys = world.keys()
    manifest = find(world, "/manifest.json")
    world.bucket.delete([manifest])
    report = audit(world, "--sweep", "--older-than", "0s")
    assert kinds(report) == [("missing", CLOUD)]
    assert set(world.keys()) == set(keys) - {manifest}


def test_missing_entries_in_the_bucket_are_found_though_this_machine_has_its_own(world: World) -> None:
    everywhere(world)
    world.bucket.delete([find(world, "entries.db.zst")])
    assert kinds(audit(world)) == [("missing", CLOUD)]
    assert kinds(audit(world, "--deep")) == [("missing", CLOUD)]


def test_an_object_that_was_replaced_is_found_by_its_etag(world: World, seaweed: Seaweed) -> None:
    everywhere(world)
    pack = find(world, "00001.tar")
    data = bytearray(world.bucket.get(pack))
    data[700] ^= 1
    seaweed.client().put_object(Bucket=BUCKET, Key=full_key(world, pack), Body=bytes(data))
    assert kinds(audit(world)) == [("changed", CLOUD)]
    assert kinds(audit(world, "ds/v1")) == [("changed", CLOUD)]


def test_bytes_in_the_bucket_that_rot_under_their_etag_are_found_by_reading_them(
    world: World, seaweed: Seaweed
) -> None:
    """The store's own disk loses a bit: the listing is as before, the bytes are not."""
    everywhere(world, files=30)
    everywhere(world, "v2")
    marker = (world.data / "v1" / "f0").read_bytes()[:64]
    seaweed.kill()
    try:
        assert rot(seaweed.data, marker)
    finally:
        seaweed.start()
    assert kinds(audit(world)) == []
    report = audit(world, "--deep")
    assert [(f["tier"], f["ref"]) for f in report["findings"]] == [(CLOUD, "ds/v1")]
    assert report["findings"][0]["kind"] in ("damaged", "unreadable")  # this store notices by itself, and refuses
    assert report["copies"] == 4  # the others were looked at all the same


def test_objects_whose_bytes_are_not_those_that_were_sent_are_found_by_reading_them(world: World) -> None:
    """As after rot that the store does not notice: the listing is as it was verified, the checksum is another."""
    snapshot = everywhere(world)
    location = find(world, "/manifest.json").removesuffix("/manifest.json")
    commit = read_commit(world.bucket, location)
    assert commit is not None
    path = world.base / "entries.db"
    fetch_manifest(world.bucket, commit, path, lambda: None)
    with Manifest.open(path) as manifest:
        manifest.execute("UPDATE object SET crc64nvme = '0000000000000001' WHERE kind = 'pack'")
        manifest.commit()
        size, digest = write_entries(world.bucket, manifest, location, world.base)
    world.bucket.put(f"{location}/manifest.json", replace(commit, entries_size=size, entries_blake3=digest).to_json())
    assert kinds(audit(world)) == []
    report = audit(world, "--deep")
    assert kinds(report) == [("damaged", CLOUD)]
    assert report["findings"][0]["where"].endswith("00001.tar")
    assert report["findings"][0]["ref"] == str(snapshot.ref)


def rot(directory: Path, marker: bytes) -> bool:
    """Flip a bit of every place below a directory where these bytes lie."""
    found = False
    for path in directory.rglob("*"):
        if path.is_file():
            data = bytearray(path.read_bytes())
            at = data.find(marker)
            if at >= 0:
                with path.open("r+b") as file:
                    file.seek(at + 8)
                    file.write(bytes([data[at + 8] ^ 1]))
                found = True
    return found


def test_a_tree_that_is_gone_from_the_hdd_is_found(world: World) -> None:
    everywhere(world)
    (world.roots[HDD] / "ds" / "v1").rename(world.base / "elsewhere")
    assert kinds(audit(world)) == [("missing", HDD)]


def test_a_tree_that_was_written_to_on_the_hdd_is_found(world: World) -> None:
    everywhere(world)
    (world.roots[HDD] / "ds" / "v1" / "f0").write_bytes(b"other")
    report = audit(world)
    assert kinds(report) == [("changed", HDD)]
    assert "f0" in report["findings"][0]["message"]


def test_bit_rot_on_the_hdd_is_found_by_reading(world: World) -> None:
    """The bytes are others, and every time and size is as before: as it is when a disk forgets."""
    snapshot = everywhere(world)
    rotten = world.roots[HDD] / "ds" / "v1" / "f0"
    forget_a_bit(world, snapshot, rotten)
    assert kinds(audit(world)) == []
    report = audit(world, "--deep")
    assert kinds(report) == [("damaged", HDD)]
    assert "f0" in report["findings"][0]["message"]
    assert kinds(audit(world, "--deep")) == [("damaged", HDD)]  # looking changed nothing


def forget_a_bit(world: World, snapshot: Snapshot, path: Path) -> None:
    """Change a byte, and make the manifest believe that nobody did: a test cannot set a ctime back."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with Manifest.open(world.roots[HDD] / ".tierd" / "manifests" / f"{snapshot.key}.db") as manifest:
        manifest.execute(
            "UPDATE entry SET copy_ctime_ns = ? WHERE path = ?", (path.stat().st_ctime_ns, os.fsencode(path.name))
        )
        manifest.commit()


def test_a_tier_that_cannot_be_reached_is_a_finding_and_the_others_are_looked_at(
    world: World, seaweed: Seaweed
) -> None:
    everywhere(world)
    (world.roots[HDD] / "ds" / "v1" / "f0").write_bytes(b"other")
    seaweed.kill()
    try:
        result = call(world, "audit", "--json")
    finally:
        seaweed.start()
    assert result.exit_code == 1
    assert kinds(json.loads(result.stdout)) == [("changed", HDD), ("unreadable", CLOUD)]


# -- what the catalog does not know ---------------------------------------------------------------------------------


def test_copies_that_the_catalog_does_not_know_are_listed_and_never_swept(world: World) -> None:
    snapshot = everywhere(world)
    keys, trees = world.keys(), sorted(os.listdir(world.roots[HDD] / "ds"))
    lose_catalog(world)
    world._open()
    report = audit(world, "--sweep", "--older-than", "0s")
    assert kinds(report) == [("unknown", HDD), ("unknown", CLOUD)]
    assert all("rebuild" in f["hint"] for f in report["findings"])
    assert world.keys() == keys
    assert sorted(os.listdir(world.roots[HDD] / "ds")) == trees
    assert snapshot.path.is_dir()


def test_what_was_kept_for_people_is_listed_and_never_swept(world: World) -> None:
    kept = world.roots[HDD] / ".tierd" / "kept" / "0123456789abcdef.fedcba9876543210"
    kept.mkdir(parents=True)
    (kept / "precious").write_bytes(bytes(1000))
    report = audit(world, "--sweep", "--older-than", "0s")
    assert [(f["kind"], f["size_bytes"]) for f in report["findings"]] == [("kept", 1000)]
    assert (kept / "precious").exists()


# -- litter ----------------------------------------------------------------------------------------------------------


def interrupted(world: World, name: str = "v9") -> None:
    """An upload whose worker and catalog are gone for good."""
    snapshot = world.make(name, files=20)
    world.order(snapshot, TransferKind.MIGRATE, source=FLASH, destination=CLOUD)
    world.step(trap=Trap(step="to verifying"))


def test_an_upload_of_this_catalog_is_no_litter_while_its_transfer_is_live(world: World) -> None:
    interrupted(world)
    report = audit(world, "--sweep", "--older-than", "0s")
    assert kinds(report) == []
    assert report["removed"] == []
    assert world.keys()


def test_an_upload_of_an_unknown_machine_is_litter_only_when_it_is_old(world: World) -> None:
    interrupted(world)
    lose_catalog(world)
    world._open()
    assert world.s3 is not None
    for name in os.listdir(world.s3.state / "staging"):  # nor has this machine its journal
        (world.s3.state / "staging" / name).rename(world.base / name)
    assert kinds(audit(world, "--sweep")) == []
    assert world.keys()
    report = audit(world, "--older-than", "0s")
    assert kinds(report) == [("litter", CLOUD)]
    assert report["findings"][0]["size_bytes"] > 20 * 3000
    assert world.keys()
    report = audit(world, "--sweep", "--older-than", "0s")
    assert kinds(report) == []
    assert report["removed_bytes"] > 20 * 3000
    assert world.keys() == []


def test_stale_multipart_uploads_are_aborted(world: World) -> None:
    key = "ds/v1/0123456789abcdef/files/large"
    world.bucket.begin(key)
    assert kinds(audit(world, "--sweep")) == []
    report = audit(world, "--sweep", "--older-than", "0s")
    assert kinds(report) == []
    assert [f["where"].startswith(key) for f in report["removed"]] == [True]
    assert list(world.bucket.uploads("")) == []


def test_markers_of_copies_that_do_not_exist_are_removed_and_those_of_others_stay(world: World) -> None:
    everywhere(world)
    content = ".tierd/contents/5-1000/00ff/ds/gone/0123456789abcdef"
    copy = world.catalog.placements(world.catalog.snapshots()[0].id)[0].location
    user = f"{copy}/used-by/ds/gone/0123456789abcdef"
    before = sorted(o.key for o in world.bucket.list(""))
    for key in (content, user):
        world.bucket.put(key, b"")
    report = audit(world, "--sweep", "--older-than", "0s")
    assert kinds(report) == []
    assert sorted(f["where"] for f in report["removed"]) == sorted([content, user])
    assert sorted(o.key for o in world.bucket.list("")) == before


def test_bytes_that_another_copy_shares_are_no_litter(world: World) -> None:
    """Two snapshots of one content share the objects of the first; then the first one's copy is given up."""
    first = world.make("v1")
    subprocess.run(["cp", "-a", first.path, world.data / "v2"], check=True)
    second = world.add("v2")
    go(world, first, TransferKind.MIGRATE, FLASH, CLOUD)
    go(world, second, TransferKind.MIGRATE, FLASH, CLOUD)
    copy = next(p.location for p in world.catalog.placements(first.id) if p.tier == CLOUD)
    (first.path / "new").write_bytes(b"changed: the copy of v1 is replaced")
    go(world, first, TransferKind.MIGRATE, FLASH, CLOUD)
    left = world.keys(f"{copy}/")
    assert f"{copy}/manifest.json" not in left
    assert f"{copy}/packs/00001.tar" in left
    report = audit(world, "--sweep", "--deep", "--older-than", "0s")
    assert kinds(report) == []
    assert world.keys(f"{copy}/") == left


def test_litter_on_disks_is_listed_with_its_size_and_swept(world: World) -> None:
    for place in ("staging", "trash"):
        litter = world.roots[HDD] / ".tierd" / place / "0123456789abcdef" / "tree"
        litter.mkdir(parents=True)
        (litter / "file").write_bytes(bytes(2000))
    (world.roots[FLASH] / ".tierd" / "aside" / "0123456789abcdef").symlink_to("/nowhere")
    assert kinds(audit(world)) == [("litter", FLASH), ("litter", HDD), ("litter", HDD)]
    report = audit(world, "--sweep")
    assert kinds(report) == []
    assert report["removed_bytes"] == 4000
    assert world.litter() == []


def test_the_table_names_what_was_removed_and_how_much(world: World) -> None:
    litter = world.roots[HDD] / ".tierd" / "trash" / "0123456789abcdef"
    litter.write_bytes(bytes(2048))
    found = call(world, "audit")
    assert found.exit_code == 1
    assert "litter" in found.stdout
    assert ".tierd/trash/0123456789abcdef" in found.stdout
    assert "--sweep" in found.stderr
    swept = call(world, "audit", "--sweep")
    assert swept.exit_code == 0
    assert "2 KiB" in swept.stderr
    assert "all is well" in swept.stderr
    assert not litter.exists()


def test_names_that_nothing_has_and_contradictions_are_refused(world: World) -> None:
    world.make("v1")
    assert call(world, "audit", "ds/v2").exit_code == 4
    assert call(world, "audit", "nothing").exit_code == 4
    assert call(world, "audit", "ds/v1", "--sweep").exit_code == 2


def test_a_part_is_litter_only_when_nobody_holds_the_snapshot(world: World) -> None:
    snapshot = everywhere(world)
    go(world, snapshot, TransferKind.MIGRATE, FLASH, HDD, release=True)
    lease = world.catalog.grant_lease(snapshot_id=snapshot.id, holder="job", ttl=timedelta(days=900), now=world.now)
    order = world.order(snapshot, TransferKind.RECALL, source=HDD, only=("f0", "sub"))
    assert is_done(world.run(order))
    (part,) = world.catalog.parts()
    path = world.roots[FLASH] / part.location
    assert audit(world, "--sweep", "--deep")["findings"] == []
    assert (path / "f0").exists()
    world.catalog.end_lease(lease.id, world.now)
    world.catalog.drop_parts(world.now)
    assert kinds(audit(world)) == [("litter", FLASH)]
    audit(world, "--sweep")
    assert not path.exists()
    assert audit(world)["findings"] == []
