"""What requests have in common: names of snapshots in paths, and the refusal of unknown query parameters."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Path, Request
from fastapi.exceptions import RequestValidationError
from pydantic.json_schema import SkipJsonSchema

from tierd.errors import Conflict, InvalidRequest, NotFound
from tierd.model.dataset import WHOLE, SnapshotRef
from tierd.model.hold import Tie
from tierd.serve.auth import Caller, Needs, Role
from tierd.serve.ports import Ports
from tierd.serve.schemas import Tied

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


def tie_of(body: Tied, caller: Caller, ports: Ports) -> Tie | None:
    """What a lease shall end with.

    Raises:
        Conflict: the process does not live, cannot be known from here, or more than one thing is named.
    """
    named = [value for value in (body.tie, body.pid, body.job) if value is not None]
    if len(named) > 1:
        raise Conflict("a lease ends with one thing", hint="Name one of tie, pid and job.")
    if body.job is not None:
        return Tie(job=body.job)
    if not named:
        return None
    if caller.pid is None:
        hint = "Call through the Unix socket, or leave pid and tie out: the lease then ends at its time."
        raise Conflict("over TCP no process of this machine can be named", hint=hint)
    if body.pid is not None and not ports.numbers_alike(caller.pid):
        hint = 'Let the calling process itself be named ("tie": "caller"), or leave it out: it then ends at its time.'
        raise Conflict("a container's number of a process means another one on this machine", hint=hint)
    pid = body.pid if body.pid is not None else caller.pid
    if not pid:  # of a process that this one cannot see: it is in a namespace above
        return None
    found = ports.tie_to(pid)
    if found is None:
        raise Conflict(f"there is no process {pid}", hint="Name one that lives, as this machine numbers it.")
    return found


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
    if not request.query_params or not getattr(request.scope.get("route"), "include_in_schema", True):
        return  # addresses of the page are typed and shortened by people
    path = str(getattr(request.scope.get("route"), "path", ""))
    # The schema is made once and kept by the application.
    operation = request.app.openapi()["paths"].get(path, {}).get(request.method.lower(), {})
    known = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "query"}
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise RequestValidationError([{**_FAULT, "loc": ("query", name)} for name in unknown])
