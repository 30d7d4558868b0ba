"""How much time may go into work that others can cause as often as they like. Pure: it is told the time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Allowance:
    """So much of a core in the long run, and what was saved up at once.

    Attributes:
        share: of a core. most_s: what can be saved up; there is that much at the beginning.
    """

    share: float
    most_s: float
    _left_s: float = 0.0
    _at: float | None = None

    def has_some(self, now: float) -> bool:
        if self._at is None:
            self._left_s = self.most_s
        else:
            self._left_s = min(self.most_s, self._left_s + self.share * max(0.0, now - self._at))
        self._at = now
        return self._left_s > 0.0

    def spend(self, seconds: float) -> None:
        """What was begun with some left may cost more than that: it is paid back."""
        self._left_s -= seconds
