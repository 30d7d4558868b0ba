"""When it is looked for who holds files open: about once a minute, a little at a time.

Who holds something reads it. That nobody is found says nothing: this only ever adds reads.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from tierd.model.dataset import SnapshotId
from tierd.model.observation import Reader
from tierd.observe.holders import Holders

_BUDGET_S = 0.005
_REST = 19.0
"""After each look it rests for so many times as long: a twentieth of a core, however many processes there are."""
_SHORTEST_REST_S = 0.05


class Holding:
    """Used by one thread, that of `holders`.

    Args:
        every_s: from the beginning of one round over all processes to that of the next.

    Attributes:
        trees: snapshots and where their bytes lie now.
        due: when to look next (monotonic); the first time `every_s` after `begin`.
    """

    def __init__(self, holders: Holders, every_s: float) -> None:
        self._holders = holders
        self._every_s = every_s
        self._next_round = 0.0
        self.trees: Sequence[tuple[SnapshotId, bytes]] = ()
        self.due = float("inf")

    def begin(self) -> None:
        self.due = self._next_round = time.monotonic() + self._every_s

    def look(self) -> dict[SnapshotId, list[Reader]]:
        """Who was found to hold something, if it is time to look. Everybody who does is told once a round."""
        began = time.monotonic()
        if began < self.due:
            return {}
        rounds = self._holders.rounds
        found = self._holders.scan(self.trees, _BUDGET_S)
        now = time.monotonic()
        self.due = now + max(_SHORTEST_REST_S, _REST * (now - began))
        if not self.trees or self._holders.rounds > rounds:
            self._next_round = max(now, self._next_round + self._every_s)
            self.due = max(self.due, self._next_round)
        return found
