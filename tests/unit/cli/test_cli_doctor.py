"""`tierd doctor` tells what is missing and what to do, and leaves nothing behind."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.conftest import SmallMount
from tests.receiver import secret_file
from tierd.cli.program import program

CONFIG = """
database = "{base}/tierd.db"
[[tiers]]
name = "flash"
root = "{flash}"
rank = 0
[[tiers]]
name = "hdd"
root = "{base}/hdd"
rank = 1
[[datasets]]
name = "ds"
path = "{flash}/ds"
"""


def ask(base: Path, flash: Path, *more: str) -> Result:
    config = base / "config.toml"
    config.write_text(CONFIG.format(base=base, flash=flash))
    url = f"unix://{base}/none.sock"
    return CliRunner().invoke(program, ["doctor", "--config", str(config), "--url", url, *more])


def looks(result: Result) -> dict[str, tuple[str, str]]:
    return {look["what"]: (look["verdict"], look["found"]) for look in json.loads(result.stdout)["looks"]}


def test_a_sound_machine_is_told_so_and_nothing_is_left_behind(tmp_path: Path) -> None:
    for name in ("flash/ds", "hdd"):
        (tmp_path / name).mkdir(parents=True)
    result = ask(tmp_path, tmp_path / "flash", "--json")
    assert result.exit_code == 0
    found = looks(result)
    assert found["kernel"][0] == found["configuration"][0] == "fine"
    assert found["tier flash"] == ("fine", found["tier flash"][1])
    assert "exchanges names" in found["tier flash"][1]
    assert found["daemon"][0] == "note"  # none runs
    assert os.listdir(tmp_path / "hdd") == []
    assert os.listdir(tmp_path / "flash") == ["ds"]


def test_a_missing_disk_is_bad_and_the_advice_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "hdd").mkdir()
    result = ask(tmp_path, tmp_path / "flash")
    assert result.exit_code == 1
    assert "cannot be looked at (No such file or directory)" in result.stdout
    assert "Mount the disk, or correct `root`." in result.stdout


def test_a_faulty_configuration_is_told_with_what_to_write(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("decide_intervall = 3\n")
    result = CliRunner().invoke(
        program, ["doctor", "--config", str(config), "--url", f"unix://{tmp_path}/none", "--json"]
    )
    assert result.exit_code == 1
    assert looks(result)["configuration, decide_intervall"][0] == "bad"


@pytest.mark.mounts
def test_a_disk_that_is_nearly_full_is_noted(tmp_path: Path, small_mount: SmallMount) -> None:
    (tmp_path / "hdd").mkdir()
    flash = small_mount("ext4", 20)
    (flash / "ds").mkdir()
    with (flash / "filler").open("wb") as file:
        space = os.statvfs(flash)
        os.posix_fallocate(file.fileno(), 0, int(space.f_bavail * space.f_frsize * 0.99))
    result = ask(tmp_path, flash, "--json")
    assert result.exit_code == 0
    notes = [look for look in json.loads(result.stdout)["looks"] if look["verdict"] == "note"]
    assert next(look["found"] for look in notes if look["what"] == "tier flash").startswith("only ")


def test_the_secret_of_a_webhook_must_be_there_and_nobody_else_s(tmp_path: Path) -> None:
    for name in ("flash/ds", "hdd"):
        (tmp_path / name).mkdir(parents=True)
    secret = secret_file(tmp_path)
    hook = '[[webhook]]\nname = "{0}"\nurl = "{1}://h.example.com/s3cr3t"\nsecret_file = "{2}"\n'
    written = "".join(
        hook.format(name, scheme, path)
        for name, scheme, path in (("a", "https", secret), ("b", "http", secret), ("c", "https", tmp_path / "none"))
    )

    def found() -> dict[str, tuple[str, str]]:
        (tmp_path / "config.toml").write_text(CONFIG.format(base=tmp_path, flash=tmp_path / "flash") + written)
        words = ["doctor", "--config", f"{tmp_path}/config.toml", "--url", f"unix://{tmp_path}/none.sock", "--json"]
        result = CliRunner().invoke(program, words)
        assert "s3cr3t" not in result.output
        assert result.exit_code == 1
        return looks(result)

    first = found()
    assert first["webhook a"][0] == "fine"
    assert first["webhook b"] == ("note", "goes to http://h.example.com/… unencrypted")
    assert first["webhook c"][0] == "bad"
    assert "cannot be read" in first["webhook c"][1]
    secret.chmod(0o644)
    assert found()["webhook a"] == ("bad", f"everybody may read its secret in {secret}")
