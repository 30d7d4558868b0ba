"""Events: the history that answers «why was it moved at 03:12?»."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from tierd.model.dataset import SnapshotRef
from tierd.model.transfer import TransferId

Detail = Mapping[str, str | int | float | bool | None]

BAD = frozenset({"failed", "corrupt", "offline", "gone", "refused", "empty", "problem", "unobserved"})
"""Last words of kinds that somebody should look at."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened.

    Attributes:
        id: grows by one with each event; a reader continues after the last id it saw.
        kind: dotted, stable: `snapshot.found`, `snapshot.changed`, `snapshot.renamed`, `snapshot.gone`,
            `transfer.queued`, `transfer.restoring`, `transfer.copying`, …, `transfer.failed`, `lease.granted`,
            `lease.renewed`, `lease.ended`, `lease.expired`, `pin.set`, `pin.removed`,
            `announcement.made`, `announcement.changed`, `announcement.withdrawn`, `announcement.over`,
            `schedule.warmed`, `schedule.refused`, `schedule.empty`, `dataset.phase`, `tier.offline`, `tier.online`,
            `daemon.started`, `daemon.stopped`, `webhook.failed`.
    """

    id: int
    at: datetime
    kind: str
    ref: SnapshotRef | None = None
    transfer_id: TransferId | None = None
    message: str = ""
    detail: Detail = field(default_factory=dict)

    @property
    def is_bad(self) -> bool:
        """Whether somebody should look at it."""
        return self.kind.rpartition(".")[2] in BAD
