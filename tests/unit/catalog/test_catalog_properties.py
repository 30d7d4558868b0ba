"""No sequence of calls, sensible or not, breaks the rules of the catalog."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.catalog.catalog_world import FLASH, HDD, NOW, S, cold_copy, configured
from tierd.catalog import Catalog
from tierd.errors import TierdError
from tierd.model.dataset import SnapshotId, SnapshotRef
from tierd.model.effect import DropPlacement, Effect, MarkPartial, MarkStale
from tierd.model.placement import PlacementState
from tierd.model.transfer import LIVE, TRANSITIONS, Transfer, TransferId, TransferKind, TransferState

NAMES = ("v0", "v1", "v2")
PICK = st.integers(0, 5)
STATES = st.sampled_from(TransferState)
EFFECTS = st.lists(
    st.sampled_from(
        [cold_copy(), DropPlacement(FLASH), DropPlacement(HDD), MarkStale(HDD), MarkStale(FLASH), MarkPartial(FLASH)]
    ),
    max_size=2,
)


class CatalogMachine(RuleBasedStateMachine):
    """Calls in any order, from a caller who may be wrong about everything; reopening is one of the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.root = Path(self.directory.name)
        self.clock = NOW

    @initialize()
    def begin(self) -> None:
        self.world = configured(Catalog.open(self.root / "tierd.db", wait_s=0), self.root)
        for name in NAMES:
            self.world.add(name)

    @property
    def catalog(self) -> Catalog:
        return self.world.catalog

    def attempt(self, call: Any, *args: Any, **more: Any) -> None:
        """Do it; a refusal must leave no trace."""
        before = self.catalog.last_event_id(), self.state()
        try:
            call(*args, **more)
        except TierdError:
            assert (self.catalog.last_event_id(), self.state()) == before

    def state(self) -> tuple[Any, ...]:
        """All that events must tell about."""
        transfers = tuple((t.id, t.state, t.attempt) for t in self.transfers())
        placements = tuple(
            (p.snapshot_id, p.tier, p.state)
            for s in self.catalog.snapshots(include_gone=True)
            for p in self.catalog.placements(s.id)
        )
        gone = tuple(s.gone_at for s in self.catalog.snapshots(include_gone=True))
        return transfers, placements, gone, tuple(h.id for h in self.catalog.holds(now=NOW))

    def transfers(self) -> list[Transfer]:
        return self.catalog.transfers(limit=1000)

    def transfer_id(self, n: int) -> TransferId:
        found = self.transfers()
        return found[n % len(found)].id if found else TransferId(99)

    @rule(n=PICK, kind=st.sampled_from(TransferKind), release=st.booleans(), priority=PICK)
    def enqueue(self, n: int, kind: TransferKind, release: bool, priority: int) -> None:
        snapshot_id = SnapshotId(n % 4 + 1)  # the fourth does not exist at first
        self.attempt(self.world.enqueue, snapshot_id, kind, release=release, priority=priority)

    @rule(n=PICK, expected=STATES, new=STATES, effects=EFFECTS)
    def advance_blindly(self, n: int, expected: TransferState, new: TransferState, effects: list[Effect]) -> None:
        self.attempt(self.catalog.advance, self.transfer_id(n), expected, new, now=NOW, effects=effects)

    @rule(n=PICK, way=PICK, effects=EFFECTS)
    def go_on(self, n: int, way: int, effects: list[Effect]) -> None:
        live = self.catalog.transfers(live_only=True)
        if live:
            t = live[n % len(live)]
            ways = sorted(TRANSITIONS[t.state] & LIVE) or sorted(TRANSITIONS[t.state])
            self.attempt(self.catalog.advance, t.id, t.state, ways[way % len(ways)], now=NOW, effects=effects)

    @rule(n=PICK, name=st.sampled_from(NAMES))
    def run_whole_migrate(self, n: int, name: str) -> None:
        """As far as it goes: other rules may have put holds or transfers in its way."""
        with_effects: dict[TransferState, list[Effect]] = {S.COMMITTED: [cold_copy()], S.DONE: [DropPlacement(FLASH)]}

        def run() -> None:
            t = self.world.enqueue(self.catalog.snapshot(SnapshotRef("imagenet", name)).id, release=True)
            for new in (S.COPYING, S.VERIFYING, S.COMMITTED, S.RELEASING, S.DONE)[: n or 5]:
                effects = with_effects.get(new, [])
                state = self.catalog.transfer(t.id).state
                self.attempt(self.catalog.advance, t.id, state, new, now=NOW, effects=effects)

        with contextlib.suppress(TierdError):
            run()

    @rule(n=PICK, is_final=st.booleans())
    def end_attempt(self, n: int, is_final: bool) -> None:
        transfer_id = self.transfer_id(n)
        state = next((t.state for t in self.transfers() if t.id == transfer_id), S.QUEUED)
        why: dict[str, Any] = {"error": "e", "error_code": "c", "now": NOW}
        if is_final:
            self.attempt(self.catalog.fail, transfer_id, state, **why)
        else:
            self.attempt(self.catalog.retry_later, transfer_id, state, not_before=NOW + timedelta(hours=1), **why)

    @rule(n=PICK, state=STATES, message=st.sampled_from(["5h", "4h"]))
    def wait_for_restore(self, n: int, state: TransferState, message: str) -> None:
        later = {"until": None, "not_before": NOW + timedelta(minutes=5), "now": NOW}
        self.attempt(self.catalog.wait_for_restore, self.transfer_id(n), state, message=message, **later)

    @rule(n=PICK)
    def let_go(self, n: int) -> None:
        self.attempt(self.catalog.let_go, self.transfer_id(n), NOW)

    @rule(n=PICK)
    def request_cancel(self, n: int) -> None:
        self.attempt(self.catalog.request_cancel, self.transfer_id(n), NOW)

    @rule(n=PICK, is_paused=st.booleans())
    def pause(self, n: int, is_paused: bool) -> None:
        self.attempt(self.catalog.set_paused, self.transfer_id(n), is_paused, NOW)

    @rule(n=PICK, effects=EFFECTS)
    def apply(self, n: int, effects: list[Effect]) -> None:
        self.attempt(self.catalog.apply, SnapshotId(n % 4 + 1), effects, now=NOW)

    @rule(n=PICK)
    def pin(self, n: int) -> None:
        self.attempt(self.catalog.pin, SnapshotId(n % 4 + 1), "root", NOW)

    @rule(n=PICK)
    def unpin(self, n: int) -> None:
        self.attempt(self.catalog.unpin, SnapshotId(n % 4 + 1), NOW)

    @rule(name=st.sampled_from(NAMES))
    def add(self, name: str) -> None:
        self.attempt(self.world.add, name)

    @rule(n=PICK)
    def mark_gone(self, n: int) -> None:
        self.attempt(self.catalog.mark_gone, SnapshotId(n % 4 + 1), NOW)

    @rule(n=PICK)
    def mark_back(self, n: int) -> None:
        self.attempt(self.catalog.mark_back, SnapshotId(n % 4 + 1), path=self.root / "x", root_inode=1, now=NOW)

    @precondition(lambda self: self.catalog.last_event_id() > 8)
    @rule()
    def reopen(self) -> None:
        before = self.state()
        self.catalog.close()
        self.world = configured(Catalog.open(self.root / "tierd.db", wait_s=0), self.root)
        assert self.state() == before

    @invariant()
    def at_most_one_live_transfer_per_snapshot(self) -> None:
        owners = Counter(t.snapshot_id for t in self.transfers() if t.state in LIVE)
        assert all(count == 1 for count in owners.values())

    @invariant()
    def only_a_restore_waits_for_anything(self) -> None:
        assert all(t.waits_for is None for t in self.transfers() if t.state is not S.RESTORING)

    @invariant()
    def every_transfer_is_where_its_events_say(self) -> None:
        """Replay the history by itself: it must arrive at the present, through steps that connect."""
        told: dict[int, str] = {}
        for e in self.catalog.events(limit=100_000):
            subject, _, name = e.kind.partition(".")
            if subject == "transfer" and e.transfer_id is not None and name in set(TransferState):
                assert e.detail.get("from") == told.get(e.transfer_id), "a step is missing in the history"
                told[e.transfer_id] = name
        assert told == {t.id: str(t.state) for t in self.transfers()}

    @invariant()
    def every_placement_is_as_its_events_say(self) -> None:
        told: dict[tuple[str, str], str] = {}
        for e in self.catalog.events(limit=100_000):
            key = (str(e.ref), str(e.detail.get("tier")))
            if e.kind == "snapshot.found":
                told = {k: v for k, v in told.items() if k[0] != key[0]} | {key: "verified"}
            elif e.kind == "placement.dropped":
                told.pop(key, None)
            elif e.kind.startswith("placement."):
                told[key] = e.kind.removeprefix("placement.").replace("given_up", "partial")
        for s in self.catalog.snapshots():
            if sum(x.ref == s.ref for x in self.catalog.snapshots(include_gone=True)) == 1:
                now = {(str(s.ref), str(p.tier)): str(p.state) for p in self.catalog.placements(s.id)}
                assert now == {k: v for k, v in told.items() if k[0] == str(s.ref)}

    @invariant()
    def a_present_snapshot_that_was_never_gone_has_a_verified_copy(self) -> None:
        was_gone = {e.ref for e in self.catalog.events(limit=100_000) if e.kind == "snapshot.gone"}
        for s in self.catalog.snapshots():
            if s.ref not in was_gone:
                assert any(p.state is PlacementState.VERIFIED for p in self.catalog.placements(s.id))

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.catalog.close()
        self.directory.cleanup()


TestCatalogMachine = CatalogMachine.TestCase
TestCatalogMachine.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
