"""Tell systemd how the service is. Source: sd_notify(3); without $NOTIFY_SOCKET nothing happens."""

from __future__ import annotations

import contextlib
import os
import socket


class Notifier:
    """Sends states to the service manager; never fails, for nothing depends on it."""

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def ready(self) -> None:
        self._send("READY=1")

    def reloading(self) -> None:
        """Not READY for a moment; unlike `stopping` it leaves the service active."""
        self._send("RELOADING=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def alive(self, status: str) -> None:
        """Feed the watchdog, and say in one line what goes on (shown by `systemctl status`)."""
        self._send(f"WATCHDOG=1\nSTATUS={status}")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(message.encode(), self._address)
