"""Datasets as configured, with what is known of their snapshots."""

from __future__ import annotations

from fastapi import APIRouter

from tierd.errors import NotFound
from tierd.serve import schemas as out
from tierd.serve.asking import Reader
from tierd.serve.parts import Have
from tierd.serve.problems import responses

router = APIRouter(tags=["datasets"])


@router.get("/v1/datasets", responses=responses())
def datasets(have: Have, _: Reader) -> out.DatasetsOut:
    """All configured datasets."""
    return out.DatasetsOut(items=have.look.datasets(have.views.recent(), have.config.datasets))


@router.get("/v1/datasets/{dataset}", responses=responses(404))
def dataset(dataset: str, have: Have, _: Reader) -> out.DatasetOut:
    """One dataset."""
    found = [d for d in have.config.datasets if d.name == dataset]
    if not found:
        raise NotFound(f"no dataset {dataset!r} is configured", hint="/v1/datasets lists them.")
    return have.look.datasets(have.views.recent(), found)[0]
