"""Containers of a manifest on this machine, without Kubernetes: what a kubelet and its runtime make of them.

A container gets a root directory of its own that cannot be written, of this machine's /usr, a copy of /etc, and this
Python; its volumes at their paths; the user, groups and capabilities that the manifest says, and no others; and process
numbers of its own, unless the manifest says `hostPID`. Not made: seccomp, AppArmor, limits of resources, networks.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.manifests import Object, expanded, mounts

_REPOSITORY = Path(__file__).parents[1]
_PATH = f"{sys.prefix}/bin:/usr/bin:/usr/sbin"

_SCRIPT = """
set -e
bind() {{ mkdir -p ".$2"; mount --bind "$1" ".$2"; [ "$3" = rw ] || mount -o remount,bind,ro ".$2"; }}
mount -t tmpfs -o mode=755 root {root}
cd {root}
mkdir proc dev sys tmp old
for each in bin sbin lib lib32 lib64 libx32; do [ ! -L /$each ] || cp -P /$each .; done
cp -a /etc etc
mount -t proc proc proc
mount --rbind /dev dev
mount --bind /sys sys
bind /usr /usr ro
{binds}
pivot_root . old
umount -l /old
mount -o remount,ro /
exec {command}
"""


def missing() -> str | None:
    """Why this machine cannot do that, if it cannot."""
    if os.geteuid() != 0:
        return "makes namespaces, needs root"
    if any(shutil.which(each) is None for each in ("unshare", "nsenter", "setpriv", "pivot_root", "capsh")):
        return "util-linux or libcap2-bin is not installed"
    command = ["unshare", "--mount", "--pid", "--cgroup", "--fork", "mount", "-t", "proc", "proc", "/proc"]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        return "this machine refuses namespaces"
    return None


@dataclass(kw_only=True)
class Node:
    """Stands for a machine of a cluster.

    Attributes:
        base: a directory of the test.
        paths: what the node has at the paths that manifests name.
        config_maps: name → file → text.
    """

    base: Path
    paths: Mapping[str, Path]
    config_maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    _made: int = 0

    def start(self, spec: Object, container: Object, **values: str) -> Container:
        """Start a container of a pod; `values` are those of its environment that Kubernetes would fill in."""
        self._made += 1
        place = self.base / f"container{self._made}"
        (place / "root").mkdir(parents=True)
        shares_processes = spec.get("hostPID", False)
        enter = ["unshare", "--mount", "--cgroup"]
        enter += [] if shares_processes else ["--pid", "--fork", "--kill-child"]
        become = _become({**spec.get("securityContext", {}), **container["securityContext"]}, values)
        words = [expanded(word, values) for word in container["command"]]
        binds = "\n".join(shlex.join(["bind", *each]) for each in (*_python(), *self._volumes(place, spec, container)))
        script = _SCRIPT.format(root=place / "root", binds=binds, command=shlex.join([*become, *words]))
        log = place / "log"
        with log.open("wb") as out:
            process = subprocess.Popen([*enter, "sh", "-c", script], stdout=subprocess.PIPE, stderr=out, text=True)
        return Container(process=process, log=log, become=become, shares_processes=shares_processes)

    def _volumes(self, place: Path, spec: Object, container: Object) -> Iterator[tuple[str, str, str]]:
        for mount, volume in mounts(spec, container):
            source = place / volume["name"]
            if "hostPath" in volume:
                source = self.paths[volume["hostPath"]["path"]]
            else:
                source.mkdir()
            for name, text in self.config_maps.get(volume.get("configMap", {}).get("name", ""), {}).items():
                (source / name).write_text(text)
            yield str(source), mount["mountPath"], "ro" if mount.get("readOnly") else "rw"


@dataclass(kw_only=True)
class Container:
    """A container that was started. `log`: its standard error."""

    process: subprocess.Popen[str]
    log: Path
    become: list[str]
    shares_processes: bool

    @property
    def pid(self) -> int:
        """Its first process, as this machine numbers it."""
        assert self.process.poll() is None, self.log.read_text()
        if self.shares_processes:
            return self.process.pid
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        while not (found := children.read_text().split()):
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.01)
        return int(found[0])

    def finish(self, timeout_s: float = 60) -> tuple[int, str]:
        """Wait for its end: exit code and standard output."""
        out, _ = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, out

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        """As `kubectl exec`, and as the kubelet's probes."""
        enter = ["nsenter", "--target", str(self.pid), "--mount", "--cgroup", "--pid", "--root", "--wd"]
        return subprocess.run([*enter, *self.become, *command], capture_output=True, text=True, timeout=60, check=False)

    def close(self) -> None:
        """End it, if it has not ended: its first process, and with that all that have its process numbers."""
        with contextlib.suppress(AssertionError, ProcessLookupError, FileNotFoundError):  # it has just ended
            os.kill(self.pid, signal.SIGKILL)
        self.process.communicate()


def _become(context: Object, values: Mapping[str, str]) -> list[str]:
    """The command that gives up all rights but those of a security context."""
    groups = ",".join(str(each) for each in context.get("supplementalGroups", ()))
    capabilities = "".join(f",+{name.lower()}" for name in context["capabilities"].get("add", ()))
    assert context["capabilities"]["drop"] == ["ALL"]
    command = ["setpriv", f"--reuid={context['runAsUser']}", f"--regid={context['runAsGroup']}"]
    command += [f"--groups={groups}" if groups else "--clear-groups"]
    command += [f"--bounding-set=-all{capabilities}", "--inh-caps=-all"]
    command += [] if context["allowPrivilegeEscalation"] else ["--no-new-privs"]
    environment = {"PATH": _PATH, "PYTHONDONTWRITEBYTECODE": "1", **values}
    return [*command, "env", "-i", *(f"{name}={value}" for name, value in environment.items())]


def _python() -> list[tuple[str, str, str]]:
    """What this Python and this source consist of, where /usr has not got it."""
    wanted = {_REPOSITORY, *map(Path, (sys.prefix, sys.base_prefix, *filter(os.path.isdir, sys.path)))}
    bound = [Path("/usr")]
    for path in sorted(wanted, key=lambda each: len(each.parts)):
        if not any(path.is_relative_to(each) for each in bound):
            bound.append(path)
    return [(str(path), str(path), "ro") for path in bound[1:]]
