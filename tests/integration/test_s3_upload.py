"""An upload that stops between recording what a pack holds and the pack's arrival at the store."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.faulty_proxy import FaultyProxy
from tests.seaweed import Seaweed
from tests.world import digest_tree, s3_settings
from tierd.errors import Interrupted
from tierd.storage.base import CopyLimits, Site, Tree
from tierd.storage.control import Control, Unlimited
from tierd.storage.manifest import Manifest
from tierd.storage.s3.bucket import Bucket
from tierd.storage.s3.identity import establish_identity
from tierd.storage.s3.store import S3Storage
from tierd.storage.s3.unpack import S3Copy

KEY, SITE = "0123456789abcdef", Site(snapshot_key="s", dataset="ds", name="v1", location=None, home_path=None)
_WITHOUT_OBJECT = "SELECT count(*) FROM piece WHERE object NOT IN (SELECT number FROM object)"


class Stopping:
    """A control that tells of the first progress, and stops when all files were read."""

    def __init__(self, on_progress: Callable[[], None]) -> None:
        self._on_progress, self._has_begun = on_progress, False

    def checkpoint(self, name: str = "") -> None:
        if name == "copy: directories":
            raise Interrupted("stop")

    def progress(self, *, bytes: int, files: int) -> None:  # noqa: A002  the protocol's word
        if not self._has_begun:
            self._has_begun = True
            self._on_progress()


def make(source: Path) -> None:
    (source / "sub").mkdir(parents=True)
    for number in range(24):
        (source / "sub" / f"f{number:02}").write_bytes(os.urandom(1_000_000))
    os.link(source / "sub" / "f03", source / "second-name")
    (source / "link").symlink_to("sub")


def receive(storage: S3Storage, source: Path, control: Control) -> None:
    fd = os.open(source, os.O_RDONLY | os.O_DIRECTORY)
    try:
        storage.receive(Tree(fd), KEY, SITE, CopyLimits(), control).close()
    finally:
        os.close(fd)


def change_nothing(source: Path) -> None:
    pass


def remove_some(source: Path) -> None:
    (source / "sub" / "f00").unlink()
    (source / "second-name").unlink()
    (source / "link").unlink()


def remove_nearly_all(source: Path) -> None:
    for path in (source / "sub").iterdir():
        path.unlink()


@pytest.mark.parametrize("change", [change_nothing, remove_some, remove_nearly_all])
def test_what_was_recorded_of_packs_that_never_arrived_does_not_count(
    tmp_path: Path, seaweed: Seaweed, change: Callable[[Path], None]
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    make(source)
    with FaultyProxy(seaweed.s3) as proxy:
        settings = s3_settings(tmp_path, proxy.endpoint)
        identity = establish_identity(Bucket(settings), "cloud", known=None, now=datetime.now(UTC))
        storage = S3Storage(settings, identity)
        storage.attach()
        with pytest.raises(Interrupted):
            receive(storage, source, Stopping(proxy.down))
        with contextlib.closing(Manifest.open(settings.state / "staging" / KEY / "manifest.db")) as staged:
            assert staged.execute(_WITHOUT_OBJECT) != [(0,)]
        proxy.up()
        change(source)
        receive(storage, source, Unlimited())
        storage.verify(KEY, "read", Unlimited()).close()
        published = storage.publish(KEY, SITE)
        # Another machine knows only what the bucket has; it compares the content id with the entries.
        elsewhere = S3Storage(replace(settings, state=tmp_path / "other"), identity)
        elsewhere.attach()
        with elsewhere.reading(replace(SITE, location=published.location)) as copy:
            assert isinstance(copy, S3Copy)
            target.mkdir()
            copy.unpack(target, CopyLimits(), Unlimited()).close()
    assert digest_tree(target / "tree") == digest_tree(source)


class Copying:
    """A control that copies a directory when so many bytes are told of: what a crash at that moment would leave."""

    def __init__(self, size: int, directory: Path, to: Path) -> None:
        self._left, self._directory, self._to = size, directory, to

    def checkpoint(self, name: str = "") -> None:
        pass

    def progress(self, *, bytes: int, files: int) -> None:  # noqa: A002  the protocol's word
        self._left -= bytes
        if self._left <= 0 and not self._to.exists():
            shutil.copytree(self._directory, self._to)


def test_a_large_file_that_was_completed_but_not_recorded_is_not_sent_again(tmp_path: Path, seaweed: Seaweed) -> None:
    source, size = tmp_path / "source", 30 << 20
    source.mkdir()
    (source / "large").write_bytes(os.urandom(size))
    settings = s3_settings(tmp_path, seaweed.endpoint)
    storage = S3Storage(settings, establish_identity(Bucket(settings), "cloud", known=None, now=datetime.now(UTC)))
    storage.attach()
    staging, crashed = settings.state / "staging" / KEY, tmp_path / "crashed"
    receive(storage, source, Copying(size, staging, crashed))
    shutil.rmtree(staging)
    crashed.rename(staging)
    before = sum(count.bytes_up for count in storage.asked().values())
    receive(storage, source, Unlimited())
    assert sum(count.bytes_up for count in storage.asked().values()) - before < 1 << 20
    storage.verify(KEY, "read", Unlimited()).close()
    assert storage.publish(KEY, SITE).location is not None


def test_parts_of_another_size_than_configured_now_are_sent_again(tmp_path: Path, seaweed: Seaweed) -> None:
    """Also where the object was completed: its upload takes no parts any more."""
    source, size = tmp_path / "source", 30 << 20
    source.mkdir()
    (source / "large").write_bytes(os.urandom(size))
    settings = s3_settings(tmp_path, seaweed.endpoint)
    identity = establish_identity(Bucket(settings), "cloud", known=None, now=datetime.now(UTC))
    storage = S3Storage(settings, identity)
    storage.attach()
    staging, crashed = settings.state / "staging" / KEY, tmp_path / "crashed"
    receive(storage, source, Copying(size, staging, crashed))
    shutil.rmtree(staging)
    crashed.rename(staging)
    storage = S3Storage(replace(settings, part_bytes=12 << 20), identity)
    receive(storage, source, Unlimited())
    storage.verify(KEY, "read", Unlimited()).close()
    assert storage.publish(KEY, SITE).location is not None
