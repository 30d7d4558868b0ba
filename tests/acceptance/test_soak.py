"""Half a minute of `soak.py` in every run: readers verify all they read while tierd moves, and is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.soak import Soak


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [1, 2])
def test_readers_see_right_bytes_whatever_happens(tmp_path: Path, seed: int) -> None:
    soak = Soak(tmp_path, snapshots=8, seed=seed)
    try:
        counts = soak.run(15)
    finally:
        soak.stop.set()
        soak.daemon.close()
    assert soak.faults == []
    assert counts["reads"] > 100
    assert counts["kills"] > 0
