"""Whether the daemon is alive, and whether it can do its work."""

from __future__ import annotations

import os

from tierd.catalog import Catalog
from tierd.errors import CatalogError
from tierd.serve.ports import Ports
from tierd.serve.schemas import HealthOut

_MIN_FREE_BYTES = 1 << 20


def alive(ports: Ports) -> HealthOut:
    """Alive: this answers, and the control loop ran lately. When it fails, a restart is what helps."""
    return _sum_up({"control_loop": "ok" if ports.loop_is_fresh() else "has not run for too long"})


def ready(ports: Ports, catalog: Catalog) -> HealthOut:
    """Ready: the first scan is done and the catalog can be read and written."""
    return _sum_up(
        {"first_scan": "ok" if ports.is_ready() else "not done yet", "catalog": _catalog(catalog)},
    )


def _sum_up(checks: dict[str, str]) -> HealthOut:
    return HealthOut(status="ok" if all(v == "ok" for v in checks.values()) else "failing", checks=checks)


def _catalog(catalog: Catalog) -> str:
    """Without writing: a probe that writes would wear the disk and fill the history."""
    try:
        catalog.transfers(live_only=True, limit=1)
        room = os.statvfs(catalog.path.parent)
        if not os.access(catalog.path, os.W_OK):
            return "cannot be written"
    except CatalogError as e:
        return e.message
    except OSError as e:
        return f"cannot be reached: {e.strerror}"
    return "ok" if room.f_bavail * room.f_frsize >= _MIN_FREE_BYTES else "has no room left to write"
