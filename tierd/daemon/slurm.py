"""Which Slurm jobs are over: asked of squeue, in a thread of its own, for all jobs at once."""

from __future__ import annotations

import logging
import shutil
import subprocess
import threading
from collections.abc import Callable, Collection, Mapping

log = logging.getLogger(__name__)

_EVERY_S = 15.0
_PATIENCE_S = 10.0
_OVER = frozenset({
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
})  # fmt: skip
_UNKNOWN = "Invalid job id"
Run = Callable[[list[str]], "subprocess.CompletedProcess[str]"]


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)


class Jobs:
    """Remembers what squeue said last. Without squeue nothing is known, and leases keep to their time."""

    def __init__(self, every_s: float = _EVERY_S, run: Run = _run) -> None:
        self._every_s, self._run = every_s, run
        self._lock = threading.Lock()
        self._wanted: set[str] = set()
        self._states: dict[str, bool] = {}
        self._trouble: str | None = None
        self._wake = threading.Event()
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    @property
    def trouble(self) -> str | None:
        """Why jobs cannot be asked for; None while all is well."""
        return self._trouble

    def states(self, wanted: Collection[str]) -> Mapping[str, bool]:
        """Which of these jobs live (True) or are over; those of which nothing is known yet are missing."""
        with self._lock:
            is_new = not self._wanted.issuperset(wanted)
            self._wanted = set(wanted)
            if wanted and self._thread is None:
                self._thread = threading.Thread(target=self._ask_again, name="tierd-jobs", daemon=True)
                self._thread.start()
            if is_new:
                self._wake.set()
            return {job: self._states[job] for job in wanted if job in self._states}

    def stop(self) -> None:
        self._is_stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_PATIENCE_S + 1)

    def _ask_again(self) -> None:
        while not self._is_stopping:
            with self._lock:
                wanted = sorted(self._wanted)
            if wanted:
                self._note(wanted)
            self._wake.wait(self._every_s)
            self._wake.clear()

    def _note(self, wanted: list[str]) -> None:
        try:
            found = self._ask(wanted)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            if self._trouble is None:
                log.warning("Slurm cannot be asked for jobs, their leases keep to their time: %s", error)
            self._trouble = str(error)
            return
        self._trouble = None
        with self._lock:
            self._states = found

    def _ask(self, wanted: list[str]) -> dict[str, bool]:
        squeue = shutil.which("squeue")
        if squeue is None:
            raise ValueError("there is no squeue in PATH")
        asked = self._run(
            [squeue, "--noheader", "--all", "--array", "--jobs", ",".join(wanted), "--format", "%i %A %T"]
        )
        if asked.returncode and _UNKNOWN not in asked.stderr:
            raise ValueError(asked.stderr.strip() or f"squeue ended with {asked.returncode}")
        alive: set[str] = set()
        for line in asked.stdout.splitlines():
            fields = line.split()
            if len(fields) == 3 and fields[2] not in _OVER:
                alive |= {fields[0], fields[1], fields[0].partition("_")[0]}
        return {job: job in alive for job in wanted}
