"""The catalog: what tierd knows, in one SQLite file; the only meeting place of the packages.

Owns snapshots, placements, holds, transfers, their history, and the rules that the database itself enforces. It
knows no file of any snapshot, reads no clock, and decides nothing.
"""

from __future__ import annotations

from tierd.catalog.accesses import Accesses
from tierd.catalog.announcing import Announcing
from tierd.catalog.effects import Placements
from tierd.catalog.events import Events
from tierd.catalog.history import KEEP_EPISODES, History, RankedBy, SpanPlace
from tierd.catalog.holds import Holds
from tierd.catalog.measured import Measured
from tierd.catalog.noting import EPISODE_GAP
from tierd.catalog.parts import Parts
from tierd.catalog.rebuilding import Rebuilding, Restored
from tierd.catalog.settings import Settings
from tierd.catalog.snapshots import Snapshots
from tierd.catalog.ties import Ties
from tierd.catalog.transfers import Transfers
from tierd.catalog.view import CatalogCounts, TransferCount, Views

__all__ = [
    "EPISODE_GAP",
    "KEEP_EPISODES",
    "Catalog",
    "CatalogCounts",
    "RankedBy",
    "Restored",
    "SpanPlace",
    "TransferCount",
]


class Catalog(
    Settings,
    Snapshots,
    Accesses,
    History,
    Placements,
    Transfers,
    Holds,
    Events,
    Views,
    Rebuilding,
    Measured,
    Ties,
    Announcing,
    Parts,
):
    """The open catalog, one part per subject; `Catalog.open(path)` opens it.

    Every method may be called from any thread. A method that changes something has committed when it returns,
    events included; none is left half done when it raises. Times are passed in.
    """
