"""Checks of schedules against the datasets they are about."""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase

from tierd.config.document import Document, Draft
from tierd.config.fault import Faults


def check_schedules(document: Document, faults: Faults) -> None:
    """A schedule must be able to match something of what is configured."""
    datasets = {d.name: d for d in document.datasets if d.name is not None}
    for schedule in document.schedules:
        written = schedule.values.get("snapshots")
        if written is not None and datasets:
            _check_target(schedule, written, datasets, faults)


def _check_target(schedule: Draft, written: str, datasets: dict[str, Draft], faults: Faults) -> None:
    where = f"{schedule.where}.snapshots"
    dataset, slash, _ = written.partition("/")
    found = [d for name, d in datasets.items() if fnmatchcase(name, dataset)]
    if not found:
        near = difflib.get_close_matches(dataset, datasets, n=1)
        listed = ", ".join(sorted(datasets)[:5])
        instead = f"Did you mean `{near[0]}`?" if near else f"Name one of the datasets: {listed}."
        faults.add(where, f"no dataset {dataset!r} is configured", instead)
    elif not slash and all(d.values.get("pattern", "*") is not None for d in found):
        instead = f'Say which ones: "{dataset}/latest", or "{dataset}/*" for all.'
        faults.add(where, f"{dataset!r} is a dataset of several snapshots", instead)
