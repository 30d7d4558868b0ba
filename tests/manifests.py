"""What deploy/kubernetes has, read as a cluster reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[1] / "deploy" / "kubernetes"

Object = dict[str, Any]


def objects(name: str) -> list[Object]:
    """The objects of a manifest."""
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def commented_objects(name: str) -> list[Object]:
    """Those after the last one, which wait to be uncommented."""
    _, _, rest = (DEPLOY / name).read_text().partition("\n# ---\n")
    lines = [line.removeprefix("#").removeprefix(" ") for line in rest.splitlines()]
    first = next(i for i, line in enumerate(lines) if line.startswith("apiVersion:"))
    return list(yaml.safe_load_all("\n".join(lines[first:])))


def only(found: list[Object], kind: str) -> Object:
    (one,) = (each for each in found if each["kind"] == kind)
    return one


def pod_spec(found: Object) -> Object:
    spec: Object = found["spec"]["template"]["spec"]
    return spec


def containers(spec: Object) -> list[Object]:
    return [*spec.get("initContainers", ()), *spec["containers"]]


def mounts(spec: Object, container: Object) -> Iterator[tuple[Object, Object]]:
    """Each mount of a container with its volume."""
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    for mount in container["volumeMounts"]:
        yield mount, volumes[mount["name"]]


def host_paths(spec: Object, container: Object) -> dict[str, str]:
    """Path in the container → path on the node."""
    return {m["mountPath"]: v["hostPath"]["path"] for m, v in mounts(spec, container) if "hostPath" in v}


def expanded(word: str, values: dict[str, str]) -> str:
    """A word of a command as Kubernetes gives it to the container."""
    return re.sub(r"\$\((\w+)\)", lambda found: values.get(found[1], found[0]), word)
