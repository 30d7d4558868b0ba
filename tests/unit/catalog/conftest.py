"""A catalog on a temporary file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.catalog.catalog_world import World, configured
from tierd.catalog import Catalog


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with Catalog.open(tmp_path / "tierd.db", wait_s=0) as catalog:
        yield configured(catalog, tmp_path)
