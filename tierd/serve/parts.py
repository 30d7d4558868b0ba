"""What every route works with, and how it gets at it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, cast

from fastapi import Depends, FastAPI, Request
from prometheus_client import CollectorRegistry

from tierd.catalog import Catalog
from tierd.config import Config
from tierd.serve.auth import Gate
from tierd.serve.events import EventStreams
from tierd.serve.finding import Finder
from tierd.serve.look import Look
from tierd.serve.meters import Meters
from tierd.serve.page import Page
from tierd.serve.ports import Clock, Ports
from tierd.serve.sessions import Sessions
from tierd.serve.snapshot_page import SnapshotPage
from tierd.serve.trends import Trends
from tierd.serve.views import Views
from tierd.serve.warming import Warming
from tierd.serve.watch import Watch
from tierd.serve.wishes import Wishes
from tierd.serve.writers import Writers


@dataclass(frozen=True, kw_only=True)
class Parts:
    """One of each, built by `create_app`."""

    config: Config
    catalog: Catalog
    ports: Ports
    clock: Clock
    started_at: datetime
    gate: Gate
    sessions: Sessions
    views: Views
    look: Look
    finder: Finder
    warming: Warming
    wishes: Wishes
    watch: Watch
    event_streams: EventStreams
    registry: CollectorRegistry
    page: Page
    trends: Trends
    snapshot_page: SnapshotPage
    writers: Writers
    measurers: Writers
    meters: Meters


def parts_of(app: FastAPI) -> Parts:
    """Those of an application that `create_app` built."""
    return cast(Parts, app.state.parts)


async def _parts(request: Request) -> Parts:
    # async although nothing is awaited: a plain function would cost every request a hop to a pool thread.
    return cast(Parts, request.app.state.parts)


Have = Annotated[Parts, Depends(_parts)]
"""Annotation of a route's parameter that receives the parts."""
