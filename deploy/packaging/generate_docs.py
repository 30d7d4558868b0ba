"""Write the man pages and shell completions: python deploy/packaging/generate_docs.py DIRECTORY [PROGRAM].

tierd(1) comes from the program's own help, tierd.toml(5) from config.example.toml, which a test compares with the code,
and tierd(7) from manual.7 beside this file. The completions ask PROGRAM (by default `tierd`) for what it knows.
"""

from __future__ import annotations

import gzip
import inspect
import re
import sys
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from tierd import __version__
from tierd.cli.program import program

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "config.example.toml"
COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/tierd",
    "zsh": "usr/share/zsh/site-functions/_tierd",
    "fish": "usr/share/fish/vendor_completions.d/tierd.fish",
}


def text(words: str) -> str:
    """Plain text as roff: nothing in it is a request or an escape."""
    words = words.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    words = words.replace("^", "\\(ha").replace("~", "\\(ti").replace('"', "\\(dq")
    return "\n".join("\\&" + line if line[:1] in ".'" else line for line in words.splitlines())


def bold(words: str) -> str:
    return f"\\fB{text(words)}\\fR"


def header(name: str, section: int, title: str) -> list[str]:
    return [f'.TH {name} {section} "" "tierd {__version__}" "{title}"', ".nh", ".ad l"]


def paragraphs(help_text: str) -> list[str]:
    """The body of a help text; what follows a \\b stays as it is."""
    lines: list[str] = []
    for block in re.split(r"\n\s*\n", help_text.strip("\n")):
        rows = block.strip("\n").splitlines()
        if rows and rows[0].strip() == "\b":
            lines += [".PP", ".nf", ".RS 2", *(text(row.rstrip()) for row in rows[1:]), ".RE", ".fi"]
        else:
            lines += [".PP", text(" ".join(row.strip() for row in rows))]
    return lines


def parameters(command: click.Command, context: click.Context) -> list[str]:
    lines: list[str] = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and "--help" not in parameter.opts:
            lines += [".TP", bold(record[0]), text(record[1]) or "\\&"]
    return lines


def verb_page(command: click.Command, parent: click.Context, name: str) -> list[str]:
    """One verb, and those below it."""
    context = click.Context(command, parent=parent, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f'.SS "{text(context.command_path)}"', f"{bold(context.command_path)} {text(usage)}"]
    lines += [*paragraphs(_clean(command.help)), *parameters(command, context)]
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            if found is not None and not found.hidden:
                lines += verb_page(found, context, inner)
    return lines


def _clean(help_text: str | None) -> str:
    return inspect.cleandoc(help_text or "")


def tierd_1() -> str:
    context = click.Context(program, info_name="tierd", max_content_width=100)
    lines = [*header("TIERD", 1, "User commands"), ".SH NAME", "tierd \\- tiered placement of dataset snapshots"]
    lines += [".SH SYNOPSIS", ".B tierd", "\\fIVERB\\fR [\\fIOPTION\\fR]... [\\fIARGUMENT\\fR]..."]
    lines += [".SH DESCRIPTION", *paragraphs(_clean(program.help)), *parameters(program, context), ".SH VERBS"]
    for name in program.list_commands(context):
        command = program.get_command(context, name)
        if command is not None and not command.hidden:
            lines += verb_page(command, context, name)
    lines += [".SH NOTES", *paragraphs(_clean(program.epilog)), ".SH SEE ALSO", ".BR tierd.toml (5),", ".BR tierd (7)"]
    return "\n".join(lines) + "\n"


def tierd_toml_5() -> str:
    lines = [*header("TIERD.TOML", 5, "File formats"), ".SH NAME", "tierd.toml \\- configuration of tierd"]
    lines += [".SH SYNOPSIS", ".I /etc/tierd/config.toml", ".SH DESCRIPTION"]
    lines += [
        "The file is TOML 1.0. What follows is a whole configuration: every key with its default and what it is for."
    ]
    lines += [
        ".B tierd check\\-config",
        "finds every fault of a file, and",
        ".B systemctl reload tierd",
        "reads it again.",
    ]
    lines += [".SH EXAMPLE", ".nf", *(text(line) for line in EXAMPLE.read_text().splitlines()), ".fi"]
    lines += [".SH SEE ALSO", ".BR tierd (1),", ".BR tierd (7)"]
    return "\n".join(lines) + "\n"


def completion(shell: str, prog: str) -> str:
    found = get_completion_class(shell)
    if found is None:
        raise SystemExit(f"click knows no completion for {shell}")
    return found(program, {}, prog, "_TIERD_COMPLETE").source()


def main() -> None:
    root, prog = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "tierd"
    pages = {"1/tierd.1": tierd_1(), "5/tierd.toml.5": tierd_toml_5(), "7/tierd.7": (HERE / "manual.7").read_text()}
    for name, page in pages.items():
        path = root / f"usr/share/man/man{name}.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(page.encode(), mtime=0))
    for shell, name in COMPLETIONS.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(completion(shell, prog))


if __name__ == "__main__":
    main()
