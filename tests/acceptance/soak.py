"""A long, rough life: readers check every byte they read while snapshots move, are warmed, written to, and the daemon
is killed again and again. Run by hand, as long as you like; `test_soak.py` runs it for half a minute.

    python tests/acceptance/soak.py --seconds 600 --snapshots 20 [--seed 7]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.acceptance.daemon_process import DaemonProcess


class Soak:
    """Snapshots whose files each start with the SHA-256 of the rest, so that any reader can tell right from wrong."""

    def __init__(self, base: Path, snapshots: int, seed: int, *, flash: Path | None = None, hdd: Path | None = None):
        self.random = random.Random(seed)
        self.daemon = DaemonProcess(
            base,
            flash=flash,
            hdd=hdd,
            migrate_after="1s",
            release_after="3s",
            mover_extra="workers = 3\nmax_attempts = 50\nnice = 0",
        )
        self.stop = threading.Event()
        self.lock = threading.Lock()  # held by a writer and by the final check, never by readers
        self.faults: list[str] = []
        self.counts = {"reads": 0, "writes": 0, "warms": 0, "releases": 0, "kills": 0, "missed": 0, "healed": 0}
        self.homes = [
            self.daemon.dataset / f"v{n}" if n % 3 else self.daemon.archive / f"v{n}" for n in range(snapshots)
        ]
        self.names = [f"d{n % 4}/f{n}" for n in range(24)]
        for home in self.homes:
            for name in self.names:
                (home / name).parent.mkdir(parents=True, exist_ok=True)
                self._write(home / name)

    def _write(self, path: Path) -> None:
        """Replace a file the way careful programs do: a new file, renamed over the old one."""
        body = self.random.randbytes(
            self.random.choice([10, 5000, 60_000, 6 << 20 if self.random.random() < 0.02 else 9])
        )
        part = path.with_name(path.name + ".part")
        part.write_bytes(hashlib.sha256(body).digest() + body)
        part.rename(path)

    def _ref(self, home: Path) -> str:
        return f"{'ds' if home.parent == self.daemon.dataset else 'archive'}/{home.name}"

    # -- the actors ---------------------------------------------------------------------------------------------

    def read(self, seed: int) -> None:
        chance = random.Random(seed)
        while not self.stop.is_set():
            path = chance.choice(self.homes) / chance.choice(self.names)
            try:
                content = path.read_bytes()
            except OSError as error:
                self.faults.append(f"{path}: {error}")
                continue
            self.counts["reads"] += 1
            if hashlib.sha256(content[32:]).digest() != content[:32]:
                self.faults.append(f"{path}: wrong bytes ({len(content)})")
            if chance.random() < 0.05:
                time.sleep(0.05)

    def write(self) -> None:
        while not self.stop.wait(0.7):
            with self.lock, contextlib.suppress(OSError):
                self._write(self.random.choice(self.homes) / self.random.choice(self.names))
                self.counts["writes"] += 1

    def order(self) -> None:
        while not self.stop.wait(0.15):
            ref = self._ref(random.choice(self.homes))
            verb = random.choice(["warm", "release"])
            with contextlib.suppress(httpx.HTTPError, AssertionError):
                body = {"lease_s": 1.0} if verb == "warm" else {}
                answer = self.daemon.post(f"/v1/snapshots/{ref}/{verb}", body, check=False)
                self.counts[f"{verb}s"] += answer.is_success
                self.counts["missed"] += not answer.is_success
                if answer.status_code >= 500 and answer.status_code != 507:
                    self.faults.append(f"{verb} {ref}: {answer.status_code} {answer.text}")

    def run(self, seconds: float) -> dict[str, int]:
        self.daemon.start()
        actors = [threading.Thread(target=self.read, args=(n,)) for n in range(2)]
        actors += [threading.Thread(target=self.write), threading.Thread(target=self.order)]
        for actor in actors:
            actor.start()
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.faults:
            time.sleep(self.random.uniform(1, 6))
            self.daemon.kill()
            self.counts["kills"] += 1
            self.daemon.start()
        self.stop.set()
        for actor in actors:
            actor.join()
        self._settle()
        return self.counts

    def _rests(self) -> bool:
        """Whether all is migrated and nothing moves. A snapshot that was written to on the cold tier while its release
        was killed between switching and letting go is warmed, as its operator would do.
        """
        rests = True
        for s in self.daemon.get("/v1/snapshots?limit=200").json()["items"]:
            rests = rests and s["residency"] == "migrated" and s["transfer"] is None
            # A resident one with a stale cold copy migrates by itself, unless the lease of a warm-up holds it.
            is_left = s["residency"] == "migrated" and any(p["state"] == "stale" for p in s["placements"])
            if is_left and s["transfer"] is None:
                self.daemon.post(f"/v1/snapshots/{s['ref']}/warm", {"lease_s": 1.0}, check=False)
                self.counts["healed"] += 1
                rests = False
        return rests

    def _settle(self) -> None:
        """Without new wishes everything comes to rest; then each file must be right and nothing may lie about."""
        self.daemon.wait_until(self._rests, "everything rests on the cold tier", timeout=180)
        self.daemon.stop()
        for home in self.homes:
            found = sorted(str(p.relative_to(home)) for p in home.rglob("*") if p.is_file() and p.suffix != ".part")
            if found != sorted(self.names):
                self.faults.append(f"{home}: files differ: {set(found) ^ set(self.names)}")
            for name in self.names:
                content = (home / name).read_bytes()
                if hashlib.sha256(content[32:]).digest() != content[:32]:
                    self.faults.append(f"{home / name}: wrong bytes in the end")
        for root in (self.daemon.flash, self.daemon.hdd):
            self.faults += [
                f"litter: {p}" for q in ("staging", "trash", "aside") for p in (root / ".tierd" / q).iterdir()
            ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--snapshots", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(2)))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tierd-soak-") as directory:
        soak = Soak(Path(directory), options.snapshots, options.seed)
        try:
            soak.run(options.seconds)
        finally:
            soak.stop.set()
            soak.daemon.close()
        if soak.faults:
            print(soak.daemon.log.read_text()[-20_000:], file=sys.stderr)
    print(json.dumps({"seed": options.seed, **soak.counts, "faults": soak.faults[:20]}, indent=1))
    sys.exit(bool(soak.faults))


if __name__ == "__main__":
    main()
