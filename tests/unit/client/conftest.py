"""A real API on a real socket, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api_world import ApiWorld, api_world, listening
from tierd.client import Tierd
from tierd.serve import ApiServer


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ApiWorld]:
    with api_world(tmp_path) as world:
        yield world


@pytest.fixture
def server(world: ApiWorld) -> Iterator[ApiServer]:
    with listening(world) as server:
        yield server


@pytest.fixture
def tierd(server: ApiServer) -> Tierd:
    return Tierd(f"unix://{server.socket}", patience="20s")
