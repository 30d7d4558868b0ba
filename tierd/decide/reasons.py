"""Why snapshots stay as they are: a sentence each, made when somebody reads it.

A plan is drawn up every few seconds, and hardly anybody reads why a hundred thousand snapshots are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from tierd.model.dataset import SnapshotRef

Reason = str | Callable[[], str]


class Reasons(Mapping[SnapshotRef, str]):
    """Sentences by snapshot; one that was set again replaces the one before."""

    def __init__(self) -> None:
        self._reasons: dict[SnapshotRef, Reason] = {}

    def __getitem__(self, ref: SnapshotRef) -> str:
        reason = self._reasons[ref]
        if not isinstance(reason, str):
            reason = self._reasons[ref] = reason()
        return reason

    def __iter__(self) -> Iterator[SnapshotRef]:
        return iter(self._reasons)

    def __len__(self) -> int:
        return len(self._reasons)

    def __eq__(self, other: object) -> bool:
        return dict(self) == dict(other) if isinstance(other, Mapping) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as of any mapping that can change

    def set(self, ref: SnapshotRef, reason: Reason) -> None:
        self._reasons[ref] = reason

    def add(self, ref: SnapshotRef, more: Callable[[], str]) -> None:
        """Something more, after what is said already."""
        first = self._reasons[ref]
        self._reasons[ref] = lambda: f"{first if isinstance(first, str) else first()}; {more()}"

    def drop(self, ref: SnapshotRef) -> None:
        """It does not stay as it is."""
        self._reasons.pop(ref, None)
