"""For tests of the copy engine: one-line calls, and an oracle that shares no code with what it judges."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from tierd.errors import Interrupted
from tierd.storage.control import Control, Rate, Unlimited
from tierd.storage.manifest import Manifest
from tierd.storage.posix.copy import CopyOptions, copy_tree
from tierd.storage.posix.prove import Proof, prove_unchanged
from tierd.storage.posix.verify import verify_copy

MIB = 1 << 20


def copy(
    source: Path, staging: Path, control: Control | None = None, *, bytes_per_s: int | None = None, **options: int
) -> Manifest:
    """Copy with small settings; the caller closes the manifest."""
    rate = Rate(bytes_per_s)
    staging.mkdir(exist_ok=True)
    fd = os.open(source, os.O_RDONLY)
    try:
        return copy_tree(fd, staging, options=CopyOptions(rate=rate, **options), control=control or Unlimited())
    finally:
        os.close(fd)


def verify(staging: Path, mode: str = "read") -> None:
    fd = os.open(staging / "tree", os.O_RDONLY)
    try:
        with Manifest.open(staging / "manifest.db") as manifest:
            verify_copy(fd, manifest, mode=mode, control=Unlimited())
    finally:
        os.close(fd)


def prove(tree: Path, staging: Path, side: str = "source", leases: str | None = None) -> Proof:
    fd = os.open(tree, os.O_RDONLY)
    try:
        with Manifest.open(staging / "manifest.db") as manifest:
            return prove_unchanged(
                fd, manifest, stamps="source" if side == "source" else "copy", leases=leases, control=Unlimited()
            )
    finally:
        os.close(fd)


def copy_and_verify(source: Path, staging: Path) -> str:
    """Returns the content id."""
    copy(source, staging).close()
    verify(staging)
    with Manifest.open(staging / "manifest.db") as manifest:
        return manifest.content_id()


class StopAfter(Unlimited):
    """A control that asks to stop when so many bytes are done."""

    def __init__(self, n_bytes: int) -> None:
        super().__init__()
        self._limit = n_bytes

    def checkpoint(self, name: str = "") -> None:
        if self.bytes >= self._limit:
            raise Interrupted("enough")


class At(Unlimited):
    """Does something at the first checkpoint of this name."""

    def __init__(self, name: str, action: Callable[[], None]) -> None:
        super().__init__()
        self._name, self._action = name, action

    def checkpoint(self, name: str = "") -> None:
        if name == self._name:
            self._name = "(done)"
            self._action()


def describe(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything a user can see of a tree, by plain system calls and `getfattr`."""
    top = os.fsencode(root)
    found: dict[bytes, tuple[object, ...]] = {}
    groups: dict[int, list[bytes]] = {}
    todo = [b""]
    fds = {b"": os.open(top, os.O_RDONLY)}
    while todo:
        path = todo.pop()
        fd = fds.pop(path)
        st = os.fstat(fd)
        found[path] = ("d", stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, st.st_mtime_ns)
        for entry in sorted(os.fsencode(name) for name in os.listdir(fd)):
            own = path + b"/" + entry
            st = os.stat(entry, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISDIR(st.st_mode):
                fds[own] = os.open(entry, os.O_RDONLY, dir_fd=fd)
                todo.append(own)
                continue
            if st.st_nlink > 1:
                groups.setdefault(st.st_ino, []).append(own)
            found[own] = (
                stat.S_IFMT(st.st_mode), stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, st.st_mtime_ns, st.st_rdev,
                st.st_nlink, _content(fd, entry, st),
            )  # fmt: skip
        os.close(fd)
    for number, names in enumerate(sorted(sorted(g) for g in groups.values())):
        for name in names:
            found[name] += (number,)
    found[b"//attributes"] = (_attributes(root),)
    return found


def _content(dir_fd: int, name: bytes, st: os.stat_result) -> object:
    if stat.S_ISLNK(st.st_mode):
        return os.readlink(name, dir_fd=dir_fd)
    if not stat.S_ISREG(st.st_mode):
        return None
    fd = os.open(name, os.O_RDONLY, dir_fd=dir_fd)
    with os.fdopen(fd, "rb") as file:
        return st.st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _attributes(root: Path) -> tuple[bytes, ...]:
    text = subprocess.run(
        ["getfattr", "-R", "-P", "-h", "-d", "-m", "-", "-e", "hex", "."], cwd=root, check=True, capture_output=True
    ).stdout
    blocks = []
    for block in text.split(b"\n\n"):
        lines = [line for line in block.split(b"\n") if line and not line.startswith(b"trusted.SGI_ACL")]
        if len(lines) > 1:
            blocks.append(b"\n".join([lines[0], *sorted(lines[1:])]))
    return tuple(sorted(blocks))


def assert_equal_trees(a: Path, b: Path) -> None:
    """Fails naming what differs."""
    left, right = describe(a), describe(b)
    differences = {key: (left.get(key), right.get(key)) for key in left | right if left.get(key) != right.get(key)}
    assert not differences, differences


def as_nobody(work: Callable[[Path], None]) -> None:
    """Run in a process without privileges, in a directory of its own that belongs to nobody; its failure is ours."""
    nobody = 65534
    with tempfile.TemporaryDirectory() as made:
        base = Path(made)
        os.chown(base, nobody, nobody)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.setgroups([])
                os.setgid(nobody)
                os.setuid(nobody)
                work(base)
                status = 0
            finally:
                if status:
                    traceback.print_exc()
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def apparent_bytes(root: Path) -> int:
    return sum(p.lstat().st_size for p in root.rglob("*") if p.is_file() and not p.is_symlink())
