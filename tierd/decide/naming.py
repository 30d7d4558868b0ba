"""Which snapshots a pattern means, and which of a dataset is the latest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from tierd.model.dataset import WHOLE, SnapshotRef
from tierd.model.plan import SnapshotView
from tierd.model.schedule import LATEST

_DIGITS = re.compile(r"([0-9]+)")


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts as people do: v9 comes before v10."""
    parts = _DIGITS.split(name)
    return tuple((1, int(part), "") if number % 2 else (0, 0, part) for number, part in enumerate(parts))


def latest(snapshots: Iterable[SnapshotView], dataset: str) -> SnapshotView | None:
    """The snapshot of a dataset that was found last, of those that are there."""
    present = [s for s in snapshots if s.ref.dataset == dataset and s.snapshot.gone_at is None]
    return max(present, key=lambda s: (s.snapshot.first_seen_at, natural(s.ref.name)), default=None)


def named(snapshots: Sequence[SnapshotView], ref: SnapshotRef) -> SnapshotView | None:
    """The snapshot of this name; `DATASET/latest` is the latest one, unless one has that very name."""
    exact = next((s for s in snapshots if s.ref == ref and s.snapshot.gone_at is None), None)
    return exact or (latest(snapshots, ref.dataset) if ref.name == LATEST else None)


def matching(snapshots: Sequence[SnapshotView], pattern: str) -> list[SnapshotView]:
    """The snapshots that a schedule's `snapshots` means now, in natural order."""
    dataset, slash, name = pattern.partition("/")
    of_dataset = [s for s in snapshots if fnmatchcase(s.ref.dataset, dataset) and s.snapshot.gone_at is None]
    found = [s for s in of_dataset if fnmatchcase(s.ref.name, name if slash else WHOLE)]
    if name == LATEST:
        missing = {s.ref.dataset for s in of_dataset} - {s.ref.dataset for s in found}
        found += [s for one in missing if (s := latest(of_dataset, one)) is not None]
    return sorted(found, key=lambda s: (s.ref.dataset, natural(s.ref.name)))
