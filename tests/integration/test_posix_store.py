"""The posix driver by itself: a call that dies anywhere is finished by the next one, and leaves nothing behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from tests.dying import dies_before
from tests.world import HDD, World, digest_tree
from tierd.storage.base import CopyLimits, Site, Tree
from tierd.storage.control import Unlimited
from tierd.storage.posix.store import PosixStorage


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture
def store(world: World) -> PosixStorage:
    found = world.store(HDD)
    assert isinstance(found, PosixStorage)
    found.attach()
    (found.root / "ds").mkdir()
    return found


def _site(name: str) -> Site:
    return Site(snapshot_key=f"key-{name}", dataset="ds", name=name, location=None, home_path=None)


def _stage(store: PosixStorage, tree: Path, key: str, site: Site) -> None:
    fd = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        store.receive(Tree(fd), key, site, CopyLimits(processes=1), Unlimited()).close()
    finally:
        os.close(fd)
    store.verify(key, "read", Unlimited()).close()


def _litter(store: PosixStorage) -> list[str]:
    return [str(path) for place in ("staging", "trash") for path in (store.private / place).iterdir()]


def test_publish_dies_before_any_of_its_steps_and_is_repeated(world: World, store: PosixStorage) -> None:
    """A stale copy is replaced, so that every branch of it is walked."""
    for step in range(1, 400):
        name = f"v{step}"
        tree, site = world.make(name, files=2).path, _site(name)
        _stage(store, tree, f"{step:08x}a", site)
        old = replace(site, location=store.publish(f"{step:08x}a", site).location)
        (tree / "f1").write_bytes(b"changed")
        key = f"{step:08x}b"
        _stage(store, tree, key, old)
        is_dead = dies_before(step, partial(store.publish, key, old))
        new = store.publish(key, old)
        assert digest_tree(store.root / str(new.location)) == digest_tree(tree)
        store.empty_trash(key, Unlimited())
        assert _litter(store) == []
        if not is_dead:
            return
    pytest.fail("publish never came to its end")


def test_discard_dies_before_any_of_its_steps_and_is_repeated(world: World, store: PosixStorage) -> None:
    tree, site = world.make("v1", files=3).path, _site("v1")
    for step in range(1, 400):
        key = f"{step:016x}"
        _stage(store, tree, key, site)
        is_dead = dies_before(step, partial(store.discard, key))
        store.discard(key)
        assert _litter(store) == []
        if not is_dead:
            return
    pytest.fail("discard never came to its end")
