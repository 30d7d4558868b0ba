"""The dashboard is what its generator makes, has the shape that Grafana reads, and its queries are sound."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.dashboard import generator, queries
from tests.monitoring import DEPLOY, needs, promtool

SCHEMA = json.loads((Path(__file__).parent / "grafana_dashboard.schema.json").read_text())


@pytest.fixture
def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DEPLOY / "grafana" / "tierd.json").read_text())
    return loaded


def test_the_file_is_what_the_generator_makes() -> None:
    assert (DEPLOY / "grafana" / "tierd.json").read_text() == generator().text(), "run deploy/grafana/generate.py"


def test_it_has_the_shape_that_grafana_reads(dashboard: dict[str, Any]) -> None:
    jsonschema.validate(dashboard, SCHEMA)


@pytest.mark.parametrize(
    ("where", "wrong"),
    [(("gridPos", "h"), "x"), (("gridPos", "w"), 25), (("type",), "grahp"), (("targets", 0, "expr"), "")],
)
def test_a_wrong_shape_would_be_noticed(dashboard: dict[str, Any], where: tuple[Any, ...], wrong: object) -> None:
    broken = copy.deepcopy(dashboard)
    place = broken["panels"][1]
    for step in where[:-1]:
        place = place[step]
    place[where[-1]] = wrong
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, SCHEMA)


def test_panels_have_their_own_places_and_numbers(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert at["x"] + at["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells


@needs("promtool")
def test_prometheus_can_read_every_query(tmp_path: Path) -> None:
    rules = [{"record": f"query:{number}", "expr": expr} for number, (_, expr, _) in enumerate(queries())]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", file)


def test_whoever_sees_an_empty_panel_reads_why(dashboard: dict[str, Any]) -> None:
    described = {panel["title"]: panel.get("description", "") for panel in dashboard["panels"]}
    for title, _, empty in queries():
        assert empty is None or empty in " ".join(described.values()), title
