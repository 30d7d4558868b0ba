"""The operator's page: one look at what is where, what moves, what is held, and what comes next.

Rendered on the server with everything escaped: names are chosen by others. The page shows and changes nothing.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import resources
from types import MappingProxyType

from jinja2 import Environment, PackageLoader, StrictUndefined

from tierd import __version__
from tierd.catalog import Catalog
from tierd.model.units import format_duration, format_rate, format_size
from tierd.serve.look import Look, live_transfers
from tierd.serve.ports import Clock
from tierd.serve.views import Views

SHOWN = timedelta(seconds=1)
"""How old the page may be: however many look at it, it is rendered once in this time."""

_MAX_SNAPSHOTS, _MAX_STEPS, _MAX_EVENTS, _MAX_LEASES = 200, 30, 25, 100
_TYPES: Mapping[str, str] = MappingProxyType(
    {"tierd.css": "text/css", "tierd.js": "text/javascript", "tierd.svg": "image/svg+xml"}
)


@dataclass(frozen=True, kw_only=True)
class StaticFile:
    """A file of the page."""

    content: bytes
    media_type: str
    etag: str


class Page:
    """Renders the page. Thread-safe."""

    def __init__(self, catalog: Catalog, views: Views, look: Look, clock: Clock) -> None:
        self._catalog, self._views, self._look, self._clock = catalog, views, look, clock
        self._lock = threading.Lock()
        self._last: tuple[datetime, str] | None = None
        self._templates = Environment(
            loader=PackageLoader("tierd.serve"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._templates.filters |= {"size": format_size, "rate": format_rate, "duration": format_duration}
        self._files = {name: _load(name) for name in _TYPES}

    def whole(self) -> str:
        """The page with its present content."""
        return self._templates.get_template("page.html").render(version=__version__, content=self.content())

    def content(self) -> str:
        """The part that changes."""
        with self._lock:
            now = self._clock()
            if self._last is None or not timedelta(0) <= now - self._last[0] < SHOWN:
                self._last = (now, self._render(now))
            return self._last[1]

    def file(self, name: str) -> StaticFile | None:
        """A file that the page refers to; only those listed here exist, whatever the name looks like."""
        return self._files.get(name)

    def _render(self, now: datetime) -> str:
        view, plan, look = self._views.recent(), self._views.plan(), self._look
        known = (*view.snapshots, *view.orphans)
        newest_use_first = sorted(known, key=lambda s: s.snapshot.accessed_at, reverse=True)
        holds = sorted(
            ((h, s.ref) for s in view.snapshots for h in s.holds if h.is_active(now)), key=lambda held: held[0].id
        )
        live = live_transfers(view)
        return self._templates.get_template("content.html").render(
            now=now,
            tiers=look.tiers(view),
            snapshots=[look.snapshot(s, view.residency(s), now) for s in newest_use_first[:_MAX_SNAPSHOTS]],
            snapshots_total=len(known),
            transfers=[look.transfer(t) for t in live],
            leases=[look.hold(h, ref) for h, ref in holds[:_MAX_LEASES]],
            leases_total=len(holds),
            steps=look.plan(plan).steps[:_MAX_STEPS],
            steps_total=len(plan.steps),
            notes=plan.notes,
            events=[look.event(e) for e in self._catalog.events(limit=_MAX_EVENTS, newest_first=True)],
            is_paused=self._catalog.all_paused,
        )


def _load(name: str) -> StaticFile:
    content = resources.files("tierd.serve").joinpath("static", name).read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    return StaticFile(content=content, media_type=_TYPES[name], etag=etag)
