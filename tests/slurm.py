"""A Slurm of its own: real munged, slurmctld and slurmd with one node, all files below one directory."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

DEPLOY = Path(__file__).parents[1] / "deploy" / "slurm"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")

_CONF = """
ClusterName=tierd
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={base}/munge.socket
CredType=cred/munge
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/slurmd.pid
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,sched_min_interval=0
SelectType=select/cons_tres
ReturnToService=2
KillWait=2
Prolog={base}/prolog
Epilog={base}/epilog
PrologFlags=Alloc
BurstBufferType=burst_buffer/lua
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 CPUs=1 State=UNKNOWN
PartitionName=all Nodes=n1 Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why no Slurm can be started here; None where it can."""
    if os.geteuid() != 0:
        return "Slurm's daemons are started as root"
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"Slurm is not installed: {', '.join(absent)}" if absent else None


class Slurm:
    """Starts and stops it, and asks it."""

    def __init__(self, base: Path, *, tierd_url: str) -> None:
        self.base = base
        for directory in ("state", "spool"):
            (base / directory).mkdir()
        self.jobs = base / "jobs"
        self.jobs.mkdir()
        self.jobs.chmod(0o777)
        host = socket.gethostname().partition(".")[0]
        ctld_port, slurmd_port = _free_ports(2)
        self.conf = base / "slurm.conf"
        self.conf.write_text(_CONF.format(base=base, host=host, ctld_port=ctld_port, slurmd_port=slurmd_port))
        (base / "burst_buffer.conf").write_text("StageInTimeout=120\n")
        for name in ("prolog", "epilog", "burst_buffer.lua"):
            shutil.copy(DEPLOY / name, base / name)
        tierd = base / "tierd"
        tierd.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tierd "$@"\n')
        tierd.chmod(0o755)
        self.settings = base / "tierd.env"
        self.settings.write_text(f"TIERD_SLURM_COMMAND={tierd}\nTIERD_URL={tierd_url}\nTIERD_SLURM_WAIT=120\n")
        self._running: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.conf)}

    def start(self) -> None:
        key = self.base / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = [f"--{kind}-file={self.base}/munge.{kind}" for kind in ("key", "pid", "log", "seed")]
        self._spawn("munged", "--foreground", "--force", f"--socket={self.base}/munge.socket", *files)
        self.wait_until((self.base / "munge.socket").exists, "munged listens")
        self._spawn("slurmctld", "-D", "-c")
        self._spawn("slurmd", "-D", "-N", "n1", "-f", str(self.conf))
        self.wait_until(lambda: self.run("sinfo", "--noheader", "--format=%T").stdout.strip() == "idle", "n1 is idle")

    def _spawn(self, *command: str) -> None:
        with (self.base / f"{command[0]}.out").open("wb") as out:
            self._running.append(subprocess.Popen(command, env=self.environment, stdout=out, stderr=out))

    def close(self) -> None:
        for process in reversed(self._running):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=False, cwd=self.base
        )

    def submit(self, script: str, *options: str) -> str:
        """Submit a job of nobody (Slurm gives root no burst buffers); its number."""
        done = self.try_submit(script, *options)
        assert done.returncode == 0, done.stderr + self.logs()
        return done.stdout.strip()

    def try_submit(self, script: str, *options: str) -> subprocess.CompletedProcess[str]:
        path = self.base / "job.sh"
        path.write_text(f"#!/bin/bash\n{script}\n")
        who = ("--uid", "nobody", "--gid", "nogroup", "--chdir", str(self.jobs))
        return self.run("sbatch", "--parsable", "--output", f"{self.jobs}/out-%j", *who, *options, str(path))

    def show(self, job: str) -> str:
        return self.run("scontrol", "show", "job", job).stdout

    def is_over(self, job: str) -> bool:
        return any(f"JobState={state}" in self.show(job) for state in ("COMPLETED", "CANCELLED", "FAILED"))

    def node_state(self) -> str:
        return self.run("sinfo", "--noheader", "--format=%T").stdout.strip()

    def logs(self) -> str:
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in sorted(self.base.glob("*.log"))
        )

    def wait_until(self, condition: Callable[[], bool], what: str, timeout: float = 40) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if condition():
                return
            time.sleep(0.1)
        raise AssertionError(f"not in {timeout} s: {what}\n{self.logs()}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
