"""A worker that is started ahead: real processes of the worker's own program."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tierd.move.standby import Standby, Worker, start_worker


class Starter:
    """Starts real workers, and knows them afterwards."""

    def __init__(self, lock_fd: int) -> None:
        self.workers: list[Worker] = []
        self._lock_fd = lock_fd

    def __call__(self) -> Worker:
        self.workers.append(start_worker(self._lock_fd))
        return self.workers[-1]


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[Starter]:
    with (tmp_path / "lock").open("w") as lock:
        starter = Starter(lock.fileno())
        yield starter
        for worker in starter.workers:
            worker.end()


def test_there_is_none_before_one_was_prepared(starter: Starter) -> None:
    standby = Standby(starter)
    assert standby.take() is None
    assert starter.workers == []


def test_the_one_that_is_ready_is_given_away_once(starter: Starter) -> None:
    standby = Standby(starter)
    standby.prepare()
    standby.prepare()
    assert len(starter.workers) == 1
    assert standby.take() is starter.workers[0]
    assert standby.take() is None


def test_it_ends_when_no_order_comes(starter: Starter) -> None:
    now = [0.0]
    standby = Standby(starter, keep_s=60.0, monotonic=lambda: now[0])
    standby.prepare()
    now[0] = 40.0
    standby.prepare()  # another transfer ended: it waits from here on
    now[0] = 90.0
    standby.look()
    assert starter.workers[0].process.poll() is None
    now[0] = 101.0
    standby.look()
    assert starter.workers[0].process.poll() is not None
    assert standby.take() is None


def test_one_that_died_is_not_given_away(starter: Starter) -> None:
    standby = Standby(starter)
    standby.prepare()
    starter.workers[0].process.kill()
    starter.workers[0].process.wait()
    assert standby.take() is None
    standby.prepare()
    assert standby.take() is starter.workers[1]


def test_one_without_an_order_ends_quietly_when_its_socket_closes(
    starter: Starter, capfd: pytest.CaptureFixture[str]
) -> None:
    worker = starter()
    worker.connection.close()
    assert worker.process.wait(60) == 0
    assert capfd.readouterr().err == ""


def test_a_worker_that_cannot_be_started_is_no_error(tmp_path: Path) -> None:
    def fail() -> Worker:
        raise BlockingIOError(11, os.strerror(11))

    standby = Standby(fail)
    standby.prepare()
    assert standby.take() is None


def test_it_has_loaded_the_driver_before_its_order_comes(starter: Starter, tmp_path: Path) -> None:
    with (tmp_path / "lock").open() as lock:
        worker = start_worker(lock.fileno(), ("s3",))
    starter.workers.append(worker)
    maps = Path(f"/proc/{worker.process.pid}/maps")
    deadline = time.monotonic() + 60
    while "_awscrt" not in maps.read_text():
        assert time.monotonic() < deadline, "the S3 driver is not loaded"
        time.sleep(0.02)
