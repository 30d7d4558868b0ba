"""The application: builds the parts, mounts the routes, completes the OpenAPI schema. Listens nowhere by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware import Middleware

from tierd import __version__
from tierd.catalog import Catalog
from tierd.config import Config
from tierd.serve import problems
from tierd.serve.asking import no_unknown_query
from tierd.serve.auth import Gate
from tierd.serve.events import EventStreams
from tierd.serve.finding import Finder
from tierd.serve.guard import Guard
from tierd.serve.look import Look
from tierd.serve.meters import Metered, Meters
from tierd.serve.metrics import registry
from tierd.serve.page import Page
from tierd.serve.parts import Parts
from tierd.serve.ports import Clock, Ports
from tierd.serve.routes import ROUTERS
from tierd.serve.schemas import Problem
from tierd.serve.sessions import Sessions
from tierd.serve.snapshot_page import SnapshotPage
from tierd.serve.trends import Trends
from tierd.serve.views import Views
from tierd.serve.warming import Warming
from tierd.serve.watch import Watch
from tierd.serve.wishes import Wishes
from tierd.serve.writers import Writers

_ABOUT = """Where dataset snapshots are, and how to have them on flash before a job reads them.

Every error is a problem document (RFC 9457) with a stable `code` and a `hint`. Times are RFC 3339 in UTC, durations
seconds, sizes bytes."""


def _now() -> datetime:
    return datetime.now(UTC)


def create_app(*, config: Config, catalog: Catalog, ports: Ports, clock: Clock = _now) -> FastAPI:
    """Build the application.

    Args:
        config: what is configured; tiers, datasets and who may do what.
        catalog: open; stays open longer than the application is used.
        ports: the daemon, as far as the API may know it.
        clock: tells the time.
    """
    parts = _parts(config, catalog, ports, clock)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sampling = asyncio.create_task(parts.trends.run())
        yield
        sampling.cancel()
        parts.watch.close()

    app = FastAPI(
        title="tierd",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        # The pages of these need files from a network of somebody else.
        docs_url=None,
        redoc_url=None,
        dependencies=[Depends(no_unknown_query)],
        middleware=[Middleware(Metered, parts.meters), Middleware(Guard)],
        redirect_slashes=False,
    )
    app.state.parts = parts
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router)
    _complete_schema(app)
    return app


def _parts(config: Config, catalog: Catalog, ports: Ports, clock: Clock) -> Parts:
    views = Views(config, catalog, ports, clock)
    look, finder = Look(views, ports, clock), Finder(config, catalog, clock)
    sessions = Sessions(catalog.path.with_name("page.key"), clock)
    metrics = registry(catalog, ports, views, clock)
    trends = Trends(ports, clock)
    page = Page(catalog, views, look, clock, trends)
    return Parts(
        config=config,
        catalog=catalog,
        ports=ports,
        clock=clock,
        started_at=clock(),
        gate=Gate(config.api, sessions=sessions),
        sessions=sessions,
        views=views,
        look=look,
        finder=finder,
        warming=Warming(catalog, ports, clock, views, finder),
        wishes=Wishes(catalog, ports, clock, views, finder),
        watch=Watch(catalog),
        event_streams=EventStreams(catalog, look),
        writers=Writers(),
        measurers=Writers.for_measuring(),
        registry=metrics,
        page=page,
        trends=trends,
        snapshot_page=SnapshotPage(
            catalog=catalog, views=views, look=look, finder=finder, clock=clock, render=page.render
        ),
        meters=Meters(metrics),
    )


def _complete_schema(app: FastAPI) -> None:
    """Add what FastAPI cannot know: the problem document that the routes' responses refer to."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            shapes = Problem.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
            components = schema.setdefault("components", {}).setdefault("schemas", {})
            components.update(shapes.pop("$defs", {}))
            components["Problem"] = shapes
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the documented way to change the schema
