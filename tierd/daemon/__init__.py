"""The daemon: builds the parts from the configuration, owns their threads, signals and stop order."""

from tierd.daemon.service import run

__all__ = ["run"]
