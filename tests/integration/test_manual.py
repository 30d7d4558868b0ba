"""Man pages say all that the program can do, in roff without a fault, and the shells complete what it knows."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tierd.cli.program import program
from tierd.config.keys import SECTIONS

GENERATOR = Path(__file__).parents[2] / "deploy/packaging/generate_docs.py"
PAGES = ("man1/tierd.1", "man5/tierd.toml.5", "man7/tierd.7")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("docs")
    subprocess.run([sys.executable, GENERATOR, root], check=True)
    return root


def page(root: Path, name: str) -> bytes:
    return gzip.decompress((root / "usr/share/man" / f"{name}.gz").read_bytes())


def rendered(roff: bytes) -> tuple[str, str]:
    command = ["groff", "-ww", "-man", "-Kutf8", "-Tutf8", "-P-cbou", "-rLL=120n"]
    done = subprocess.run(command, input=roff, check=True, capture_output=True)
    return done.stdout.decode(), done.stderr.decode()


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_faultless_roff(generated: Path, name: str) -> None:
    shown, complaints = rendered(page(generated, name))
    assert complaints == ""
    assert "SEE ALSO" in shown


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_every_verb_and_option_is_in_the_page(generated: Path) -> None:
    shown, _ = rendered(page(generated, "man1/tierd.1"))
    wanted = list(_words(program, ("tierd",)))
    assert len(wanted) > 100
    assert [words for words in wanted if words not in shown] == []


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_every_key_is_in_the_page(generated: Path) -> None:
    shown, _ = rendered(page(generated, "man5/tierd.toml.5"))
    assert [key.name for keys in SECTIONS.values() for key in keys if f"{key.name} = " not in shown] == []


def test_bash_completes_verbs_and_options_and_nothing_is_said_when_no_daemon_runs(generated: Path) -> None:
    file = generated / "usr/share/bash-completion/completions/tierd"
    assert complete(file, "tierd", "ann") == ["announce", "announcements"]
    assert complete(file, "tierd", "rebuild", "--dry") == ["--dry-run"]
    assert complete(file, "tierd", "warm", "imag") == []


def test_zsh_and_fish_have_completions_where_they_look_for_them(generated: Path) -> None:
    assert (generated / "usr/share/zsh/site-functions/_tierd").read_text().startswith("#compdef tierd")
    fish = (generated / "usr/share/fish/vendor_completions.d/tierd.fish").read_text()
    assert "complete --no-files --command tierd" in fish


def complete(file: Path, *words: str) -> list[str]:
    script = f"source {file}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
    script += 'COMP_LINE="${COMP_WORDS[*]}"; _tierd_completion tierd; printf "%s\\n" "${COMPREPLY[@]}"'
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "TIERD_URL": "unix:///nonexistent.sock"}
    done = subprocess.run(["bash", "-c", script], env=environment, check=True, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout.split()


def _words(command: click.Command, path: tuple[str, ...]) -> list[str]:
    found = [" ".join(path)]
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            found += parameter.opts
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            found += _words(inner, (*path, name))
    return found
