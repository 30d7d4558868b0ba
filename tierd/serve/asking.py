"""What requests have in common: names of snapshots in paths, and the refusal of unknown query parameters."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Path, Request
from fastapi.exceptions import RequestValidationError
from pydantic.json_schema import SkipJsonSchema

from tierd.errors import InvalidRequest, NotFound
from tierd.model.dataset import WHOLE, SnapshotRef
from tierd.serve.auth import Caller, Needs, Role

_FAULT = {"type": "extra_forbidden", "msg": "Unknown query parameter", "input": None}

MAX_ID = 2**53 - 1
"""The largest whole number that every JSON reader keeps."""

Id = Annotated[int, Path(ge=1, le=MAX_ID)]

Absent = SkipJsonSchema[None]
"""An optional parameter may be left out; there is no way to send null for it."""

Reader = Annotated[Caller, Depends(Needs(Role.READ))]
Warmer = Annotated[Caller, Depends(Needs(Role.WARM))]
Admin = Annotated[Caller, Depends(Needs(Role.ADMIN))]


def ttl(lease_s: float) -> timedelta:
    """How long a lease lives: at least a millisecond, because times are kept in whole microseconds."""
    return max(timedelta(seconds=lease_s), timedelta(milliseconds=1))


def named(text: str) -> SnapshotRef:
    """The snapshot that a request names; a text that cannot be a name names nothing.

    Raises:
        NotFound: it cannot name a snapshot.
    """
    dataset, _, name = text.partition("/")
    try:
        return SnapshotRef.parse(dataset if name == WHOLE else text)
    except InvalidRequest as e:
        raise NotFound(e.message, hint=e.hint) from e


async def _ref(
    dataset: Annotated[str, Path(min_length=1, description="Name of the dataset.")],
    snapshot: Annotated[str, Path(min_length=1, description='Name of the snapshot; "self" for a whole dataset.')],
) -> SnapshotRef:
    return named(f"{dataset}/{snapshot}")


Named = Annotated[SnapshotRef, Depends(_ref)]
"""Annotation of a route's parameter: the snapshot of its path."""


async def no_unknown_query(request: Request) -> None:
    """Refuse query parameters that the route does not have: a misspelt filter must not list everything.

    Raises:
        RequestValidationError: naming them.
    """
    if not request.query_params:
        return
    path = str(getattr(request.scope.get("route"), "path", ""))
    # The schema is made once and kept by the application.
    operation = request.app.openapi()["paths"].get(path, {}).get(request.method.lower(), {})
    known = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "query"}
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise RequestValidationError([{**_FAULT, "loc": ("query", name)} for name in unknown])
