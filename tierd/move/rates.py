"""What transfers between two tiers have achieved: the ground for every promise of an arrival time.

The seconds of a whole attempt (start, copy, verification, switch) are fitted by `start + bytes · a + files · b`, so
that a snapshot of a million small files and one of a few large ones are both foreseen.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from tierd.catalog import Catalog
from tierd.model.tier import TierName
from tierd.model.value import ASSUMED, Cost

_FORGET = 0.85
"""What an observation counts after each later one: hardware changes, and so do neighbours."""
_PRIOR = 0.02
"""How much the assumption counts against one observation: it decides what observations leave open, no more."""
_LEAST = 0.001
"""No part becomes free, whatever noise says; as a share of what is assumed."""
_ROUNDS = 200

Pair = tuple[TierName, TierName]


@dataclass
class Fit:
    """Weighted least squares of the error per expected second, in units of the assumption, none below `_LEAST`.

    Attributes:
        square: sums of products of the three terms (start, bytes, files), row by row; each: of terms with the aim.
    """

    square: list[float] = field(default_factory=lambda: [_PRIOR, 0.0, 0.0, 0.0, _PRIOR, 0.0, 0.0, 0.0, _PRIOR])
    each: list[float] = field(default_factory=lambda: [_PRIOR] * 3)

    @classmethod
    def of(cls, sums: list[float]) -> Fit:
        return cls(sums[:9], sums[9:])

    @property
    def sums(self) -> list[float]:
        return self.square + self.each

    def add(self, size_bytes: int, files: int, seconds: float) -> None:
        """Take one attempt into account."""
        terms = (ASSUMED.start_s, size_bytes * ASSUMED.s_per_byte, files * ASSUMED.s_per_file)
        expected = sum(terms)  # errors count in proportion to the work
        relative = [term / expected for term in terms]
        fresh = Fit()
        # The prior is not forgotten: what was learned long ago fades towards it.
        for i in range(9):
            old = self.square[i] - fresh.square[i]
            self.square[i] = fresh.square[i] + _FORGET * old + relative[i // 3] * relative[i % 3]
        for i in range(3):
            self.each[i] = fresh.each[i] + _FORGET * (self.each[i] - fresh.each[i]) + relative[i] * seconds / expected

    def solve(self, samples: int) -> Cost:
        x = [1.0, 1.0, 1.0]
        for _ in range(_ROUNDS):  # one term after the other; converges as the sums are of squares
            for i in range(3):
                others = sum(self.square[3 * i + j] * x[j] for j in range(3) if j != i)
                x[i] = max(_LEAST, (self.each[i] - others) / self.square[3 * i + i])
        return Cost(
            start_s=x[0] * ASSUMED.start_s,
            s_per_byte=x[1] * ASSUMED.s_per_byte,
            s_per_file=x[2] * ASSUMED.s_per_file,
            samples=samples,
        )


class Rates:
    """The costs of all pairs of tiers, kept in the catalog. Thread-safe."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._costs: dict[Pair, Cost] = {}
        self._fits: dict[Pair, Fit] = {}
        for pair, (cost, sums) in catalog.measured_rates().items():
            self._costs[pair], self._fits[pair] = cost, Fit.of(sums)

    def learn(self, pair: Pair, size_bytes: int, files: int, seconds: float) -> None:
        """Take an attempt into account that did all of a transfer's work."""
        if seconds <= 0 or size_bytes < 0:
            return
        with self._lock:
            fit = self._fits.setdefault(pair, Fit())
            fit.add(size_bytes, files, seconds)
            known = self._costs.get(pair)
            cost = self._costs[pair] = fit.solve(1 + (known.samples if known else 0))
            sums = fit.sums
        self._catalog.keep_measured_rate(pair, cost, sums)  # without the lock: who asks for a rate waits for no disk

    def cost(self, source: TierName, destination: TierName) -> Cost:
        """From what this pair of tiers achieved, else from the slowest pair known, else assumed (no samples)."""
        with self._lock:
            known = self._costs.get((source, destination))
            if known is not None:
                return known
            return max(self._costs.values(), key=lambda cost: cost.s_per_byte, default=ASSUMED)

    def estimate(self, source: TierName, destination: TierName, size_bytes: int, files: int) -> float | None:
        """Seconds for a whole transfer; None before the first one of all."""
        cost = self.cost(source, destination)
        return None if cost.samples == 0 else cost.seconds(size_bytes, files)
