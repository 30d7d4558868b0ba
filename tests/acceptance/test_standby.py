"""The worker that a daemon has ready ends with the daemon, however that ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.daemon_process import DaemonProcess


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    daemon = DaemonProcess(tmp_path, migrate_after="0s")
    (daemon.dataset / "v1").mkdir()
    (daemon.dataset / "v1" / "file").write_bytes(b"x" * 10_000)
    daemon.start()
    yield daemon
    daemon.close()


def ready_worker(daemon: DaemonProcess) -> int:
    """The one that stands by after a transfer."""
    assert daemon.process is not None
    daemon.wait_for_residency("ds/v1", "premigrated")
    main = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children")
    found: list[int] = []

    def stands_by() -> bool:
        # Only one that was started ahead is told what to load.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found[:] = [int(pid) for pid in main.read_text().split() if _arguments(pid)[-1:] == [b"posix"]]
        return bool(found)

    daemon.wait_until(stands_by, "a worker stands by")
    return found[0]


def _arguments(pid: str) -> list[bytes]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]


def has_ended(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    return True


def test_it_ends_with_a_daemon_that_is_killed(daemon: DaemonProcess) -> None:
    ready = ready_worker(daemon)
    daemon.kill()
    daemon.process = None
    daemon.wait_until(lambda: has_ended(ready), "it is gone")
    daemon.start()  # nobody holds the lock of the database


def test_it_ends_with_a_daemon_that_is_stopped(daemon: DaemonProcess) -> None:
    ready = ready_worker(daemon)
    daemon.stop()
    assert has_ended(ready)
