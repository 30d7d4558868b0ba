"""Checks of webhooks against this machine."""

from __future__ import annotations

from pathlib import Path

from tierd.config.document import Document
from tierd.config.fault import Faults, Mounts
from tierd.config.s3_values import credentials_directory
from tierd.config.webhook_values import read_secrets
from tierd.errors import ConfigError


def check_webhooks(document: Document, mounts: Mounts, faults: Faults) -> None:
    """Files that are named must be there and right; a running daemon goes on without, and says so."""
    if mounts is not Mounts.REQUIRED:
        return
    for webhook in document.webhooks:
        secret: Path | None = webhook.values.get("secret_file")
        # A systemd credential is there as long as the service runs.
        if secret is not None and secret.parent != credentials_directory():
            try:
                read_secrets(secret)
            except ConfigError as error:
                faults.add(f"{webhook.where}.secret_file", error.message, error.hint or "")
        bundle: Path | None = webhook.values.get("ca_bundle")
        if bundle is not None and not bundle.is_file():
            faults.add(f"{webhook.where}.ca_bundle", f"{bundle} is no file", "Create it, or correct the path.")
