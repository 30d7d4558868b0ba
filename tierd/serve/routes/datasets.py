"""Datasets as configured, their phases, and what is known of their snapshots."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter

from tierd.serve import schemas as out
from tierd.serve.asking import Admin, Reader
from tierd.serve.parts import Have
from tierd.serve.problems import responses

router = APIRouter(tags=["datasets"])


@router.get("/v1/datasets", responses=responses())
def datasets(have: Have, _: Reader) -> out.DatasetsOut:
    """All configured datasets, each with the phase it is in and what follows from it."""
    present = have.catalog.in_given_phases(have.config.datasets)
    return out.DatasetsOut(items=have.look.datasets(have.views.recent(), present))


@router.get("/v1/datasets/{dataset}", responses=responses(404))
def dataset(dataset: str, have: Have, _: Reader) -> out.DatasetOut:
    """One dataset."""
    return have.look.datasets(have.views.recent(), [have.finder.dataset(dataset)])[0]


@router.put("/v1/datasets/{dataset}/phase", responses=responses(404, 413))
async def set_phase(dataset: str, body: out.PhaseIn, have: Have, caller: Admin) -> out.DatasetOut:
    """Move a dataset to another phase of its life; null: to the one that is configured. Counts from now on."""
    moved = await have.writers.run(partial(have.wishes.set_phase, dataset, body.phase, by=caller.name))
    return have.look.datasets(have.views.recent(), [moved])[0]
