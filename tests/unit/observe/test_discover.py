"""Discovering snapshots."""

from __future__ import annotations

import os
from pathlib import Path

from tierd.model.dataset import WHOLE, Dataset
from tierd.model.tier import TierName
from tierd.observe.discover import FoundKind, discover


def dataset(path: Path, pattern: str | None = "*") -> Dataset:
    return Dataset(name="imagenet", path=path, home=TierName("flash"), pattern=pattern)


def test_child_directories_are_snapshots(tmp_path: Path) -> None:
    (tmp_path / "v2").mkdir()
    (tmp_path / "v1").mkdir()
    (tmp_path / "README").write_text("a plain file is no snapshot")
    found = discover(dataset(tmp_path))
    assert [(f.name, f.path, f.kind, f.root_inode) for f in found.found] == [
        (name, tmp_path / name, FoundKind.DIRECTORY, (tmp_path / name).stat().st_ino) for name in ("v1", "v2")
    ]
    assert found.is_readable
    assert not found.ignored


def test_names_must_match_the_pattern_case_sensitively(tmp_path: Path) -> None:
    for name in ("v1", "V2", "tmp", ".tierd", ".v3"):
        (tmp_path / name).mkdir()
    assert [f.name for f in discover(dataset(tmp_path, "v*")).found] == ["v1"]
    assert [f.name for f in discover(dataset(tmp_path, "*")).found] == ["V2", "tmp", "v1"]
    assert not discover(dataset(tmp_path, ".*")).found


def test_a_link_is_reported_with_its_target_and_never_followed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "v1").symlink_to("/cold/imagenet/v1")
    (tmp_path / "data" / "loop").symlink_to("loop")
    found = {f.name: f for f in discover(dataset(tmp_path / "data")).found}
    assert found["v1"].kind is FoundKind.LINK
    assert found["v1"].link_target == b"/cold/imagenet/v1"
    assert found["v1"].root_inode == (tmp_path / "data" / "v1").lstat().st_ino
    assert found["loop"].link_target == b"loop"


def test_names_that_are_not_text_are_reported_not_taken(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path)
    for name in (b"v\xff", b"new\nline", b"good"):
        os.mkdir(root + b"/" + name)
    (tmp_path / "plain\nfile").write_text("")
    found = discover(dataset(tmp_path))
    assert [f.name for f in found.found] == ["good"]
    assert [i.name for i in found.ignored] == [r"new\nline", r"v\xff"]
    assert "not printable text" in found.ignored[0].reason


def test_the_name_of_whole_datasets_is_not_taken_by_a_child(tmp_path: Path) -> None:
    (tmp_path / WHOLE).mkdir()
    found = discover(dataset(tmp_path))
    assert not found.found
    assert found.ignored[0].name == WHOLE


def test_a_missing_directory_is_unreadable_not_empty(tmp_path: Path) -> None:
    found = discover(dataset(tmp_path / "data"))
    assert not found.is_readable
    assert found.error == f"{tmp_path / 'data'} is missing"


def test_the_dataset_directory_must_not_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real" / "v1").mkdir(parents=True)
    (tmp_path / "data").symlink_to("real")
    found = discover(dataset(tmp_path / "data"))
    assert not found.is_readable
    assert "is a link" in (found.error or "")


def test_a_file_in_place_of_the_directory_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    for pattern in ("*", None):
        found = discover(dataset(tmp_path / "data", pattern))
        assert not found.is_readable
        assert str(tmp_path / "data") in (found.error or "")


def test_a_whole_dataset_is_one_snapshot(tmp_path: Path) -> None:
    (tmp_path / "data" / "child").mkdir(parents=True)
    (found,) = discover(dataset(tmp_path / "data", None)).found
    assert (found.name, found.path, found.kind) == (WHOLE, tmp_path / "data", FoundKind.DIRECTORY)


def test_a_migrated_whole_dataset_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to("/cold/data")
    (found,) = discover(dataset(tmp_path / "data", None)).found
    assert (found.name, found.kind, found.link_target) == (WHOLE, FoundKind.LINK, b"/cold/data")


def test_a_missing_whole_dataset_is_unreadable(tmp_path: Path) -> None:
    assert not discover(dataset(tmp_path / "data", None)).is_readable


def test_many_children_cost_no_more_than_a_look_each(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / f"v{number:05}").mkdir()
    assert len(discover(dataset(tmp_path)).found) == 3000
