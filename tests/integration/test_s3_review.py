"""Bad luck and bad intent in the bucket: copies that share bytes, crashes between two requests, forged manifests."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.dying import dies_before
from tests.seaweed import BUCKET, Seaweed
from tests.world import CLOUD, World, digest_tree, is_done, s3_settings
from tierd.errors import Conflict, Corrupt, Interrupted, TierdError
from tierd.model.dataset import Snapshot
from tierd.model.transfer import TransferKind
from tierd.storage.base import CopyLimits, Published, Site, Tree
from tierd.storage.control import Unlimited
from tierd.storage.manifest import Manifest
from tierd.storage.s3 import layout
from tierd.storage.s3.commit import read_commit, write_entries
from tierd.storage.s3.store import S3Storage


@pytest.fixture
def world(tmp_path: Path, seaweed: Seaweed) -> Iterator[World]:
    world = World(tmp_path, s3=s3_settings(tmp_path, seaweed.endpoint))
    yield world
    world.close()


@pytest.fixture
def store(world: World) -> S3Storage:
    found = world.store(CLOUD)
    assert isinstance(found, S3Storage)
    return found


def _twin(world: World, of: Snapshot, name: str) -> Snapshot:
    subprocess.run(["cp", "-a", str(of.path), str(world.data / name)], check=True)
    return world.add(name)


def _key(number: int) -> str:
    return f"{number:016x}"


def _site(name: str, location: str | None = None) -> Site:
    return Site(snapshot_key=f"key-{name}", dataset="ds", name=name, location=location, home_path=None)


class _Until(Unlimited):
    """A control that stops the work at a named step, or when it takes too long."""

    def __init__(self, step: str = "-", seconds: float = 60.0) -> None:
        super().__init__()
        self.step, self.deadline = step, time.monotonic() + seconds

    def checkpoint(self, name: str = "") -> None:
        if name == self.step or time.monotonic() > self.deadline:
            raise Interrupted("stop")


def _receive(store: S3Storage, tree: Path, key: str, site: Site, control: Unlimited | None = None) -> None:
    fd = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        store.receive(Tree(fd), key, site, CopyLimits(), control or _Until()).close()
    finally:
        os.close(fd)


def _stage(store: S3Storage, tree: Path, key: str, site: Site) -> None:
    _receive(store, tree, key, site)
    store.verify(key, "read", Unlimited()).close()


def _put(store: S3Storage, tree: Path, key: str, site: Site) -> Published:
    _stage(store, tree, key, site)
    return store.publish(key, site)


def _remove(store: S3Storage, key: str, site: Site) -> None:
    store.to_trash(key, site)
    store.empty_trash(key, Unlimited())


def _check(store: S3Storage, site: Site) -> None:
    """The copy is whole: by what is local, and by what is in the bucket alone."""
    for _ in range(2):
        manifest = store.manifest(site)
        assert manifest is not None
        with contextlib.closing(manifest):
            store.prove(site, manifest, leases=None, control=Unlimited())
        shutil.rmtree(store.settings.state / "manifests")
        (store.settings.state / "manifests").mkdir()


def _before(store: S3Storage, is_it: Callable[[str, str], bool], action: Callable[[], object]) -> None:
    """Do something once, just before the first request (method, URL) of a kind is sent."""
    done: list[bool] = []

    def look(request: Any, **_: object) -> None:
        if not done and is_it(request.method, request.url):
            done.append(True)
            action()

    store.bucket._client.meta.events.register("before-send.s3", look)


def _crash_at(store: S3Storage, number: int, work: Callable[[S3Storage], object]) -> bool:
    """Do it in a process of its own that dies just before its request of this number; whether it died."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            mine, sent = S3Storage(store.settings, store.identity), [0]

            def count(**_: object) -> None:
                sent[0] += 1
                if sent[0] == number:
                    os._exit(9)

            mine.bucket._client.meta.events.register("before-send.s3", count)
            work(mine)
            status = 0
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 9)
    return code == 9


# -- copies that share their bytes ---------------------------------------------------------------------------------


def test_content_whose_first_copy_is_gone_can_still_be_migrated(world: World) -> None:
    first = world.make("v1", files=20)
    second, third = _twin(world, first, "v2"), _twin(world, first, "v3")
    before = digest_tree(third.path)
    assert is_done(world.migrate(first))
    assert is_done(world.release(second))
    (first.path / "f0").write_bytes(b"changed")
    assert is_done(world.migrate(first))
    assert is_done(world.release(third))
    assert is_done(world.recall(third))
    assert is_done(world.recall(second))
    assert digest_tree(third.path) == digest_tree(second.path) == before


def test_the_first_copy_is_deleted_just_before_another_that_shares_it_exists(world: World, store: S3Storage) -> None:
    tree = world.make("v1", files=20).path
    owner = _site("v1", _put(store, tree, _key(1), _site("v1")).location)
    _stage(store, tree, _key(2), _site("v2"))
    remover = S3Storage(store.settings, store.identity)
    _before(
        store,
        lambda method, url: method == "PUT" and f"{_key(2)}/manifest.json" in url,
        lambda: _remove(remover, _key(9), owner),
    )
    try:
        published = store.publish(_key(2), _site("v2"))
    except Conflict:
        assert read_commit(store.bucket, f"ds/v2/{_key(2)}") is None
        published = _put(S3Storage(store.settings, store.identity), tree, _key(2), _site("v2"))
    _check(store, _site("v2", published.location))


def test_sharing_survives_a_crash_before_any_request_of_publish(world: World, store: S3Storage) -> None:
    """Then the first copy goes, and a third one that shares it too: what is published is whole, and stays so."""
    tree = world.make("v1", files=20).path
    for number in range(1, 40):
        keys = [_key(number * 10 + n) for n in range(4)]
        one, two, three = (f"s{number}-{n}" for n in (1, 2, 3))
        (tree / "f0").write_bytes(b"%d" % number)
        owner = _site(one, _put(store, tree, keys[0], _site(one)).location)
        third = _site(three, _put(store, tree, keys[2], _site(three)).location)
        _stage(store, tree, keys[1], _site(two))
        is_dead = _crash_at(store, number, partial(S3Storage.publish, transfer_key=keys[1], site=_site(two)))
        _remove(store, keys[0], owner)
        try:
            published = store.publish(keys[1], _site(two))
        except Conflict:
            published = _put(store, tree, keys[1], _site(two))
        _remove(store, keys[2], third)
        _check(store, _site(two, published.location))
        _remove(store, keys[1], _site(two, published.location))
        assert world.keys() == []
        if not is_dead:
            return
    pytest.fail("publish never came to its end")


def test_a_snapshot_written_to_while_its_twin_is_looked_for_is_migrated_in_the_end(world: World) -> None:
    first = world.make("v1", files=20)
    second = _twin(world, first, "v2")
    assert is_done(world.migrate(first))
    written: list[bool] = []

    def write(message: object) -> None:
        if getattr(message, "step", "") == "prove" and not written:
            written.append(True)
            (second.path / "f0").write_bytes(b"changed")

    world.attempts.hook = staticmethod(write)  # type: ignore[attr-defined]
    transfer = world.run(world.order(second, TransferKind.MIGRATE, release=True), attempts=3)
    assert written
    assert is_done(transfer)
    assert is_done(world.recall(second))
    assert (second.path / "f0").read_bytes() == b"changed"


def test_a_search_for_the_same_content_that_was_stopped_leaves_nothing_that_is_believed(
    world: World, store: S3Storage
) -> None:
    """Of the same shape, not the same content; with files that need several parts."""
    for name in ("v1", "v2"):
        (world.data / name).mkdir()
        for number in range(3):
            (world.data / name / f"large{number}").write_bytes(os.urandom(11 << 20))
            (world.data / name / f"small{number}").write_bytes(os.urandom(3000))
    _put(store, world.data / "v1", _key(1), _site("v1"))
    with pytest.raises(Interrupted):
        _receive(store, world.data / "v2", _key(2), _site("v2"), _Until("copy: directories"))
    published = _put(store, world.data / "v2", _key(2), _site("v2"))
    _check(store, _site("v2", published.location))


def test_equal_content_of_which_a_copy_is_damaged_is_not_shared_for_ever(world: World, seaweed: Seaweed) -> None:
    first = world.make("v1", files=20)
    second = _twin(world, first, "v2")
    assert is_done(world.migrate(first))
    (pack,) = (key for key in world.keys("ds/v1/") if key.endswith("00001.tar"))
    seaweed.client().delete_object(Bucket=BUCKET, Key=world.bucket.key(pack))
    before = digest_tree(second.path)
    assert is_done(world.finish(world.order(second, TransferKind.MIGRATE, release=True)))
    assert is_done(world.recall(second))
    assert digest_tree(second.path) == before


# -- what was published -------------------------------------------------------------------------------------------


def test_publish_dies_before_any_of_its_requests_and_is_repeated(world: World, store: S3Storage) -> None:
    for number in range(1, 40):
        tree = world.make(f"v{number}", files=8).path
        old = _site(f"v{number}", _put(store, tree, _key(number * 2), _site(f"v{number}")).location)
        (tree / "f1").write_bytes(b"changed")
        key = _key(number * 2 + 1)
        _stage(store, tree, key, old)
        is_dead = _crash_at(store, number, partial(S3Storage.publish, transfer_key=key, site=old))
        new = replace(old, location=store.publish(key, old).location)
        assert store.publish(key, old).location == new.location
        store.empty_trash(key, Unlimited())
        _check(store, new)
        assert {k.split("/")[2] for k in world.keys(f"ds/v{number}/")} == {key}
        if not is_dead:
            return
    pytest.fail("publish never came to its end")


def test_publish_dies_just_before_its_end_and_leaves_nothing_of_its_work_behind(world: World, store: S3Storage) -> None:
    site, key = _site("v1"), _key(1)
    _stage(store, world.make("v1", files=3).path, key, site)
    again = S3Storage(store.settings, store.identity)
    assert dies_before(1, partial(again.publish, key, site), at=("shutil.rmtree",))
    published = store.publish(key, site)
    _check(store, _site("v1", published.location))
    assert list((store.settings.state / "staging").iterdir()) == []


def test_a_copy_that_exists_already_is_not_written_over(world: World, store: S3Storage) -> None:
    """The worker died when its copy was in place; another one shares that; then it begins from its queue again."""
    tree, twin = world.make("v1", files=20).path, world.data / "v2"
    (tree / "large").write_bytes(os.urandom(6 << 20))
    subprocess.run(["cp", "-a", str(tree), str(twin)], check=True)
    _put(store, tree, _key(1), _site("v1"))
    second = _site("v2", _put(store, twin, _key(2), _site("v2")).location)
    (tree / "large").write_bytes(os.urandom(6 << 20))
    _put(store, tree, _key(1), _site("v1"))
    _check(store, second)


# -- the copy that a release relies on -------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["manifest.json", "entries.db.zst", "packs/00001.tar"])
def test_a_release_does_not_rely_on_a_copy_of_which_an_object_is_lost(
    world: World, seaweed: Seaweed, lost: str
) -> None:
    snapshot = world.make(files=20)
    before = digest_tree(snapshot.path)
    assert is_done(world.migrate(snapshot))
    (key,) = (key for key in world.keys("ds/") if key.endswith(lost))
    seaweed.client().delete_object(Bucket=BUCKET, Key=world.bucket.key(key))
    assert is_done(world.finish(world.order(snapshot, TransferKind.MIGRATE, release=True)))
    shutil.rmtree(world.bucket.settings.state / "manifests")  # only what is in the bucket counts
    assert is_done(world.recall(snapshot))
    assert digest_tree(snapshot.path) == before
    assert world.litter() == []


def test_a_release_does_not_rely_on_shared_bytes_without_the_marker_that_keeps_them(
    world: World, seaweed: Seaweed
) -> None:
    first = world.make("v1", files=20)
    second = _twin(world, first, "v2")
    before = digest_tree(second.path)
    assert is_done(world.migrate(first))
    assert is_done(world.migrate(second))
    (marker,) = (key for key in world.keys("ds/") if "/used-by/" in key)
    seaweed.client().delete_object(Bucket=BUCKET, Key=world.bucket.key(marker))
    assert is_done(world.finish(world.order(second, TransferKind.MIGRATE, release=True)))
    (first.path / "f0").write_bytes(b"changed")
    assert is_done(world.migrate(first))
    assert is_done(world.recall(second))
    assert digest_tree(second.path) == before


@pytest.mark.parametrize("damage", ["cut off", "deleted"])
def test_a_stale_copy_with_a_damaged_commit_object_is_replaced(world: World, seaweed: Seaweed, damage: str) -> None:
    snapshot = world.make(files=20)
    assert is_done(world.migrate(snapshot))
    (key,) = (key for key in world.keys("ds/") if key.endswith("manifest.json"))
    if damage == "deleted":
        seaweed.client().delete_object(Bucket=BUCKET, Key=world.bucket.key(key))
    else:
        seaweed.client().put_object(Bucket=BUCKET, Key=world.bucket.key(key), Body=b"{")
    (snapshot.path / "f0").write_bytes(b"changed")
    assert is_done(world.migrate(snapshot))
    assert world.litter() == []


# -- a manifest that somebody else wrote into the bucket --------------------------------------------------------------


def _forge(world: World, store: S3Storage, snapshot: Snapshot, change: Callable[[Manifest], None]) -> None:
    """Change the manifest of a copy in the bucket so that everything fits together, and lose the local one."""
    (placement,) = (p for p in world.catalog.placements(snapshot.id) if p.tier == CLOUD)
    location = str(placement.location)
    local = store.settings.state / "manifests" / f"{snapshot.key}.db"
    commit = read_commit(store.bucket, location)
    assert commit is not None
    with Manifest.open(local) as manifest:
        change(manifest)
        size, digest = write_entries(store.bucket, manifest, location, world.base)
        commit = replace(commit, content_id=manifest.content_id(), entries_size=size, entries_blake3=digest)
    store.bucket.put(layout.commit_key(location), commit.to_json(), storage_class="STANDARD")
    local.unlink()


@pytest.mark.parametrize(
    "path",
    [b"../escaped", b"/escaped", b"sub/../../escaped", b"sub//escaped", b"..", b"sub/.", b"sub/nul\0", b"link/x"],
)
def test_a_forged_path_writes_nothing_outside(world: World, store: S3Storage, path: bytes) -> None:
    snapshot = world.make(files=3)
    (snapshot.path / "link").unlink()
    (snapshot.path / "link").symlink_to(world.base)
    assert is_done(world.release(snapshot))

    def change(manifest: Manifest) -> None:
        manifest.execute("UPDATE entry SET path = ? WHERE path = ?", (path, b"f0"))
        manifest.execute("UPDATE piece SET path = ? WHERE path = ?", (path, b"f0"))
        manifest.set_meta({"content_id": None})

    _forge(world, store, snapshot, change)
    outside = {*world.base.rglob("*escaped*"), *world.base.iterdir()}
    transfer = world.recall(snapshot)
    assert not is_done(transfer)
    assert transfer.error_code == ("source_changed" if path == b"link/x" else "corrupt")
    assert {*world.base.rglob("*escaped*"), *world.base.iterdir()} == outside
    assert not snapshot.path.exists()


def test_a_forged_kind_of_entry_is_an_error_and_no_crash(world: World, store: S3Storage) -> None:
    snapshot = world.make(files=3)
    assert is_done(world.release(snapshot))

    def change(manifest: Manifest) -> None:
        manifest.execute("UPDATE entry SET type = 'x' WHERE path = ?", (b"link",))
        manifest.set_meta({"content_id": None})

    _forge(world, store, snapshot, change)
    assert world.recall(snapshot).error_code == "corrupt"


def test_entries_that_lie_about_their_content_id_are_refused(world: World, store: S3Storage) -> None:
    snapshot = world.make(files=3)
    assert is_done(world.release(snapshot))

    def change(manifest: Manifest) -> None:
        assert manifest.meta.get("content_id")
        manifest.execute("UPDATE entry SET mode = 2541 WHERE path = ?", (b"f0",))

    _forge(world, store, snapshot, change)
    with pytest.raises(Corrupt):
        store.manifest(replace(_site("v1"), snapshot_key=snapshot.key, location=_location(world, snapshot)))


def test_another_content_in_the_place_of_a_copy_is_not_taken_for_it(world: World, store: S3Storage) -> None:
    """Whoever can write to the bucket must not be able to put a set-user-ID program, or anything, into a snapshot."""
    snapshot = world.make(files=3)
    assert is_done(world.release(snapshot))

    def change(manifest: Manifest) -> None:
        manifest.execute("UPDATE entry SET mode = 2541, uid = 0 WHERE path = ?", (b"f0",))
        manifest.set_meta({"content_id": None})

    _forge(world, store, snapshot, change)
    transfer = world.recall(snapshot)
    assert transfer.error_code == "corrupt"
    assert not snapshot.path.exists()


def _location(world: World, snapshot: Snapshot) -> str:
    return next(str(p.location) for p in world.catalog.placements(snapshot.id) if p.tier == CLOUD)


# -- never for ever ---------------------------------------------------------------------------------------------------


def test_parts_larger_than_half_of_the_memory_do_not_wait_for_ever(tmp_path: Path, seaweed: Seaweed) -> None:
    part = 100 << 20
    settings = s3_settings(
        tmp_path, seaweed.endpoint, part_bytes=part, pack_bytes=1 << 30, pack_up_to=part, verify="store"
    )
    world = World(tmp_path, s3=settings)
    try:
        store, tree = world.store(CLOUD), world.make(files=1).path
        assert isinstance(store, S3Storage)
        for name in ("a", "b"):
            (tree / name).write_bytes(os.urandom(60 << 20))
        _receive(store, tree, _key(1), _site("v1"), _Until(seconds=40))
    finally:
        world.close()


def test_a_file_that_became_a_directory_between_two_attempts(world: World, store: S3Storage) -> None:
    tree = world.make(files=3).path
    (tree / "thing").write_bytes(os.urandom(6 << 20))
    _stage(store, tree, _key(1), _site("v1"))
    (tree / "thing").unlink()
    (tree / "thing").mkdir()
    (tree / "thing" / "part").write_bytes(os.urandom(6 << 20))
    with contextlib.suppress(TierdError):
        _stage(store, tree, _key(1), _site("v1"))
    published = _put(store, tree, _key(1), _site("v1"))
    _check(store, _site("v1", published.location))
