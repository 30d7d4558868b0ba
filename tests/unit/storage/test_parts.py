"""The record of finished chunks belongs to one source file in one state, and to one destination."""

from __future__ import annotations

import os
from pathlib import Path

from tierd.storage.posix.parts import Parts

DIGEST = b"d" * 32


def test_finished_chunks_are_known_again_for_the_same_file_only(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    for name in ("source", "copy", "other"):
        (tmp_path / name).write_bytes(b"x")
    fd = os.open(tmp_path / "parts", os.O_RDONLY)
    st, to = os.stat(tmp_path / "source"), os.stat(tmp_path / "copy")
    assert Parts.open(fd, st, b"p", to) is None
    parts = Parts.create(fd, st, b"p", to)
    parts.record(2, DIGEST)
    parts.close()
    again = Parts.open(fd, st, b"p", to)
    assert again is not None
    assert [again.has(n) for n in range(4)] == [False, False, True, False]
    assert again.digests(3) == bytes(64) + DIGEST
    again.close()
    assert Parts.open(fd, st, b"other path", to) is None
    assert Parts.open(fd, st, b"p", os.stat(tmp_path / "other")) is None
    assert Parts.open(fd, st, b"p", None) is None
    (tmp_path / "source").write_bytes(b"changed")
    assert Parts.open(fd, os.stat(tmp_path / "source"), b"p", to) is None
    os.close(fd)
