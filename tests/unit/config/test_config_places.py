"""What is checked on the file system, and what of it may be missing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tierd.config import Fault, Mounts, check, load


class Machine:
    """A flash and an HDD directory, and the configuration over them."""

    def __init__(self, base: Path) -> None:
        self.base, self.flash, self.hdd = base, base / "flash", base / "hdd"
        self.file = base / "config.toml"
        for directory in (self.flash, self.hdd, self.flash / "imagenet"):
            directory.mkdir()
        self.roots = [self.flash, self.hdd]
        self.datasets = {"imagenet": (self.flash / "imagenet", "*")}

    def write(self) -> Path:
        lines = []
        for rank, root in enumerate(self.roots):
            lines += ["[[tiers]]", f'name = "t{rank}"', f'root = "{root}"', f"rank = {rank}"]
        for name, (path, pattern) in self.datasets.items():
            lines += ["[[datasets]]", f'name = "{name}"', f'path = "{path}"', f'snapshots = "{pattern}"']
        self.file.write_text("\n".join(lines))
        return self.file

    def faults(self, mounts: Mounts = Mounts.REQUIRED) -> list[Fault]:
        return check(self.write(), mounts=mounts)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def the_only(faults: list[Fault]) -> tuple[str, str]:
    (fault,) = faults
    return fault.key, fault.reason


def test_a_machine_as_configured_has_no_faults(machine: Machine) -> None:
    assert machine.faults() == []


def test_what_is_missing_is_a_fault_unless_a_disk_may_come_back(machine: Machine) -> None:
    machine.roots[1] = machine.base / "absent"
    machine.datasets["laion"] = (machine.base / "absent/laion", "*")
    assert [fault.reason for fault in machine.faults()] == [
        f"{machine.base}/absent does not exist",
        f"{machine.base}/absent/laion does not exist",
    ]
    assert machine.faults(Mounts.OPTIONAL) == []
    config = load(machine.file, mounts=Mounts.OPTIONAL)
    assert [dataset.home for dataset in config.datasets] == ["t0", "t1"]


@pytest.mark.parametrize("mounts", [Mounts.REQUIRED, Mounts.OPTIONAL])
def test_a_file_where_a_directory_belongs_is_a_fault(machine: Machine, mounts: Mounts) -> None:
    file = machine.flash / "file"
    file.touch()
    machine.datasets["imagenet"] = (file, "*")
    machine.roots[1] = machine.base / "config.toml"
    assert [fault.reason for fault in machine.faults(mounts)] == [
        f"{machine.base}/config.toml is not a directory",
        f"{file} is not a directory",
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_root_that_is_not_writable_is_a_fault(machine: Machine) -> None:
    machine.hdd.chmod(0o555)
    assert the_only(machine.faults()) == ("tiers[t1].root", f"{machine.hdd} is not writable")
    assert machine.faults(Mounts.OPTIONAL) == []


@pytest.fixture
def bind() -> Iterator[Callable[[Path, Path], None]]:
    """Bind-mount a directory on another one."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mounted: list[Path] = []

    def mount(source: Path, target: Path) -> None:
        subprocess.run(["mount", "--bind", source, target], check=True)
        mounted.append(target)

    yield mount
    for target in reversed(mounted):
        subprocess.run(["umount", target], check=True)


@pytest.mark.mounts
def test_a_root_on_a_read_only_mount_is_a_fault(machine: Machine, bind: Callable[[Path, Path], None]) -> None:
    bind(machine.hdd, machine.hdd)
    subprocess.run(["mount", "-o", "remount,bind,ro", machine.hdd], check=True)
    assert the_only(machine.faults()) == ("tiers[t1].root", f"{machine.hdd} is not writable")
    assert machine.faults(Mounts.OPTIONAL) == []


@pytest.mark.mounts
def test_one_directory_seen_through_two_mounts_is_found(machine: Machine, bind: Callable[[Path, Path], None]) -> None:
    bind(machine.flash, machine.hdd)
    assert the_only(machine.faults()) == ("tiers[t1].root", "is the same directory as the root of tiers[t0]")


@pytest.mark.parametrize("mounts", [Mounts.REQUIRED, Mounts.OPTIONAL])
def test_two_tiers_on_one_root_are_found_through_links(machine: Machine, mounts: Mounts) -> None:
    machine.roots[1] = machine.base / "link"
    machine.roots[1].symlink_to(machine.flash)
    assert the_only(machine.faults(mounts)) == ("tiers[t1].root", "is the same directory as the root of tiers[t0]")


def test_a_root_inside_another_is_found_through_links(machine: Machine) -> None:
    (machine.flash / "inner").mkdir()
    machine.roots[1] = machine.base / "link"
    machine.roots[1].symlink_to(machine.flash / "inner")
    assert the_only(machine.faults()) == ("tiers[t1].root", "lies inside the root of tiers[t0]")


def test_paths_come_back_with_links_resolved(machine: Machine) -> None:
    link = machine.base / "data"
    link.symlink_to(machine.flash)
    machine.roots[0] = link
    machine.datasets["imagenet"] = (link / "imagenet", "*")
    config = load(machine.write())
    assert config.tiers[0].root == machine.flash
    assert config.datasets[0].path == machine.flash / "imagenet"
    assert config.datasets[0].home == "t0"


def test_a_path_that_leads_off_the_mounts_says_where_it_leads(machine: Machine) -> None:
    (machine.base / "elsewhere").mkdir()
    machine.datasets["imagenet"] = (machine.flash / "link", "*")
    (machine.flash / "link").symlink_to(machine.base / "elsewhere")
    key, reason = the_only(machine.faults())
    assert key == "datasets[imagenet].path"
    assert reason == f"{machine.flash}/link is on no configured mount (it leads to {machine.base}/elsewhere)"


def test_datasets_that_overlap_are_found_through_links(machine: Machine) -> None:
    (machine.flash / "imagenet/v1").mkdir()
    (machine.flash / "other").symlink_to("imagenet/v1")
    machine.datasets["other"] = (machine.flash / "other", "*")
    assert the_only(machine.faults()) == ("datasets[other].path", "overlaps the path of datasets[imagenet]")


def test_a_dataset_that_is_its_own_snapshot_may_be_the_link_tierd_made(machine: Machine) -> None:
    whole = machine.flash / "laion"
    machine.datasets["laion"] = (whole, "self")
    whole.symlink_to(machine.hdd / "laion/self")
    assert machine.faults() == []
    assert load(machine.file).datasets[1].path == whole
    assert load(machine.file).datasets[1].home == "t0"

    whole.unlink()
    whole.symlink_to(machine.base)
    key, reason = the_only(machine.faults())
    assert (key, "that tierd did not make" in reason) == ("datasets[laion].path", True)


def test_another_file_system_below_a_root_is_no_part_of_its_tier(machine: Machine) -> None:
    shared_memory = Path("/dev/shm")
    if not shared_memory.is_mount():
        pytest.skip("needs /dev/shm to be a mount")
    machine.roots[0] = Path("/dev")
    machine.datasets["imagenet"] = (shared_memory, "*")
    reasons = [fault.reason for fault in machine.faults(Mounts.OPTIONAL)]
    assert reasons == ["/dev/shm is another file system than the root of tiers[t0]"]
