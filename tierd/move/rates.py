"""What transfers between two tiers have achieved: the ground for every promise of an arrival time."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from tierd.model.tier import TierName
from tierd.model.transfer import Transfer, TransferState

_WEIGHT = 0.3
_START_S = 0.5
"""Starting a worker and switching the path, whatever the size."""


class Rates:
    """Moving averages of copied bytes/s per pair of tiers. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rate: dict[tuple[TierName, TierName], float] = {}

    def learn(self, transfer: Transfer, copied_bytes: int, seconds: float) -> None:
        """Take a finished copy into account; too short ones say nothing."""
        if seconds < 0.1 or copied_bytes <= 0:
            return
        pair, rate = (transfer.source, transfer.destination), copied_bytes / seconds
        with self._lock:
            known = self._rate.get(pair, rate)
            self._rate[pair] = known + _WEIGHT * (rate - known)

    def remember(self, history: Iterable[Transfer]) -> None:
        """Learn from transfers that finished before this start; copying took about half of their time."""
        for transfer in sorted(history, key=lambda t: t.id):
            if transfer.state is TransferState.DONE and transfer.started_at and transfer.finished_at:
                seconds = (transfer.finished_at - transfer.started_at).total_seconds()
                self.learn(transfer, transfer.bytes_done, seconds / 2)

    def estimate(self, source: TierName, destination: TierName, size_bytes: int, files: int) -> float | None:
        """Seconds to copy and verify.

        From what this pair of tiers achieved, else from the slowest pair known; None before the first transfer.
        """
        with self._lock:
            rate = self._rate.get((source, destination)) or min(self._rate.values(), default=None)
        return None if rate is None else _START_S + 2 * size_bytes / rate
