"""The routes, one module per subject."""

from __future__ import annotations

from fastapi import APIRouter

from tierd.serve.routes import (
    accesses,
    announcements,
    datasets,
    events,
    health,
    leases,
    overview,
    page,
    plan,
    snapshots,
    status,
    transfers,
    warm,
    webhooks,
)

ROUTERS: tuple[APIRouter, ...] = (
    status.router,
    overview.router,
    datasets.router,
    snapshots.router,
    warm.router,
    accesses.router,
    plan.router,
    transfers.router,
    leases.router,
    announcements.router,
    events.router,
    webhooks.router,
    health.router,
    page.router,
)

__all__ = ["ROUTERS"]
