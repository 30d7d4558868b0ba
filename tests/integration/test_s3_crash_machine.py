"""Random lives of a snapshot whose cold copy is in a bucket: the worker, the daemon and the server die at any moment.
Where the path does not lead to a tree, nobody can read wrong bytes; whatever was written last comes back."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from tests.integration.test_crash_machine import CONTENTS, NAMES, SnapshotLife
from tests.seaweed import Seaweed
from tests.world import CLOUD, FLASH, HDD, World, s3_settings
from tierd.errors import Conflict
from tierd.model.placement import PlacementState
from tierd.model.transfer import TransferKind

TIERS = st.sampled_from([FLASH, HDD, CLOUD])


class BucketLife(SnapshotLife):
    server: Seaweed

    @initialize(home=st.sampled_from([FLASH, HDD]))
    def begin(self, home: str) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="tierd-life-"))
        self.world = World(self.base, home=home, s3=s3_settings(self.base, self.server.endpoint))  # type: ignore[arg-type]
        self.model: dict[str, bytes] = {"a": b"first"}
        root = self.world.data / "v1"
        (root / "sub" / "deep").mkdir(parents=True)
        (root / "a").write_bytes(b"first")
        self.snapshot = self.world.add("v1")

    # -- what users do: a path that dangles takes no writes ------------------------------------------------------

    @rule(name=NAMES, content=CONTENTS)
    def write(self, name: str, content: bytes) -> None:
        if self.snapshot.path.exists():
            super().write(name, content)

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        if self.snapshot.path.exists():
            super().remove(name)

    # -- what tierd does -------------------------------------------------------------------------------------------

    @rule(source=TIERS, destination=TIERS, release=st.booleans())
    def move(self, source: str, destination: str, release: bool) -> None:
        """Any migrate down, any recall to flash, whose source is a verified copy."""
        assume(source != destination and (source != CLOUD or destination == FLASH))
        held = {p.tier for p in self.world.catalog.placements(self.snapshot.id) if p.state is PlacementState.VERIFIED}
        assume(source in held)
        kind = TransferKind.RECALL if destination == FLASH else TransferKind.MIGRATE
        assume(kind is TransferKind.RECALL or (source, destination) in ((FLASH, HDD), (FLASH, CLOUD), (HDD, CLOUD)))
        with contextlib.suppress(Conflict):
            self.world.order(
                self.snapshot,
                kind,
                release=release and kind is TransferKind.MIGRATE,
                source=source,  # type: ignore[arg-type]
                destination=destination,  # type: ignore[arg-type]
            )

    @rule(at=st.integers(1, 20))
    def server_dies(self, at: int) -> None:
        """It is killed at a request of the worker, and back a second later."""
        seen = 0
        back = threading.Thread(target=self.server.start)

        def kill(_message: object) -> None:
            nonlocal seen
            seen += 1
            if seen == at:
                self.server.kill()
                back.start()

        self.world.attempts.hook = staticmethod(kill)
        try:
            self.world.step()
        finally:
            self.world.attempts.hook = None
            if back.ident is not None:
                back.join()

    # -- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def the_path_shows_what_was_written(self) -> None:
        if not hasattr(self, "world"):
            return
        if self.snapshot.path.exists():
            super().the_path_shows_what_was_written()
        else:
            assert self.snapshot.path.is_symlink()
            assert self.world.has(self.snapshot, CLOUD)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            for transfer in self.world.catalog.transfers(live_only=True):
                self.world.finish(transfer)
            if not self.snapshot.path.exists():
                recall = self.world.order(self.snapshot, TransferKind.RECALL)
                self.world.finish(recall)
                assert self.snapshot.path.exists()
        super().teardown()


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("seaweed")
class TestBucketLife(BucketLife.TestCase):  # type: ignore[misc]
    settings = settings(
        max_examples=int(os.environ.get("TIERD_LIVES", "25")) // 2,
        stateful_step_count=12,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )

    @pytest.fixture(autouse=True)
    def _server(self, seaweed: Seaweed) -> None:
        BucketLife.server = seaweed
