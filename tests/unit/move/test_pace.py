"""The rate of running transfers: by the hour, and slower while others wait for the disks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tierd.config.windows import window
from tierd.model.dataset import SnapshotId
from tierd.model.pressure import Busy
from tierd.model.tier import Tier, TierName
from tierd.model.transfer import Transfer, TransferId, TransferKind, TransferState
from tierd.model.windows import TimedRate
from tierd.move.pace import FLOOR, Pacer
from tierd.move.pressure import Pressure

NOON, MIDNIGHT = datetime(2026, 11, 20, 12, tzinfo=UTC), datetime(2026, 11, 20, 0, tzinfo=UTC)
MB = 1_000_000
DAYTIME = TimedRate(window=window("08:00-20:00"), read_rate=200 * MB, write_rate=100 * MB)
FLASH = Tier(name=TierName("flash"), root=Path("/f"), rank=0)
HDD = Tier(name=TierName("hdd"), root=Path("/h"), rank=1, read_rate=600 * MB, rates=(DAYTIME,))


@dataclass
class Running:
    transfer: Transfer
    bytes_per_s: int | None = None
    moves: float = 400 * MB
    was_slowed: bool = False
    ends: tuple[Tier, Tier] = (FLASH, replace(HDD, rates=()))

    def rate(self) -> float | None:
        return self.moves


def running(number: int = 1, **more: object) -> Running:
    kind, state = TransferKind.MIGRATE, TransferState.COPYING
    values = {"key": "k", "snapshot_id": SnapshotId(1), "kind": kind, "state": state, "created_at": NOON, **more}
    ends = {"source": FLASH.name, "destination": HDD.name, "release": False}
    return Running(Transfer(id=TransferId(number), **(ends | values)))  # type: ignore[arg-type]


@dataclass
class Machine:
    """A kernel that says what the test says."""

    at: Path
    time: float = 0.0

    def says(self, percent: float) -> None:
        self.at.write_text(f"some avg10={percent:.2f} avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 total=0\n")

    def pacer(self, busy: float | None = 0.2) -> Pacer:
        pressure = Pressure(self.at, own=self.at.parent / "none")
        return Pacer(2, busy, pressure, monotonic=lambda: self.time)

    def pass_time(self, pacer: Pacer, *transfers: Running) -> None:
        self.time += 5
        pacer.adjust(transfers, NOON)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path / "io")
    machine.says(0)
    return machine


def test_the_rates_of_the_hour_hold_and_are_shared_by_the_slots(machine: Machine) -> None:
    pacer = machine.pacer()
    assert pacer.allowed(FLASH, HDD, NOON) == 50 * MB
    assert pacer.allowed(FLASH, HDD, MIDNIGHT) is None
    assert pacer.allowed(HDD, FLASH, NOON) == 100 * MB
    assert pacer.allowed(HDD, FLASH, MIDNIGHT) == 300 * MB


def test_a_running_transfer_is_told_when_its_hour_begins_and_ends(machine: Machine) -> None:
    pacer, one = machine.pacer(), running()
    one.ends = (FLASH, HDD)
    told = []
    for hour in (7, 9, 19, 21):
        pacer.adjust([one], NOON.replace(hour=hour))
        told.append(one.bytes_per_s)
    assert told == [None, 50 * MB, 50 * MB, None]


def test_busy_disks_slow_what_nobody_waits_for_down_to_the_floor_and_no_further(machine: Machine) -> None:
    pacer, one = machine.pacer(), running()
    machine.says(35)
    machine.pass_time(pacer, one)
    assert one.bytes_per_s == 200 * MB
    assert pacer.why_slow(one.transfer.id) == "slowed: the disks are busy (io pressure 35%)"
    assert (pacer.busy, one.was_slowed) == (Busy(io_pressure=0.35, slowed=1), True)
    for _ in range(20):
        machine.pass_time(pacer, one)
    assert one.bytes_per_s == FLOOR


def test_it_grows_back_when_the_disks_are_free_again(machine: Machine) -> None:
    pacer, one = machine.pacer(), running()
    machine.says(90)
    machine.pass_time(pacer, one)
    machine.says(5)
    machine.pass_time(pacer, one)
    assert one.bytes_per_s == 300 * MB
    for _ in range(5):
        machine.pass_time(pacer, one)
    assert one.bytes_per_s is None
    assert pacer.why_slow(one.transfer.id) == ""


def test_what_somebody_waits_for_keeps_its_rate_also_from_the_moment_on(machine: Machine) -> None:
    pacer, wish, in_time, one = machine.pacer(), running(1, priority=10), running(2, due_at=NOON), running(3)
    machine.says(99)
    machine.pass_time(pacer, wish, in_time, one)
    assert (wish.bytes_per_s, in_time.bytes_per_s) == (None, None)
    assert one.bytes_per_s is not None
    one.transfer = replace(one.transfer, priority=10)
    machine.pass_time(pacer, wish, in_time, one)
    assert one.bytes_per_s is None


def test_a_rate_of_the_hour_holds_for_what_is_slowed_too(machine: Machine) -> None:
    pacer, one = machine.pacer(), running()
    one.ends = (FLASH, HDD)
    machine.says(50)
    machine.pass_time(pacer, one)
    assert one.bytes_per_s == 50 * MB
    for _ in range(5):
        machine.pass_time(pacer, one)
    assert one.bytes_per_s == FLOOR


@pytest.mark.parametrize("busy", [None, 0.2])
def test_switched_off_or_without_such_a_kernel_nothing_is_slowed(machine: Machine, busy: float | None) -> None:
    if busy is not None:
        machine.at.unlink()
    pacer, one = machine.pacer(busy), running()
    machine.says(99)
    machine.pass_time(pacer, one)
    assert one.bytes_per_s is None


def test_what_has_ended_is_forgotten(machine: Machine) -> None:
    pacer, one = machine.pacer(), running()
    machine.says(99)
    machine.pass_time(pacer, one)
    machine.pass_time(pacer)
    assert pacer.busy.slowed == 0


def test_with_control_groups_only_others_count(tmp_path: Path) -> None:
    """The machine as systemd arranges it: tierd copies in its own group, training runs in another."""
    system = Machine(tmp_path / "io")
    system.says(80)  # mostly by tierd's own copying
    own = tmp_path / "cgroup"
    own.write_text("0::/system.slice/tierd.service\n")
    groups = tmp_path / "groups"
    for name in ("system.slice/tierd.service", "system.slice/sshd.service", "user.slice"):
        (groups / name).mkdir(parents=True)
        Machine(groups / name / "io.pressure").says(1)
    Machine(groups / "system.slice/tierd.service/io.pressure").says(80)
    Machine(groups / "system.slice/io.pressure").says(80)
    pressure = Pressure(system.at, own, groups)
    assert pressure.read() == 0.01
    Machine(groups / "user.slice/io.pressure").says(40)
    assert pressure.read() == 0.4
    assert Pressure(system.at, tmp_path / "none", groups).read() == 0.8


def test_the_looks_at_the_kernel_are_seconds_apart(machine: Machine) -> None:
    pacer, one = machine.pacer(), running()
    machine.says(99)
    machine.pass_time(pacer, one)
    first = one.bytes_per_s
    machine.time += 0.5
    pacer.adjust([one], NOON + timedelta(seconds=1))
    assert one.bytes_per_s == first


@pytest.mark.skipif(not Path("/proc/pressure/io").exists(), reason="this kernel has no PSI")
def test_the_figure_of_this_kernel_is_understood() -> None:
    found = Pressure().read()
    assert found is not None
    assert 0 <= found <= 1
