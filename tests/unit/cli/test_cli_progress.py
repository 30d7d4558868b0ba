"""Progress: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import pty
import re
from dataclasses import replace

from click.testing import CliRunner

from tests.api_world import ApiWorld
from tests.unit.cli.conftest import Started
from tests.unit.cli.test_cli_warm import recalls_finish
from tierd.cli.progress import Lines, describe
from tierd.client import Progress

COPYING = Progress(
    ref="imagenet/v3",
    transfer_id=7,
    state="copying",
    step="copying",
    bytes_done=3 * 2**30,
    bytes_total=12 * 2**30,
    files_done=5,
    files_total=20,
    rate_bytes_per_s=200e6,
    eta_s=48.2,
)


def test_progress_in_words() -> None:
    assert describe(COPYING) == "copying, 25%, 3 GiB of 12 GiB, 191 MiB/s, 48s left"
    stuck = replace(COPYING, step="queued", bytes_done=0, rate_bytes_per_s=None, eta_s=None, trouble="attempt 2: full")
    assert describe(stuck) == "queued, 0%, 0 B of 12 GiB, attempt 2: full"


def test_lines_come_with_each_step_and_not_with_each_poll() -> None:
    runner = CliRunner()
    lines = Lines()
    with runner.isolation() as (_, err, _output):
        for _ in range(50):
            lines(COPYING)
        lines(replace(COPYING, step="reading back"))
        lines(replace(COPYING, step="reading back", trouble="the daemon is away"))
    assert len(err.getvalue().decode().splitlines()) == 3


def test_a_terminal_gets_a_bar_and_the_pipe_only_the_path(world: ApiWorld, start: Started) -> None:
    snapshot = world.add_migrated("v3")
    screen, terminal = pty.openpty()
    child = start("warm", "imagenet/v3", "--wait", stderr=terminal)
    os.close(terminal)
    with recalls_finish(world):
        shown = b""
        while True:
            try:
                chunk = os.read(screen, 4096)
            except OSError:  # how a terminal says that nobody writes to it any longer
                break
            shown += chunk
    os.close(screen)
    out, _ = child.communicate(timeout=20)
    assert out == f"{snapshot.path}\n"
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    # What the bar says beside its share depends on how soon the recall ends: the words have a test of their own.
    assert re.search(r"imagenet/v3 ━+ +\d+%", text)
    assert "lease 1 holds imagenet/v3" in text
