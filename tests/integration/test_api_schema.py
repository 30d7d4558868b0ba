"""The OpenAPI schema is the truth: schemathesis asks every route everything it can think of."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case
from schemathesis.specs.openapi.checks import negative_data_rejection

from tests.api_world import TOKENS, S, api_world
from tierd.model.transfer import TransferKind


def _filled() -> schemathesis.BaseSchema:
    # Cases are generated while tests are collected, so this cannot be a fixture.
    directory = Path(tempfile.mkdtemp(prefix="tierd-schema-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    stack = ExitStack()
    atexit.register(stack.close)
    world = stack.enter_context(api_world(directory))
    v1 = world.add("v1")
    world.run(world.enqueue(v1), S.COPYING, S.FAILED)
    world.add_migrated("v2")
    world.enqueue(world.add_migrated("v3"), TransferKind.RECALL)
    world.add("self", dataset="laion", problem="a hard link leads outside")
    world.catalog.pin(v1.id, "me", world.now, note="n")
    app = world.app()
    # Nobody waits: long-polls and the stream of events answer at once.
    app.state.parts.watch.close()
    return schemathesis.openapi.from_asgi("/openapi.json", app)


schema = _filled()


@schema.parametrize()
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_route_keeps_to_its_schema(case: Case[Any]) -> None:
    # An empty list or object as the value of a parameter is not sent at all: what arrives is a valid request.
    vanishes = any(value in ([], {}, None) for value in (case.query or {}).values())
    case.call_and_validate(
        headers={"Authorization": f"Bearer {TOKENS['admin']}"},
        excluded_checks=[negative_data_rejection] if vanishes else [],
    )
