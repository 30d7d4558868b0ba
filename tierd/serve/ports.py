"""What serve needs from parts it may not import; the daemon implements it.

Every method but the last three is called from several threads at once and on the way of a request: it must be
thread-safe, must not touch a disk that may hang, and must return within a millisecond (from what the daemon last
measured or was told).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from tierd.model.dataset import Snapshot
from tierd.model.hold import Tie
from tierd.model.observation import AccessBatch, TrackerStatus
from tierd.model.part import Part, PartSize
from tierd.model.placement import Placement
from tierd.model.pressure import Busy
from tierd.model.s3 import Counts
from tierd.model.tier import TierName, TierUsage
from tierd.model.transfer import Progress, TransferId
from tierd.model.value import Cost
from tierd.model.webhook import WebhookStatus, WebhookTest

__all__ = ["Clock", "Ports", "Progress", "TrackerStatus"]

Clock = Callable[[], datetime]
"""Tells the time, as an aware datetime in UTC."""


class Ports(Protocol):
    """The daemon, as far as the API may know it."""

    def usage(self) -> Mapping[TierName, TierUsage]:
        """How full each configured tier was when last looked at; a tier that is missing here counts as offline."""

    def progress(self, transfer_id: TransferId) -> Progress | None:
        """The progress of a transfer that a worker carries out now; None for every other."""

    def asked(self) -> Mapping[TierName, Mapping[str, Counts]]:
        """Requests that transfers made of each store since the start, by operation."""

    def tracker_status(self) -> TrackerStatus:
        """The state of access tracking."""

    def accessed(self, batches: Sequence[AccessBatch]) -> None:
        """Take uses that somebody told of, as if they had been seen. Only takes, never waits."""

    def last_scan_at(self) -> datetime | None:
        """When the last full scan of all datasets succeeded; None before the first."""

    def loop_is_fresh(self) -> bool:
        """Whether the control loop ran lately. False means that the daemon should be restarted."""

    def is_ready(self) -> bool:
        """Whether the first scan is done and the tiers are known."""

    def busy(self) -> Busy:
        """How busy the disks are with the work of others, as last looked at."""

    def webhook_statuses(self) -> Sequence[WebhookStatus]:
        """How each webhook is doing, in the order of the configuration."""

    def wake(self) -> None:
        """Let the control loop run now. Only asks, never waits; many calls are as good as one."""

    def tie_to(self, pid: int) -> Tie | None:
        """A tie to a process of this machine; None where it does not live."""

    def numbers_alike(self, pid: int) -> bool:
        """Whether a process numbers processes as this machine does; not so in a container with numbers of its own."""

    def costs(self) -> Mapping[TierName, Cost]:
        """What bringing snapshots to flash takes, by cold tier, from what was measured."""

    def estimate(self, source: TierName, destination: TierName, size_bytes: int, files: int) -> float | None:
        """Seconds to copy and verify this much between two tiers, from what was measured; None if nothing was."""

    def measure(self, snapshot: Snapshot, placement: Placement, only: tuple[str, ...]) -> PartSize:
        """How much the files of a copy come to that match these patterns. Unlike the rest it reads from a tier, and
        may take seconds.

        Raises:
            NotFound: none matches.
            TierdError: the copy's manifest cannot be read.
        """

    def is_untouched(self, part: Part) -> bool:
        """Whether a part is there, and as it was made. As `measure` it reads from a tier.

        Raises:
            TierdError: it cannot be looked at.
        """

    def test_webhook(self, name: str) -> WebhookTest:
        """Send a test event to a webhook; takes as long as its receiver, up to its timeout.

        Raises:
            NotFound: there is none of that name.
        """
