"""The daemon and the job of deploy/kubernetes, run as containers with no more than the manifests give them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import pod
from tests.conftest import SmallMount
from tests.manifests import Object, containers, objects, only, pod_spec
from tests.pod import Container, Node

pytestmark = [
    pytest.mark.skipif(pod.missing() is not None, reason=pod.missing() or ""),
    pytest.mark.mounts,
]

SPEC = pod_spec(only(objects("tierd.yaml"), "DaemonSet"))
(TIERD,) = SPEC["containers"]
CONFIG = only(objects("tierd.yaml"), "ConfigMap")
JOB = pod_spec(only(objects("job.yaml"), "Job"))
WARM, HOLD, TRAIN = containers(JOB)
SOON = '\n[defaults]\nsettle_after = "1s"\nmin_residency = "0s"\n'
"""What the test adds to the configuration: it cannot wait for a quarter of an hour."""

POD = {"POD_NAME": "train-x7k2p", "POD_NAMESPACE": "vision"}


def wait_until(condition: Callable[[], bool], what: str, container: Container, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        log = container.log.read_text()[-3000:]
        assert container.process.poll() is None, f"it ended: {log}"
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}\n{log}"
        time.sleep(0.1)


@pytest.fixture
def node(small_mount: SmallMount, tmp_path: Path) -> Node:
    paths = {"/mnt/flash": small_mount(size_mb=64), "/mnt/hdd": small_mount(size_mb=64)}
    for path in ("/var/lib/tierd", "/run/tierd"):
        paths[path] = tmp_path / f"node{path}"
        paths[path].mkdir(parents=True)
    snapshot = paths["/mnt/flash"] / "datasets/imagenet/v3"
    snapshot.mkdir(parents=True)
    (snapshot / "shard.bin").write_bytes(os.urandom(1 << 20))
    os.chown(snapshot / "shard.bin", 4711, 4711)
    data = {**CONFIG["data"], "config.toml": CONFIG["data"]["config.toml"] + SOON}
    return Node(base=tmp_path, paths=paths, config_maps={CONFIG["metadata"]["name"]: data})


@pytest.fixture
def start(node: Node) -> Iterator[Callable[..., Container]]:
    made: list[Container] = []

    def started(spec: Object, container: Object, **values: str) -> Container:
        made.append(node.start(spec, container, **values))
        return made[-1]

    yield started
    for each in reversed(made):
        each.close()


def run_daemon(start: Callable[..., Container]) -> Container:
    """Started, and ready as its own probes say."""
    running = start(SPEC, TIERD)
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        command = TIERD[probe]["exec"]["command"]
        wait_until(lambda command=command: running.exec(*command).returncode == 0, probe, running)  # type: ignore[misc]
    return running


def stop(daemon: Container) -> None:
    daemon.process.terminate()
    assert daemon.finish()[0] == 0


def ask(daemon: Container, *verb: str) -> Any:
    """An administrator's `kubectl exec daemonset/tierd -- tierd …`."""
    ran = daemon.exec("tierd", *verb, "--json")
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def does(daemon: Container, verb: str) -> bool:
    """Whether it is taken; not before the snapshot has settled."""
    return daemon.exec("tierd", verb, "imagenet/v3").returncode == 0


def leases(daemon: Container) -> dict[int, dict[str, Any]]:
    return {each["id"]: each for each in ask(daemon, "lease", "list")["items"]}


def residency(daemon: Container) -> str:
    (found,) = ask(daemon, "ls")["items"]
    return str(found["residency"])


def test_a_pod_warms_and_holds_what_the_daemon_of_its_node_moved_away(
    node: Node, start: Callable[..., Container]
) -> None:
    daemon = run_daemon(start)
    status = dict(re.findall(r"^(\w+):\s*(.*)$", Path(f"/proc/{daemon.pid}/status").read_text(), re.MULTILINE))
    assert (status["CapEff"], status["NoNewPrivs"]) == (status["CapBnd"], "1")
    decoded = subprocess.run(
        ["capsh", f"--decode={status['CapBnd']}"], capture_output=True, text=True, check=True
    ).stdout
    granted = TIERD["securityContext"]["capabilities"]["add"]
    assert sorted(decoded.strip().partition("=")[2].split(",")) == sorted(f"cap_{name.lower()}" for name in granted)
    assert daemon.exec("sh", "-c", "echo x >/etc/x").returncode != 0
    assert ask(daemon, "status")["tracker"]["name"] == "fanotify"

    # It leaves flash, with its owner; a pod that has both disks still reads it.
    wait_until(lambda: residency(daemon) == "resident", "it is found", daemon)
    wait_until(lambda: does(daemon, "migrate"), "migrate", daemon)
    wait_until(lambda: residency(daemon) == "premigrated", "it has a copy", daemon)
    wait_until(lambda: does(daemon, "release"), "release", daemon)
    wait_until(lambda: residency(daemon) == "migrated", "it has left flash", daemon)
    path = node.paths["/mnt/flash"] / "datasets/imagenet/v3"
    assert str(path.readlink()).startswith("/mnt/hdd/")
    reader = TRAIN | {"command": ["stat", "--format=%u %s", "/mnt/flash/datasets/imagenet/v3/shard.bin"]}
    reader["securityContext"] = reader["securityContext"] | {"readOnlyRootFilesystem": True}
    assert start(JOB, reader).finish() == (0, "4711 1048576\n")

    # The init container brings it back. The group of the socket is what lets it in.
    stranger = JOB | {"securityContext": JOB["securityContext"] | {"supplementalGroups": []}}
    refused = start(stranger, WARM, **POD)
    assert refused.finish()[0] != 0
    assert "permission denied" in refused.log.read_text()
    warm = start(JOB, WARM, **POD)
    assert warm.finish() == (0, "/mnt/flash/datasets/imagenet/v3\n"), warm.log.read_text()
    assert path.is_dir()
    assert not path.is_symlink()
    assert start(JOB, reader).finish() == (0, "4711 1048576\n")
    ((bridge, first),) = leases(daemon).items()
    assert first["holder"] == "pod:vision/train-x7k2p"

    # The sidecar's lease outlives a new daemon. It ends with its process, known by the node's number of it.
    hold = start(JOB, HOLD, **POD)
    wait_until(lambda: len(leases(daemon)) == 2, "the sidecar has a lease", hold)
    (held,) = (each for number, each in leases(daemon).items() if number != bridge)
    assert held["pid"] == hold.pid
    stop(daemon)
    daemon = run_daemon(start)
    assert set(leases(daemon)) == {bridge, held["id"]}
    os.kill(hold.pid, signal.SIGKILL)
    wait_until(lambda: set(leases(daemon)) == {bridge}, "it is over", daemon)

    # So it does when Kubernetes stops it.
    hold = start(JOB, HOLD, **POD)
    wait_until(lambda: len(leases(daemon)) == 2, "the sidecar has a lease", hold)
    os.kill(hold.pid, signal.SIGTERM)
    hold.finish()
    assert set(leases(daemon)) == {bridge}
    stop(daemon)
