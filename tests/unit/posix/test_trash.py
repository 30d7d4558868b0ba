"""Deleting trees that were authorised for deletion."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tierd.errors import Interrupted, StorageError
from tierd.storage.posix.trash import delete_tree


@pytest.fixture
def trash(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "trash").mkdir()
    fd = os.open(tmp_path / "trash", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def _nothing() -> None:
    pass


def test_a_tree_with_everything_in_it_goes(trash: int, tmp_path: Path) -> None:
    root = tmp_path / "trash" / "t"
    (root / "a" / "b" / "c").mkdir(parents=True)
    (root / "a" / "f\n\xff").write_text("x")
    (root / "a" / "b" / "link").symlink_to("/etc")
    os.mkfifo(root / "fifo")
    os.mkdir(os.fsencode(root) + b"/\xff\xfe")
    delete_tree(trash, b"t", _nothing)
    assert os.listdir(trash) == []
    assert os.path.isdir("/etc")


def test_links_are_removed_and_never_followed(trash: int, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("x")
    root = tmp_path / "trash" / "t"
    root.mkdir()
    (root / "dir").symlink_to(outside)
    delete_tree(trash, b"t", _nothing)
    assert (outside / "keep").read_text() == "x"
    (tmp_path / "trash" / "l").symlink_to(outside)
    delete_tree(trash, b"l", _nothing)
    assert (outside / "keep").exists()


def test_a_tree_deeper_than_any_path_may_be_long_goes(trash: int) -> None:
    fd = os.dup(trash)
    os.mkdir("t", dir_fd=trash)
    name = "t"
    for _ in range(3000):
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd, name = inner, "d" * 50
        os.mkdir(name, dir_fd=fd)
    os.close(fd)
    delete_tree(trash, b"t", _nothing)
    assert os.listdir(trash) == []


def test_it_goes_on_after_an_interruption(trash: int, tmp_path: Path) -> None:
    root = tmp_path / "trash" / "t"
    for number in range(20):
        (root / f"d{number}" / "e").mkdir(parents=True)
        (root / f"d{number}" / "e" / "f").write_text("x")
    calls = 0

    def stop_later() -> None:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise Interrupted("stop")

    with pytest.raises(Interrupted):
        delete_tree(trash, b"t", stop_later)
    for name in sorted(os.listdir(trash)):
        delete_tree(trash, os.fsencode(name), _nothing)
    assert os.listdir(trash) == []


def test_somebody_who_keeps_creating_names_does_not_keep_it_for_ever(trash: int, tmp_path: Path) -> None:
    root = tmp_path / "trash" / "t"
    root.mkdir()
    made = 0

    def create() -> None:  # called before each directory is emptied, and between
        nonlocal made
        made += 1
        if root.exists():
            (root / f"new{made}").mkdir()

    (root / "a").mkdir()
    with pytest.raises(StorageError, match=r"(?i)not empty"):
        delete_tree(trash, b"t", create)
