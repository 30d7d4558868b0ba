"""The demo, with the real daemon."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_the_demo_tells_its_story_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tierd", "demo", "--once"],
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal") == 4
    assert "100% on flash" in done.stdout
    assert 'tierd_transfers_total{kind="recall",result="done"}' in done.stdout
    assert list(tmp_path.iterdir()) == []
