"""The dashboard's generator, which is a script and no module of a package."""

from __future__ import annotations

import importlib.util
import re
import sys
from typing import Any

from tests.monitoring import DEPLOY

_PLACEHOLDERS = {
    "$__rate_interval": "15s",  # Grafana: four times the scrape interval at least
    "$instance": ".*",
    "$tier": ".*",
}


def generator() -> Any:
    """The module deploy/grafana/generate.py."""
    name = "tierd_dashboard"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, DEPLOY / "grafana" / "generate.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def queries() -> list[tuple[str, str, str | None]]:
    """Every query with its placeholders filled in: the panel's title, the query, and why it may have no result."""
    return [
        (f"{row}: {panel.title}", filled(query.expr), query.empty)
        for row, panels in generator().ROWS
        for panel in panels
        for query in panel.queries
    ]


def filled(expr: str) -> str:
    for name, value in _PLACEHOLDERS.items():
        expr = expr.replace(name, value)
    assert not re.search(r"\$\w", expr), expr
    return expr
