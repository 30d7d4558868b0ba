"""Sockets: exact permissions, stale ones replaced, living ones respected."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tierd.errors import ConfigError, Conflict
from tierd.serve.sockets import bind_tcp, bind_unix, identity, remove_own


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tierd-") as directory:
        yield Path(directory) / "api.sock"


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_socket_has_the_configured_mode_whatever_the_umask(path: Path, mode: int) -> None:
    before = os.umask(0o077)
    try:
        with bind_unix(path, mode):
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(before)


def test_a_stale_socket_is_replaced(path: Path) -> None:
    bind_unix(path, 0o600).close()
    assert path.exists()
    with bind_unix(path, 0o600), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_the_socket_of_a_living_daemon_is_left_alone(path: Path) -> None:
    with bind_unix(path, 0o600):
        before = identity(path)
        with pytest.raises(Conflict, match="another daemon answers"):
            bind_unix(path, 0o600)
        assert identity(path) == before


def test_a_file_that_is_no_socket_is_never_removed(path: Path) -> None:
    path.write_text("precious")
    with pytest.raises(ConfigError, match="not a socket"):
        bind_unix(path, 0o600)
    assert path.read_text() == "precious"


def test_a_missing_directory_and_an_endless_path_are_told(path: Path) -> None:
    with pytest.raises(ConfigError) as missing:
        bind_unix(path.parent / "absent" / "api.sock", 0o600)
    assert missing.value.hint is not None
    assert "Create" in missing.value.hint
    with pytest.raises(ConfigError, match="too long"):
        bind_unix(path.parent / ("x" * 150), 0o600)


def test_only_our_own_socket_is_removed_at_the_end(path: Path) -> None:
    bind_unix(path, 0o600).close()
    mine = identity(path)
    path.unlink()
    path.write_text("somebody else's")
    remove_own(path, mine)
    assert path.exists()
    remove_own(path, identity(path))
    assert not path.exists()


def test_a_taken_port_and_a_bad_address_are_told() -> None:
    with bind_tcp("127.0.0.1:0") as taken, pytest.raises(Conflict, match="another program listens"):
        bind_tcp(f"127.0.0.1:{taken.getsockname()[1]}")
    for bad in ("nonsense", "127.0.0.1:seven", "127.0.0.1:99999"):
        with pytest.raises(ConfigError):
            bind_tcp(bad)
