"""Jobs and containers out of control groups, as Slurm, container engines and systemd write them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierd.observe import cgroups

ID = "3f2a91c07b4e" + "0" * 52
POD = "0f7a6a2c-5d7b-4f0e-9f5a-3f1c0a9b8d7e"


@pytest.mark.parametrize(
    ("text", "job"),
    [
        ("0::/system.slice/slurmstepd.scope/job_4711/step_0/user/task_0", "slurm:4711"),
        ("0::/system.slice/node7_slurmstepd.scope/job_4711/step_batch", "slurm:4711"),
        ("9:memory:/slurm/uid_1000/job_12/step_0\n1:cpu:/slurm/uid_1000/job_12/step_0", "slurm:12"),
        (f"0::/system.slice/docker-{ID}.scope", "docker:3f2a91c07b4e"),
        (f"4:memory:/docker/{ID}\n0::/", "docker:3f2a91c07b4e"),
        (f"0::/machine.slice/libpod-{ID}.scope/container", "podman:3f2a91c07b4e"),
        (
            f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{POD.replace('-', '_')}.slice"
            f"/cri-containerd-{ID}.scope",
            f"pod:{POD}",
        ),
        (f"3:cpu:/kubepods/besteffort/pod{POD}/{ID}", f"pod:{POD}"),
        # As a container sees the groups of others: relative to its own.
        (f"0::/../../kubepods-pod{POD.replace('-', '_')}.slice/cri-containerd-{ID}.scope", f"pod:{POD}"),
        (f"0::/../../pod{POD}/{ID}", f"pod:{POD}"),
        (f"0::/system.slice/containerd.service/cri-containerd-{ID}.scope", "containerd:3f2a91c07b4e"),
        ("0::/system.slice/jupyter.service", "unit:jupyter.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/train.service", "unit:train.service"),
        (r"0::/system.slice/run-nightly\x2dbackup.service", "unit:run-nightly-backup.service"),
        ("0::/user.slice/user-1000.slice/session-3.scope", "session:3"),
        ("0::/", None),
        ("", None),
        # A job that starts a container is still the job.
        (f"0::/system.slice/slurmstepd.scope/job_9/step_0/user/docker-{ID}.scope", "slurm:9"),
        (f"1:name=systemd:/user.slice/session-3.scope\n0::/docker/{ID}", "docker:3f2a91c07b4e"),
    ],
)
def test_what_a_process_runs_in(text: str, job: str | None) -> None:
    assert cgroups.job(cgroups.paths(text)) == job


@given(st.text())
def test_rubbish_is_never_an_error_and_never_long_or_unprintable(text: str) -> None:
    for found in (cgroups.job(cgroups.paths(text)), cgroups.job([text])):
        assert found is None or (len(found) <= 80 and found.isprintable())


def test_groups_that_a_user_nested_deeply_take_no_time() -> None:
    began = time.thread_time()
    for name in ("slurm", "kubepods-", "docker-", ".service", "slurm" * 51):
        cgroups.job(["/" + f"{name}/" * (4096 // len(name)) + "x"])
    assert time.thread_time() - began < 0.01


def test_a_group_that_a_job_made_is_no_other_job() -> None:
    assert cgroups.job(["/slurm/uid_1000/job_12/step_0/slurm/job_4711"]) == "slurm:12"


@given(st.text(alphabet=st.characters(exclude_characters="/"), max_size=200))
def test_a_name_that_a_user_chose_is_shown_harmlessly(name: str) -> None:
    found = cgroups.job([f"/user.slice/{name}.service"])
    assert found is None or (len(found) <= 80 and found.isprintable())
