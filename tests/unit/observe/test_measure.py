"""Measuring a tree."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tierd.errors import Interrupted
from tierd.model.observation import Measure
from tierd.observe.measure import keeps_atime, measure

HOUR_NS = 3600 * 10**9


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "v1"
    (root / "a" / "b").mkdir(parents=True)
    (root / "one").write_bytes(b"x" * 1000)
    (root / "a" / "two").write_bytes(b"y" * 500)
    (root / "a" / "link").symlink_to("/nowhere")
    return root


@pytest.fixture
def fds() -> Iterator[list[int]]:
    opened: list[int] = []
    yield opened
    for fd in opened:
        os.close(fd)


def look(path: Path, *, atime: bool = True, now: datetime | None = None) -> Measure:
    fd = os.open(path, os.O_RDONLY)
    try:
        return measure(fd, keeps_atime=atime, now=now)
    finally:
        os.close(fd)


def test_counts_files_entries_and_bytes(tree: Path) -> None:
    found = look(tree)
    assert (found.files, found.entries, found.size_bytes) == (2, 6, 1500)
    assert found.root_inode == tree.stat().st_ino
    assert found.problem is None


def test_an_empty_tree_has_one_entry_and_no_access_time(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert (found.files, found.entries, found.size_bytes, found.disk_bytes) == (0, 1, 0, 0)
    assert found.newest_access is None


def test_a_sparse_file_is_large_to_its_reader_and_small_on_disk(tmp_path: Path) -> None:
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(1 << 40)
    found = look(tmp_path)
    assert found.size_bytes == 1 << 40
    assert found.disk_bytes < 1 << 20


def test_a_hard_linked_file_counts_once(tree: Path) -> None:
    (tree / "a" / "b" / "again").hardlink_to(tree / "one")
    found = look(tree)
    assert (found.files, found.size_bytes) == (3, 1500)
    assert found.problem is None


def test_a_hard_link_that_leads_outside_is_a_problem(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").hardlink_to(tree / "a" / "two")
    assert look(tree).problem == "hard link leads outside the snapshot: a/two"


@pytest.mark.parametrize("target", ["../../outside", "b/../../../x", "../.././../v2/train"])
def test_a_relative_link_that_leads_outside_is_a_problem(tree: Path, target: str) -> None:
    (tree / "a" / "way").symlink_to(target)
    problem = look(tree).problem
    assert problem == "relative link leads outside the snapshot, and to nothing once it has moved: a/way"
    fd = os.open(tree, os.O_RDONLY)
    try:  # a tree that is away must be able to come home
        assert measure(fd, keeps_atime=True, is_at_home=False).problem is None
    finally:
        os.close(fd)


@pytest.mark.parametrize("target", ["../one", "..", "b/../../one", "../a/./b//", "/somewhere/else", "../nothing"])
def test_a_link_that_means_the_same_wherever_the_snapshot_is_is_none(tree: Path, target: str) -> None:
    (tree / "a" / "way").symlink_to(target)
    assert look(tree).problem is None


def test_a_socket_is_a_problem_and_is_named_safely(tree: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.fsencode(tree) + b"/so\nck\xff")
        assert look(tree).problem == r"a socket cannot be kept: so\nck\xff"


def test_an_unreadable_directory_is_a_problem(tree: Path, fds: list[int]) -> None:
    (tree / "a" / "b").chmod(0)
    fds.append(os.open(tree, os.O_RDONLY))
    own = os.geteuid()
    try:
        if own == 0:
            os.seteuid(65534)
        problem = measure(fds[0], keeps_atime=True).problem
    finally:
        os.seteuid(own)
    assert "a/b" in (problem or "")


def test_newest_change_is_the_newest_ctime_of_any_entry(tree: Path) -> None:
    before = look(tree).newest_change
    (tree / "a" / "link").unlink()
    after = look(tree).newest_change
    assert after > before
    expected = (tree / "a").stat().st_ctime_ns // 1000
    assert after == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=expected)


def test_an_mtime_in_the_future_does_not_keep_a_tree_unsettled_for_ever(tree: Path) -> None:
    far = 4_000_000_000
    os.utime(tree / "one", (far, far))
    assert look(tree).newest_change < datetime.fromtimestamp(far, UTC) - timedelta(days=1)


def test_newest_access_is_of_regular_files_only(tree: Path) -> None:
    at = 1_700_000_000 * 10**9 + 123_456_789
    for name, offset in (("one", 0), ("a/two", -HOUR_NS)):
        os.utime(tree / name, ns=(at + offset, at + offset))
    os.utime(tree / "a", ns=(at + HOUR_NS, at + HOUR_NS))
    assert look(tree).newest_access == datetime.fromtimestamp(1_700_000_000, UTC) + timedelta(microseconds=123_456)


def test_without_kept_access_times_none_is_made_up(tree: Path) -> None:
    assert look(tree, atime=False).newest_access is None


def test_an_access_time_in_the_future_does_not_hide_the_true_one(tree: Path) -> None:
    os.utime(tree / "one", (4_000_000_000, 0))
    os.utime(tree / "a" / "two", (1_700_000_000, 0))
    now = datetime(2030, 1, 1, tzinfo=UTC)
    assert look(tree, now=now).newest_access == datetime.fromtimestamp(1_700_000_000, UTC)


def test_a_walk_can_be_ended(tree: Path, fds: list[int]) -> None:
    def stop() -> None:
        raise Interrupted

    fds.append(os.open(tree, os.O_RDONLY))
    with pytest.raises(Interrupted):
        measure(fds[0], keeps_atime=True, checkpoint=stop)


def test_a_path_that_cannot_be_asked_keeps_no_access_times(tmp_path: Path) -> None:
    assert not keeps_atime(tmp_path / "missing")


def test_two_thousand_links_to_one_file_are_one_file(tmp_path: Path) -> None:
    (tmp_path / "0").write_bytes(b"z")
    for number in range(1, 2000):
        (tmp_path / str(number)).hardlink_to(tmp_path / "0")
    found = look(tmp_path)
    assert (found.files, found.size_bytes, found.problem) == (2000, 1, None)
