"""Fixtures for all tests: real file systems on loop devices, for those that need them (`mounts`, root only)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.seaweed import Seaweed

SmallMount = Callable[..., Path]
"""small_mount(kind="ext4", size_mb=32, inodes=None, options="") makes a file system and returns its mount point."""


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _make_mount(base: Path, kind: str, size_mb: int, inodes: int | None = None, options: str = "") -> Path:
    """Format an image and mount it.

    Raises:
        CalledProcessError: the kernel refuses.
    """
    image, mount = base / "image", base / "mount"
    mount.mkdir(parents=True)
    with image.open("wb") as out:
        out.truncate(size_mb << 20)
    if kind == "ext4":
        _run("mkfs.ext4", "-q", "-F", *(("-N", str(inodes)) if inodes else ()), str(image))
    else:
        _run("mkfs.xfs", "-q", "-f", str(image))
    _run("mount", "-o", ",".join(filter(None, ["loop", options])), str(image), str(mount))
    return mount


def _unmount(mount: Path) -> None:
    """Take away whatever is mounted there, also what a test mounted over it: a directory left busy fails later runs."""
    while mount.is_mount():
        if subprocess.run(["umount", str(mount)], capture_output=True, check=False).returncode:
            _run("umount", "-l", str(mount))


@pytest.fixture(scope="session")
def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to mount loop devices; CI runs it")


@pytest.fixture(scope="session")
def ext4(needs_root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An ext4 file system of 512 MiB, one for the whole session: work in a directory of your own."""
    mount = _session_mount(tmp_path_factory, "ext4")
    yield mount
    _unmount(mount)


@pytest.fixture(scope="session")
def xfs(needs_root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An xfs file system of 512 MiB, as `ext4`."""
    mount = _session_mount(tmp_path_factory, "xfs")
    yield mount
    _unmount(mount)


def _session_mount(factory: pytest.TempPathFactory, kind: str) -> Path:
    try:
        return _make_mount(factory.mktemp(kind), kind, 512)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"this machine cannot loop-mount {kind}: {error}")


@pytest.fixture
def small_mount(needs_root: None, tmp_path: Path) -> Iterator[SmallMount]:
    """Makes small file systems that can be filled to the last byte or inode."""
    made: list[Path] = []

    def make(kind: str = "ext4", size_mb: int = 32, inodes: int | None = None, options: str = "") -> Path:
        try:
            mount = _make_mount(tmp_path / f"small{len(made)}", kind, size_mb, inodes, options)
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            pytest.skip(f"this machine cannot loop-mount {kind}: {error}")
        made.append(mount)
        return mount

    yield make
    for mount in made:
        _unmount(mount)


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """An S3 server for the whole session: use a prefix of your own. Who kills it must start it again."""
    server = Seaweed(tmp_path_factory.mktemp("seaweed") / "data").start()
    yield server
    server.kill()
