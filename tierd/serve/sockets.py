"""The sockets the API listens on: made with the right permissions, never taken from a daemon that lives."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

from tierd.errors import ConfigError, Conflict

BACKLOG = 1024
_PROBE_S = 2.0
_LAST_PORT = 65535
_LISTEN_HINT = 'Write "host:port", like "127.0.0.1:7411".'

Identity = tuple[int, int, int]


def bind_unix(path: Path, mode: int) -> socket.socket:
    """A listening Unix socket with exactly these permissions; one left behind by a dead daemon is replaced.

    Raises:
        Conflict: another daemon answers there.
        ConfigError: there can be no socket at that path.
    """
    _remove_stale(path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(os.fspath(path))
        # Before listen: until then nobody can connect, whatever the umask made of the permissions.
        path.chmod(mode)
        made.listen(BACKLOG)
    except OSError as e:
        made.close()
        if e.errno == errno.EADDRINUSE:
            raise Conflict(f"another daemon has just taken {path}") from e
        what = "the path is too long for a socket" if "too long" in str(e) else e.strerror
        raise ConfigError(f"cannot listen at {path}: {what}", hint=_hint(path, e)) from e
    return made


def bind_tcp(listen: str) -> socket.socket:
    """A listening TCP socket for "host:port" (port 0: any free one).

    Raises:
        Conflict: the port is taken.
        ConfigError: there is no such address here.
    """
    host, _, port = listen.rpartition(":")
    if not port.isdecimal() or int(port[:6]) > _LAST_PORT:
        raise ConfigError(f"cannot listen at {listen}: {port!r} is no port", hint=_LISTEN_HINT)
    host = host.removeprefix("[").removesuffix("]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
    except OSError as e:
        raise ConfigError(f"cannot listen at {listen}: {e}", hint=_LISTEN_HINT) from e
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(BACKLOG)
    except OSError as e:
        made.close()
        if e.errno == errno.EADDRINUSE:
            raise Conflict(f"another program listens at {listen}", hint="Choose another port, or stop it.") from e
        raise ConfigError(f"cannot listen at {listen}: {e.strerror}") from e
    return made


def identity(path: Path) -> Identity | None:
    """What tells the file at a path from another one that takes its place; None if there is none."""
    with contextlib.suppress(OSError):
        found = path.lstat()
        # The number alone is not enough: it is given again as soon as the file is gone.
        return found.st_dev, found.st_ino, found.st_ctime_ns
    return None


def remove_own(path: Path, own: Identity | None) -> None:
    """Remove the socket file if it is still ours."""
    if own is not None and identity(path) == own:
        path.unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as e:
        raise ConfigError(f"cannot listen at {path}: {e.strerror}", hint=_hint(path, e)) from e
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{path} exists and is not a socket", hint="Configure another path for the socket.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except TimeoutError:
            pass  # somebody has it and is too busy to answer: that is not a dead one
        except OSError as e:
            raise ConfigError(f"cannot listen at {path}: {e.strerror}", hint=_hint(path, e)) from e
    raise Conflict(f"another daemon answers at {path}", hint="Stop it first, or configure another socket and database.")


def _hint(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"Create {path.parent} first; the service's RuntimeDirectory does that."
    return "Configure a socket in a directory that the daemon may write to."
