"""Jobs of a real Slurm have their snapshots on flash when they start, and hold them until they end."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import slurm
from tests.acceptance.daemon_process import DaemonProcess
from tests.slurm import Slurm

pytestmark = pytest.mark.skipif(slurm.missing() is not None, reason=slurm.missing() or "")


@pytest.fixture(scope="module")
def base() -> Iterator[Path]:
    """Not pytest's own directory, which nobody but root may enter: jobs are another user's."""
    with tempfile.TemporaryDirectory(prefix="tierd-slurm-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture(scope="module")
def daemon(base: Path) -> Iterator[DaemonProcess]:
    with pytest.MonkeyPatch.context() as patch:
        # The daemon cannot ask squeue: only the epilog and the teardown end leases here.
        patch.setenv("SLURM_CONF", str(base / "none.conf"))
        daemon = DaemonProcess(base / "tierd")
        for name in ("v1", "v2"):
            (daemon.dataset / name).mkdir()
            (daemon.dataset / name / "x.bin").write_bytes(name.encode() * 9999)
        try:
            yield daemon
        finally:
            daemon.close()


@pytest.fixture(scope="module")
def cluster(base: Path, daemon: DaemonProcess) -> Iterator[Slurm]:
    directory = base / "slurm"
    directory.mkdir()
    cluster = Slurm(directory, tierd_url=daemon.url)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(autouse=True)
def cold(daemon: DaemonProcess, cluster: Slurm) -> None:
    """The daemon runs, nothing is held, and ds/v1 lies on the HDD."""
    if daemon.process is None or daemon.process.poll() is not None:
        daemon.start()
    assert daemon.get("/v1/leases").json()["items"] == []
    daemon.wait_until(lambda: daemon.get("/v1/snapshots/ds/v1", check=False).status_code == 200, "ds/v1 is found")
    if daemon.snapshot("ds/v1")["residency"] != "migrated":
        daemon.wait_until(lambda: daemon.cli("release", "ds/v1").returncode == 0, "it is settled and may be released")
    daemon.wait_for_residency("ds/v1", "migrated")


def job_of_leases(daemon: DaemonProcess) -> list[tuple[str, str]]:
    return [(held["ref"], held["job"]) for held in daemon.get("/v1/leases").json()["items"]]


def script(daemon: DaemonProcess, cluster: Slurm) -> str:
    """Tells that it began, and on which side the snapshot is; ends when the test says so."""
    path = daemon.dataset / "v1"
    return (
        f'[ -L "{path}" ] && echo cold || echo warm\necho "path $TIERD_PATH"\n'
        f'touch "{cluster.jobs}/began-$SLURM_JOB_ID"\n'
        f'while [ ! -e "{cluster.jobs}/go-$SLURM_JOB_ID" ]; do sleep 0.1; done'
    )


def began(cluster: Slurm, job: str) -> bool:
    return (cluster.jobs / f"began-{job}").exists()


def finish(cluster: Slurm, job: str) -> str:
    (cluster.jobs / f"go-{job}").touch()
    cluster.wait_until(lambda: cluster.is_over(job), f"job {job} is over")
    return (cluster.jobs / f"out-{job}").read_text()


def wait_until_free(daemon: DaemonProcess) -> None:
    daemon.wait_until(lambda: job_of_leases(daemon) == [], "nothing is held")


def test_a_job_that_names_a_snapshot_in_its_comment_starts_when_it_is_warm(
    daemon: DaemonProcess, cluster: Slurm
) -> None:
    daemon.cli("pause")
    job = cluster.submit(script(daemon, cluster), "--comment", "first try tierd=ds/v1,ds/v2")
    daemon.wait_until(lambda: ("ds/v1", job) in job_of_leases(daemon), "the prolog has asked")
    assert not began(cluster, job)
    assert daemon.snapshot("ds/v1")["residency"] != "resident"
    daemon.cli("resume")
    cluster.wait_until(lambda: began(cluster, job), "the job began")
    assert sorted(job_of_leases(daemon)) == [("ds/v1", job), ("ds/v2", job)]
    assert "held" in daemon.cli("release", "ds/v1").stderr
    assert finish(cluster, job).splitlines()[0] == "warm"
    wait_until_free(daemon)
    assert cluster.node_state() == "idle"


def test_a_burst_buffer_directive_keeps_the_job_pending_until_it_is_warm(daemon: DaemonProcess, cluster: Slurm) -> None:
    daemon.cli("pause")
    job = cluster.submit("#BB_LUA tierd warm=ds/v1\n" + script(daemon, cluster))
    daemon.wait_until(lambda: ("ds/v1", job) in job_of_leases(daemon), "the stage-in has asked")
    assert "JobState=PENDING" in cluster.show(job)
    daemon.cli("resume")
    cluster.wait_until(lambda: began(cluster, job), "the job began")
    assert job_of_leases(daemon) == [("ds/v1", job)]
    assert finish(cluster, job).splitlines() == ["warm", f"path {daemon.dataset / 'v1'}"]
    wait_until_free(daemon)


@pytest.mark.parametrize("way", ["comment", "directive"])
def test_the_lease_of_a_cancelled_job_ends(daemon: DaemonProcess, cluster: Slurm, way: str) -> None:
    body = script(daemon, cluster)
    if way == "comment":
        job = cluster.submit(body, "--comment", "tierd=ds/v1")
    else:
        job = cluster.submit("#BB_LUA tierd warm=ds/v1\n" + body)
    cluster.wait_until(lambda: began(cluster, job), "the job began")
    assert job_of_leases(daemon) == [("ds/v1", job)]
    cluster.run("scancel", job)
    wait_until_free(daemon)


def test_without_tierd_the_job_runs_and_the_node_stays(daemon: DaemonProcess, cluster: Slurm) -> None:
    daemon.stop()
    job = cluster.submit(script(daemon, cluster), "--comment", "tierd=ds/v1")
    cluster.wait_until(lambda: began(cluster, job), "the job began")
    assert "AdminComment=tierd: ds/v1 was not warmed (exit code 3)" in cluster.show(job)
    assert finish(cluster, job).splitlines()[0] == "cold"
    cluster.wait_until(lambda: cluster.node_state() == "idle", "the node is idle again, not drained")


def test_a_job_can_be_held_when_it_cannot_be_warmed(daemon: DaemonProcess, cluster: Slurm) -> None:
    settings = cluster.settings.read_text()
    cluster.settings.write_text(settings + "TIERD_SLURM_ON_FAILURE=hold\n")
    try:
        job = cluster.submit(script(daemon, cluster), "--comment", "tierd=ds/nothing")
        cluster.wait_until(lambda: "JobState=PENDING Reason=job_requeued_in_held" in cluster.show(job), "it is held")
    finally:
        cluster.settings.write_text(settings)
    assert "ds/nothing was not warmed (exit code 4)" in cluster.show(job)
    assert not began(cluster, job)
    cluster.run("scancel", job)
    cluster.wait_until(lambda: cluster.node_state() == "idle", "the node is idle again")


HOSTILE = [
    "tierd=ds/$(touch${IFS}{})",
    "tierd=ds/`touch${IFS}{}`",
    "tierd=ds/v1;touch${IFS}{}",
    "tierd=--url=unix:///x",
    "tierd=../../etc",
    "tierd='ds/v1",
]


def test_names_from_a_job_are_only_names(daemon: DaemonProcess, cluster: Slurm) -> None:
    proof = cluster.jobs / "proof"
    said = " ".join(name.replace("{}", str(proof)) for name in HOSTILE)
    job = cluster.submit("exit 0", "--comment", f"{said} tierd=ds/v2 * ?")
    cluster.wait_until(lambda: cluster.is_over(job), "the job is over")
    assert cluster.show(job).count("is no DATASET/SNAPSHOT") >= len(HOSTILE)
    assert not proof.exists()
    for name in HOSTILE:
        refused = cluster.try_submit(f"#BB_LUA tierd warm={name.removeprefix('tierd=').replace('{}', str(proof))}")
        assert refused.returncode != 0, name
    assert not proof.exists()
    log = (cluster.base / "slurmctld.log").read_text()
    assert "is no DATASET/SNAPSHOT; write #BB_LUA tierd warm=" in log
    wait_until_free(daemon)


def test_a_snapshot_that_does_not_exist_is_told_in_the_job(daemon: DaemonProcess, cluster: Slurm) -> None:
    job = cluster.submit("#BB_LUA tierd warm=ds/nothing\n" + script(daemon, cluster))
    cluster.wait_until(lambda: "ds/nothing cannot be warmed" in cluster.show(job), "the job says why")
    assert "JobState=PENDING" in cluster.show(job)
    assert not began(cluster, job)
    cluster.run("scancel", job)
    wait_until_free(daemon)
