"""Probes and metrics. The probes need no token: they tell nothing but whether the daemon works."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client.exposition import choose_encoder

from tierd.serve import health as checks
from tierd.serve.asking import Reader
from tierd.serve.parts import Have
from tierd.serve.problems import Responses, responses
from tierd.serve.schemas import HealthOut

router = APIRouter(tags=["daemon"])

_FAILING: Responses = {
    422: responses()[422],
    503: {"model": HealthOut, "description": "Something is wrong; `checks` says what."},
}
_TEXT = {"schema": {"type": "string"}}
_METRICS: Responses = {
    200: {
        "description": "Prometheus text format, or OpenMetrics where the client asks for it.",
        "content": {"text/plain": _TEXT, "application/openmetrics-text": _TEXT},
    },
}


@router.get("/healthz", response_model=HealthOut, responses=_FAILING)
def healthz(have: Have) -> Response:
    """Whether the daemon is alive; restart it when this fails."""
    return _answer(checks.alive(have.ports))


@router.get("/readyz", response_model=HealthOut, responses=_FAILING)
def readyz(have: Have) -> Response:
    """Whether the daemon can do its work: the first scan is done, the catalog can be read and written."""
    return _answer(checks.ready(have.ports, have.catalog))


@router.get("/metrics", response_class=Response, response_model=None, responses=responses() | _METRICS)
def metrics(request: Request, have: Have, _: Reader) -> Response:
    """Metrics for Prometheus."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(have.registry), headers={"Content-Type": content_type})


def _answer(report: HealthOut) -> Response:
    status = 200 if report.status == "ok" else 503
    return JSONResponse(report.model_dump(mode="json"), status_code=status)
