"""Which job or container a process belongs to, from its control groups. Pure.

Sources: cgroups(7); Slurm's cgroup plugins (`…/slurm/uid_1000/job_4711/step_0`, with version 2
`/system.slice/slurmstepd.scope/job_4711/…`); Docker, Podman, containerd and CRI-O name a container's group by its 64
hex digits (`docker-<id>.scope`, `libpod-<id>.scope`, `cri-containerd-<id>.scope`, `crio-<id>.scope`, or
`/docker/<id>`); Kubernetes puts them below `kubepods-…-pod<uid>.slice`; systemd names services and sessions.
"""

from __future__ import annotations

import re

_LONGEST = 80
_SLURM_JOB = re.compile(r"job_(\w+)")
_POD = re.compile(r"/(?:kubepods[^/]*-)?pod([0-9a-f]{8}[-_0-9a-f]{28})(?:\.slice)?(?:/|$)")
_CONTAINER = re.compile(r"/(docker|libpod|cri-containerd|crio|nerdctl)[-/]([0-9a-f]{64})(?:\.scope)?(?:/|$)")
_UNIT = re.compile(r"/([^/]+\.service)(?=/|$)")
_SESSION = re.compile(r"/session-(\w+)\.scope(?:/|$)")
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")
_KINDS = {"docker": "docker", "libpod": "podman", "cri-containerd": "containerd", "crio": "crio", "nerdctl": "nerdctl"}


def paths(text: str) -> list[str]:
    """The groups in `/proc/<pid>/cgroup`, each once, in the order of the file."""
    found = (line.split(":", 2) for line in text.splitlines())
    return list(dict.fromkeys(parts[2] for parts in found if len(parts) == 3 and parts[2].startswith("/")))


def job(groups: list[str]) -> str | None:
    """What the process runs in, as `<kind>:<id>`: a Slurm job before a pod, a container, a unit, a session."""
    for find in (_slurm, _pod, _container, _unit, _session):
        for group in groups:
            found = find(group)
            if found is not None:
                return "".join(c if c.isprintable() else "?" for c in found)[:_LONGEST]
    return None


def _slurm(group: str) -> str | None:
    parts = iter(group.split("/"))  # no pattern for the whole: users may nest groups so deep that it takes long
    if not any("slurm" in part for part in parts):
        return None
    found = next(filter(None, map(_SLURM_JOB.match, parts)), None)
    return f"slurm:{found[1]}" if found else None


def _pod(group: str) -> str | None:
    found = _POD.search(group)
    return f"pod:{found[1].replace('_', '-')}" if found else None


def _container(group: str) -> str | None:
    found = _CONTAINER.search(group)
    return f"{_KINDS[found[1]]}:{found[2][:12]}" if found else None


def _unit(group: str) -> str | None:
    found = _UNIT.findall(group)  # the innermost: below user@1000.service run the user's own
    return f"unit:{_ESCAPED.sub(lambda m: chr(int(m[1], 16)), found[-1])}" if found else None


def _session(group: str) -> str | None:
    found = _SESSION.search(group)
    return f"session:{found[1]}" if found else None
