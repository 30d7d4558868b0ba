"""`tierd fetch` as people run it: single files of a copy in a bucket, checked, and nothing overwritten."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.seaweed import Seaweed
from tests.world import CLOUD, World, digest_tree, is_done, s3_settings


@pytest.fixture
def world(tmp_path: Path, seaweed: Seaweed) -> Iterator[World]:
    world = World(tmp_path, s3=s3_settings(tmp_path, seaweed.endpoint))
    root = world.data / "v1"
    (root / "val" / "deep").mkdir(parents=True)
    (root / "train").mkdir()
    for name in ("labels.csv", "val/a.tar", "val/deep/b.tar", "train/c.tar"):
        (root / name).write_bytes(name.encode() * 1000)
    (root / "val" / "large").write_bytes(os.urandom(11 << 20))
    os.link(root / "train" / "c.tar", root / "val" / "same.tar")
    with (root / "val" / "sparse").open("wb") as file:
        file.truncate(9 << 20)
        file.seek(5 << 20)
        file.write(b"x" * 5000)
    os.utime(root / "labels.csv", ns=(1, 1_234_567_890_123_456_789))
    world.before = digest_tree(root)  # type: ignore[attr-defined]
    assert is_done(world.release(world.add("v1")))
    yield world
    world.close()


def fetch(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the verb with a configuration that names the world's bucket."""
    s3 = world.s3
    assert s3 is not None
    config = world.base / "config.toml"
    config.write_text(
        f"""
view = "{world.base / "view"}"
[[tiers]]
name = "flash"
root = "{world.roots[world.home]}"
rank = 0
[[tiers]]
name = "{CLOUD}"
kind = "s3"
rank = 2
bucket = "{s3.bucket}"
prefix = "{s3.prefix}"
endpoint = "{s3.endpoint}"
credentials = "{s3.credentials}"
state = "{world.base / "other-state"}"
[[datasets]]
name = "ds"
path = "{world.data}"
"""
    )
    command = [sys.executable, "-m", "tierd", "fetch", "--config", str(config), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_matches_comes_with_everything_it_has(world: World, tmp_path: Path) -> None:
    target = tmp_path / "out"
    done = fetch(world, "ds/v1", "labels.csv", "val", "--to", str(target), "--json")
    assert done.returncode == 0, done.stderr
    names = {"labels.csv", "val/a.tar", "val/deep/b.tar", "val/large", "val/same.tar", "val/sparse"}
    assert json.loads(done.stdout)["files"] == len(names)
    before = world.before  # type: ignore[attr-defined]
    found = digest_tree(target)
    assert {name: found[name] for name in names} == {name: before[name] for name in names}
    assert "train/c.tar" not in found
    assert (target / "val" / "sparse").stat().st_blocks * 512 < 1 << 20


def test_only_the_bytes_of_what_matches_are_read(world: World, tmp_path: Path) -> None:
    """The large file is damaged; whoever does not ask for it does not notice."""
    key = next(key for key in world.keys("ds/v1/") if key.endswith("/large"))
    world.bucket.delete([key])
    assert fetch(world, "ds/v1", "val/*.tar", "--to", str(tmp_path / "out")).returncode == 0
    missing = fetch(world, "ds/v1", "val/large", "--to", str(tmp_path / "out"))
    assert missing.returncode not in (0, 1)
    assert key in missing.stderr
    assert "Traceback" not in missing.stderr


def test_nothing_is_overwritten(world: World, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    mine = tmp_path / "out" / "labels.csv"
    mine.write_text("mine")
    done = fetch(world, "ds/v1", "labels.csv", "--to", str(tmp_path / "out"))
    assert done.returncode == 5
    assert "labels.csv exists already" in done.stderr
    assert mine.read_text() == "mine"


def test_a_link_of_somebody_else_is_not_followed(world: World, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "val").symlink_to(tmp_path / "elsewhere")
    done = fetch(world, "ds/v1", "val/a.tar", "--to", str(tmp_path / "out"))
    assert done.returncode != 0
    assert os.listdir(tmp_path / "elsewhere") == []
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("ds/v1", "nothing/*"), 4, "no file of the copy matches nothing/*"),
        (("ds/v9", "*"), 4, "no copy of ds/v9 is in a bucket"),
        (("../v1", "*"), 2, "is not the name of a snapshot"),
    ],
)
def test_what_is_not_there_is_named(world: World, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = fetch(world, *arguments)
    assert done.returncode == code
    assert words in done.stderr
