"""The daemon's faces for programs and people: REST, events, metrics, health and the page.

Reads the catalog and records wishes in it; never touches a byte of any snapshot.
"""

from __future__ import annotations

from tierd.serve.app import create_app
from tierd.serve.parts import parts_of
from tierd.serve.ports import Clock, Ports, Progress, TrackerStatus
from tierd.serve.server import ApiServer
from tierd.serve.warming import LeaseWish, Leaving, Warmed, Warming

__all__ = [
    "ApiServer",
    "Clock",
    "LeaseWish",
    "Leaving",
    "Ports",
    "Progress",
    "TrackerStatus",
    "Warmed",
    "Warming",
    "create_app",
    "parts_of",
]
