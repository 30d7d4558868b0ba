"""A real API on a real socket, and the command line that talks to it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.api_world import ApiWorld, api_world, listening
from tierd.cli.program import program
from tierd.serve import ApiServer

Call = Callable[..., Result]
Started = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[ApiWorld]:
    with api_world(tmp_path) as world:
        yield world


@pytest.fixture
def server(world: ApiWorld) -> Iterator[ApiServer]:
    with listening(world) as server:
        yield server


@pytest.fixture
def call(server: ApiServer) -> Call:
    """Call a verb in this process, without a terminal."""

    def called(*words: str) -> Result:
        return CliRunner().invoke(program, list(words), env={"TIERD_URL": f"unix://{server.socket}"})

    return called


@pytest.fixture
def start(server: ApiServer) -> Iterator[Started]:
    """Start a verb in a process of its own; its output is captured."""
    started: list[subprocess.Popen[str]] = []

    def begun(*words: str, **more: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-m", "tierd", *words]
        environment = os.environ | {"TIERD_URL": f"unix://{server.socket}", "PYTHONPATH": str(Path.cwd())}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
        child = subprocess.Popen(command, env=environment, text=True, **pipes)  # type: ignore[call-overload]
        started.append(child)
        return child

    yield begun
    for child in started:
        if child.poll() is None:
            child.kill()
        child.communicate()
