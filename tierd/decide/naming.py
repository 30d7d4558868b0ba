"""Which snapshots a pattern means, and which of a dataset is the latest."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from fnmatch import fnmatchcase

from tierd.model.dataset import WHOLE, SnapshotRef
from tierd.model.plan import SnapshotView
from tierd.model.schedule import LATEST

_DIGITS = re.compile(r"([0-9]+)")
_GLOB = re.compile(r"[*?[]")


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts as people do: v9 comes before v10."""
    parts = _DIGITS.split(name)
    return tuple((1, int(part), "") if number % 2 else (0, 0, part) for number, part in enumerate(parts))


class Names:
    """The snapshots that are there, by their names: made once, asked for every schedule."""

    def __init__(self, snapshots: Iterable[SnapshotView]) -> None:
        self._by_dataset: defaultdict[str, dict[str, SnapshotView]] = defaultdict(dict)
        for s in snapshots:
            if s.snapshot.gone_at is None:
                self._by_dataset[s.snapshot.ref.dataset][s.snapshot.ref.name] = s

    def latest(self, dataset: str) -> SnapshotView | None:
        """The snapshot of a dataset that was found last; of several the one that sorts last."""
        present = self._by_dataset.get(dataset)
        if not present:
            return None
        newest = max(s.snapshot.first_seen_at for s in present.values())
        found = [s for s in present.values() if s.snapshot.first_seen_at == newest]
        return max(found, key=lambda s: natural(s.ref.name))

    def named(self, ref: SnapshotRef) -> SnapshotView | None:
        """The snapshot of this name; `DATASET/latest` is the latest one, unless one has that very name."""
        exact = self._by_dataset.get(ref.dataset, {}).get(ref.name)
        return exact or (self.latest(ref.dataset) if ref.name == LATEST else None)

    def matching(self, pattern: str) -> list[SnapshotView]:
        """The snapshots that a schedule's `snapshots` means now, in natural order."""
        dataset, slash, name = pattern.partition("/")
        name = name if slash else WHOLE
        found: list[SnapshotView] = []
        for each in self._datasets(dataset):
            if _GLOB.search(name):
                found += [s for own, s in self._by_dataset[each].items() if fnmatchcase(own, name)]
            elif (one := self.named(SnapshotRef(each, name))) is not None:
                found.append(one)
        return sorted(found, key=lambda s: (s.ref.dataset, natural(s.ref.name)))

    def _datasets(self, pattern: str) -> list[str]:
        if not _GLOB.search(pattern):
            return [pattern] if pattern in self._by_dataset else []
        return [name for name in self._by_dataset if fnmatchcase(name, pattern)]
