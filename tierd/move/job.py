"""What a worker is told, and what it tells: plain values that cross the process border."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from tierd.config import MoverConfig
from tierd.model.dataset import Snapshot
from tierd.model.effect import Effect
from tierd.model.placement import Placement
from tierd.model.tier import Tier
from tierd.model.transfer import Transfer, TransferState
from tierd.storage.base import Site, Waiting


@dataclass(frozen=True, kw_only=True)
class Place:
    """One end of a transfer: the tier, its expected identity, where the copy lies, and what the catalog says of it."""

    tier: Tier
    identity: str
    site: Site
    placement: Placement | None


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything a worker needs to carry out one transfer.

    Attributes:
        home: the tier whose file system the snapshot's path is on.
        others: further tiers that hold a copy: the path may lead to one of them.
        bytes_per_s: the rate this transfer may use at first; None is no limit.
    """

    transfer: Transfer
    snapshot: Snapshot
    source: Place
    destination: Place
    home: Place
    others: tuple[Place, ...] = ()
    verify: str
    bytes_per_s: int | None
    settings: MoverConfig

    @property
    def places(self) -> tuple[Place, ...]:
        """Every tier that holds, or will hold, a copy."""
        return (self.source, self.destination, *self.others)


class Desk(Protocol):
    """The daemon, as the worker sees it. Calls block until the daemon has done it (and committed it)."""

    def advance(
        self,
        expected: TransferState,
        new: TransferState,
        *,
        effects: tuple[Effect, ...] = (),
        message: str = "",
    ) -> None:
        """Advance the transfer.

        Raises:
            IllegalTransition: the transfer is not in `expected` any more; the worker must stop at once.
            Held: to releasing, while a lease or pin holds the snapshot; nothing was changed.
        """

    def wait(self, expected: TransferState, waiting: Waiting) -> None:
        """Let the transfer wait, in state restoring, until it is time to look again; this attempt ends then.

        Raises:
            IllegalTransition: as for `advance`.
        """

    def let_go(self) -> None:
        """Record that the source's copy is no longer a copy; from here on it may be deleted.

        Raises:
            Held: a lease or pin came meanwhile; nothing was changed.
        """

    def report(self, step: str, *, bytes_done: int, files_done: int) -> int | None:
        """Report where the worker is (totals of this attempt).

        Returns:
            The rate that the transfer may use from now on, in bytes/s; None is no limit.

        Raises:
            Interrupted: the worker is asked to stop; its message is "cancel", "pause" or "stop".
        """
