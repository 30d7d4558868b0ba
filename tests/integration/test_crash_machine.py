"""Random lives of a snapshot: write, read, migrate, warm, release, pause, crash, restart, in any order, checked
against a model of the file contents. Whatever happens, the path shows exactly what was last written there."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.world import FLASH, HDD, Trap, World
from tierd.errors import Conflict
from tierd.model.placement import PlacementState
from tierd.model.transfer import TransferKind

NAMES = st.sampled_from(["a", "b", "sub/c", "sub/deep/d"])
CONTENTS = st.binary(min_size=0, max_size=20_000)


class SnapshotLife(RuleBasedStateMachine):
    @initialize(home=st.sampled_from([FLASH, HDD]))
    def begin(self, home: str) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="tierd-life-"))
        self.world = World(self.base, home=home)  # type: ignore[arg-type]
        self.model: dict[str, bytes] = {"a": b"first"}
        root = self.world.data / "v1"
        (root / "sub" / "deep").mkdir(parents=True)
        (root / "a").write_bytes(b"first")
        self.snapshot = self.world.add("v1")

    # -- what users do -------------------------------------------------------------------------------------

    @rule(name=NAMES, content=CONTENTS)
    def write(self, name: str, content: bytes) -> None:
        (self.snapshot.path / name).write_bytes(content)
        self.model[name] = content

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        (self.snapshot.path / name).unlink(missing_ok=True)
        self.model.pop(name, None)

    # -- what tierd does -----------------------------------------------------------------------------------

    def _order(self, kind: TransferKind, *, release: bool) -> None:
        held = {p.tier for p in self.world.catalog.placements(self.snapshot.id) if p.state is PlacementState.VERIFIED}
        source = FLASH if kind is TransferKind.MIGRATE else HDD
        if source not in held:
            return
        with contextlib.suppress(Conflict):  # a transfer of the other kind is under way
            self.world.order(self.snapshot, kind, release=release)

    @rule(release=st.booleans())
    def migrate(self, release: bool) -> None:
        self._order(TransferKind.MIGRATE, release=release)

    @rule()
    def warm(self) -> None:
        self._order(TransferKind.RECALL, release=False)

    @rule()
    def work(self) -> None:
        self.world.step()

    @rule(at=st.integers(1, 30))
    def worker_dies(self, at: int) -> None:
        self.world.step(trap=Trap(at=at))

    @rule(at=st.integers(1, 30))
    def daemon_dies(self, at: int) -> None:
        self.world.step(trap=Trap(at=at))
        self.world.restart()

    @rule(write_at=st.integers(1, 40), die_at=st.integers(1, 60), name=NAMES, content=CONTENTS, restarts=st.booleans())
    def is_written_to_in_the_middle(
        self, write_at: int, die_at: int, name: str, content: bytes, restarts: bool
    ) -> None:
        seen = 0

        def write(_message: object) -> None:
            nonlocal seen
            seen += 1
            if seen == write_at:
                self.write(name, content)

        self.world.attempts.hook = staticmethod(write)
        try:
            self.world.step(trap=Trap(at=die_at))
        finally:
            self.world.attempts.hook = None
        if restarts:
            self.world.restart()

    # -- what must hold ---------------------------------------------------------------------------------------

    @invariant()
    def the_path_shows_what_was_written(self) -> None:
        if not hasattr(self, "world"):
            return
        found = {}
        for directory, _, files in os.walk(self.snapshot.path):
            for file in files:
                path = Path(directory) / file
                found[str(path.relative_to(self.snapshot.path))] = path.read_bytes()
        assert found == self.model

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            for transfer in self.world.catalog.transfers(live_only=True):
                self.world.finish(transfer)
            self.the_path_shows_what_was_written()
            self.world.sweep()
            assert self.world.litter() == []
        finally:
            self.world.close()
            shutil.rmtree(self.base, ignore_errors=True)


TestSnapshotLife = SnapshotLife.TestCase
TestSnapshotLife.settings = settings(
    max_examples=int(os.environ.get("TIERD_LIVES", "25")),
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestSnapshotLife.pytestmark = [pytest.mark.timeout(900)]
