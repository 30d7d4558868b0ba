"""The operator's page: one look at what is where, what moves, what is held, and what comes next.

Rendered on the server with everything escaped: names are chosen by others. All of it can be read without a script;
the script only keeps it up to date.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from importlib import resources
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from tierd import __version__
from tierd.catalog import Catalog
from tierd.errors import TierdError
from tierd.model.placement import Residency
from tierd.model.plan import Plan, View
from tierd.model.units import format_duration, format_rate, format_size
from tierd.serve.auth import Caller
from tierd.serve.listeners import Listeners
from tierd.serve.look import Look, live_transfers
from tierd.serve.ports import Clock
from tierd.serve.table import Query, find
from tierd.serve.tally import Tally
from tierd.serve.trends import Trends
from tierd.serve.views import Views
from tierd.serve.watch import Watch

log = logging.getLogger(__name__)

SHOWN = timedelta(seconds=1)
"""How old the page may be: however many look at it, it is rendered once in this time."""

KNOWN = timedelta(seconds=5)
"""How long the page may miss something that was recorded, where there are very many snapshots."""

LISTENERS = 200
"""Browsers that may listen for changes at the same time."""
_HEARTBEAT_S, _BETWEEN_S, _RETRY_MS = 15.0, 1.0, 2000
_MANY = 2000
_MAX_STEPS, _MAX_EVENTS, _MAX_LEASES = 30, 25, 100
_TYPES: Mapping[str, str] = MappingProxyType(
    {"tierd.css": "text/css", "tierd.js": "text/javascript", "tierd.svg": "image/svg+xml"}
)


@dataclass(frozen=True, kw_only=True)
class StaticFile:
    """A file of the page."""

    content: bytes
    media_type: str
    etag: str


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the page shows of. `at`: when it was begun to be read; `moves`: transfers, whose progress has no events."""

    view: View
    plan: Plan
    tally: Tally
    last_event_id: int
    at: datetime
    moves: bool

    @property
    def is_many(self) -> bool:
        return len(self.view.snapshots) >= _MANY


class Page:
    """Renders the page. Thread-safe."""

    def __init__(self, catalog: Catalog, views: Views, look: Look, clock: Clock, trends: Trends) -> None:
        self._trends = trends
        self._listeners, self._moves = Listeners(LISTENERS), True
        self._known: Known | None = None
        self._thinking = threading.Lock()
        self._catalog, self._views, self._look, self._clock = catalog, views, look, clock
        self._lock = threading.Lock()
        self._last: tuple[datetime, tuple[str, str]] | None = None
        self._templates = Environment(
            loader=PackageLoader("tierd.serve"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._templates.filters["address"] = lambda name: quote(name, safe="", errors="replace")
        self._templates.filters |= {"size": format_size, "rate": format_rate, "duration": format_duration}
        self._files = {name: _load(name) for name in _TYPES}

    def render(self, template: str, **values: Any) -> str:
        """A part of the page."""
        return self._templates.get_template(template).render(**values)

    def whole(self, query: Query, caller: Caller) -> str:
        """The overview with its present content."""
        body = self.render(
            "overview.html", content=self.content(), rest=self.rest(), table=self.table(query), query=query
        )
        return self.shell("", body, caller)

    def shell(self, title: str, body: str, caller: Caller | None = None) -> str:
        """A whole page around what is shown. `body` was rendered by a template here, which escapes everything."""
        return self.render("page.html", version=__version__, title=title, body=body, caller=caller)

    def problem(self, error: TierdError, *, signs_in: bool = False) -> str:
        """What is shown instead when something is wrong."""
        return self.shell("problem", self.render("problem.html", error=error, signs_in=signs_in))

    def sign_in(self) -> str:
        """Where a browser shows its token."""
        return self.shell("sign in", self.render("problem.html", error=None, signs_in=True))

    def docs(self, schema: Mapping[str, Any]) -> str:
        """The API's description, for people."""
        return self.shell("API", self.render("docs.html", schema=schema))

    def table(self, query: Query) -> str:
        """One page of the table of snapshots. Of very many snapshots it may be a few seconds old."""
        now, known = self._clock(), self.known()
        view, plan = known.view, known.plan
        found, next_steps = find(view, query), {s.ref: s for s in plan.steps}
        return self.render(
            "snapshots.html",
            now=now,
            query=query,
            found=found,
            residencies=list(Residency),
            rows=[
                (
                    self._look.snapshot(s, view.residency(s), now),
                    next_steps[s.ref].reason if s.ref in next_steps else plan.kept.get(s.ref, ""),
                )
                for s in found.rows
            ],
        )

    def known(self) -> Known:
        """What is where, and what the planner would do.

        Of very many snapshots both are what was known last, while it is thought over again: they miss what was recorded
        in the last KNOWN, and while nothing moves and nothing is recorded at all, the newest access times, until the
        next look. How full the tiers are is always of now.
        """
        known, now = self._known, self._clock()
        if known is None or not known.is_many or self._is_outdated(known, now):
            known = self._know()
        elif not _is_younger(known.at, SHOWN, now) and self._thinking.acquire(blocking=False):
            threading.Thread(target=self._think, name="tierd-page-plan", daemon=True).start()
        return replace(known, view=self._views.with_usage(known.view))

    def listen(self, watch: Watch) -> AsyncIterator[str]:
        """Tells a browser that something changed: at most once a second, however much happens.

        Raises:
            TooManyListeners: as many as may are listening.
        """
        self._listeners.check()
        return self._changes(watch)

    async def _changes(self, watch: Watch) -> AsyncIterator[str]:
        with self._listeners.one():
            yield f"retry: {_RETRY_MS}\n\n"
            with watch.waiting() as waiter:
                while not watch.is_closed:
                    waiter.rest()
                    yield "event: change\ndata: \n\n"
                    await asyncio.sleep(_BETWEEN_S)
                    # What moves has progress of which there are no events; ages on the page go on by themselves.
                    if not self._moves:
                        await waiter.wait(_HEARTBEAT_S)

    def content(self) -> str:
        """The tiers and what moves."""
        return self._parts()[0]

    def rest(self) -> str:
        """What comes next, what is held, what happened."""
        return self._parts()[1]

    def _parts(self) -> tuple[str, str]:
        with self._lock:
            now = self._clock()
            if self._last is None or not _is_younger(self._last[0], SHOWN, now):
                self._last = (now, self._render(now))
            return self._last[1]

    def file(self, name: str) -> StaticFile | None:
        """A file that the page refers to; only those listed here exist, whatever the name looks like."""
        return self._files.get(name)

    def _is_outdated(self, known: Known, now: datetime) -> bool:
        has_changed = known.moves or known.last_event_id != self._catalog.last_event_id()
        return has_changed and not _is_younger(known.at, KNOWN, now)

    def _know(self) -> Known:
        # Before the view, so that an event in between counts as missed.
        now, newest = self._clock(), self._catalog.last_event_id()
        (view, tally), plan = self._views.recent_summed_up(), self._views.plan()
        moves = bool(live_transfers(view))
        self._known = Known(view=view, plan=plan, tally=tally, last_event_id=newest, at=now, moves=moves)
        return self._known

    def _think(self) -> None:
        try:
            self._know()
        except TierdError as e:
            log.warning("cannot plan for the page: %s", e, extra={"action": "page_plan_failed"})
        finally:
            self._thinking.release()

    def _render(self, now: datetime) -> tuple[str, str]:
        known, look = self.known(), self._look
        view, plan = known.view, known.plan
        holds = sorted(
            ((h, s.ref) for s in view.snapshots for h in s.holds if h.is_active(now)), key=lambda held: held[0].id
        )
        live = live_transfers(view)
        self._moves = bool(live)
        top = self.render(
            "content.html",
            now=now,
            tiers=look.tiers(view),
            forecast=self._trends.forecast(view, now),
            transfers=[look.transfer(t) for t in live],
            notes=plan.notes,
            is_paused=self._catalog.all_paused,
        )
        rest = self.render(
            "rest.html",
            now=now,
            trends=self._trends.pictures(view, now),
            leases=[look.hold(h, ref) for h, ref in holds[:_MAX_LEASES]],
            leases_total=len(holds),
            steps=look.steps(plan, _MAX_STEPS),
            steps_total=len(plan.steps),
            events=[look.event(e) for e in self._catalog.events(limit=_MAX_EVENTS, newest_first=True)],
        )
        return top, rest


def _is_younger(at: datetime, bound: timedelta, now: datetime) -> bool:
    return timedelta(0) <= now - at < bound


def _load(name: str) -> StaticFile:
    content = resources.files("tierd.serve").joinpath("static", name).read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    return StaticFile(content=content, media_type=_TYPES[name], etag=etag)
