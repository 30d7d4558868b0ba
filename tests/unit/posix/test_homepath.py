"""Switching a snapshot's path between its tree and a link."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tierd.errors import SourceChanged, SourceGone
from tierd.storage.posix.homepath import HomePath, Kind


@pytest.fixture
def home(tmp_path: Path) -> HomePath:
    (tmp_path / "data" / "v1").mkdir(parents=True)
    (tmp_path / "data" / "v1" / "f").write_text("flash")
    (tmp_path / "aside").mkdir()
    (tmp_path / "cold").mkdir()
    (tmp_path / "cold" / "f").write_text("cold")
    return HomePath(os.fsencode(tmp_path / "data" / "v1"), tmp_path / "aside", "key")


def _cold(home: HomePath) -> bytes:
    return os.fsencode(home.aside.parent / "cold")


def _lead_away(home: HomePath) -> int:
    inode = home.at_path().inode
    home.lead_to(_cold(home), expected_inode=inode)
    return inode


def test_there_and_back(home: HomePath) -> None:
    path = Path(os.fsdecode(home.path))
    inode = _lead_away(home)
    assert (path / "f").read_text() == "cold"
    assert home.in_slot().kind is Kind.DIRECTORY
    assert home.tree() == home.slot
    home.lead_home(expected_inode=inode, known_targets=[_cold(home)])
    assert (path / "f").read_text() == "flash"
    assert home.in_slot().kind is Kind.MISSING


def test_both_are_idempotent(home: HomePath) -> None:
    inode = _lead_away(home)
    home.lead_to(_cold(home), expected_inode=inode)
    home.lead_home(expected_inode=inode, known_targets=[_cold(home)])
    home.lead_home(expected_inode=inode, known_targets=[_cold(home)])
    assert home.at_path().kind is Kind.DIRECTORY


def test_the_path_resolves_at_every_instant(home: HomePath) -> None:
    path = Path(os.fsdecode(home.path)) / "f"
    stop, failures, reads = threading.Event(), [], [0]

    def read() -> None:
        while not stop.is_set():
            try:
                if path.read_bytes() not in (b"flash", b"cold"):
                    failures.append("wrong bytes")
                reads[0] += 1
            except OSError as error:
                failures.append(str(error))

    reader = threading.Thread(target=read)
    reader.start()
    inode = home.at_path().inode
    for _ in range(300):
        home.lead_to(_cold(home), expected_inode=inode)
        home.lead_home(expected_inode=inode, known_targets=[_cold(home)])
    stop.set()
    reader.join()
    assert reads[0] > 0
    assert failures == []


def test_a_link_left_in_the_slot_by_a_crash_is_replaced(home: HomePath) -> None:
    (home.aside / "key").symlink_to("/nowhere")
    _lead_away(home)
    assert home.at_path().target == _cold(home)


@pytest.mark.parametrize("what", ["missing", "file", "other directory", "foreign link"])
def test_what_tierd_did_not_expect_is_left_alone(home: HomePath, what: str) -> None:
    path = Path(os.fsdecode(home.path))
    inode = home.at_path().inode
    path.rename(path.with_name("moved"))
    if what == "file":
        path.write_text("mine")
    elif what == "other directory":
        path.mkdir()
    elif what == "foreign link":
        path.symlink_to("/etc")
    before = home.at_path()
    with pytest.raises((SourceChanged, SourceGone)):
        home.lead_to(_cold(home), expected_inode=inode)
    assert home.at_path() == before
    assert home.in_slot().kind is not Kind.DIRECTORY


def test_a_foreign_link_is_not_exchanged_for_the_tree(home: HomePath) -> None:
    inode = _lead_away(home)
    path = Path(os.fsdecode(home.path))
    path.unlink()
    path.symlink_to("/etc")
    with pytest.raises(SourceChanged):
        home.lead_home(expected_inode=inode, known_targets=[_cold(home)])
    assert os.readlink(path) == "/etc"
    assert home.in_slot().kind is Kind.DIRECTORY


def test_one_link_can_be_replaced_by_another(home: HomePath) -> None:
    inode = _lead_away(home)
    other = os.fsencode(home.aside.parent / "colder")
    home.lead_to(other, expected_inode=inode, known_targets=[_cold(home)])
    assert home.at_path().target == other
    assert home.in_slot().inode == inode
