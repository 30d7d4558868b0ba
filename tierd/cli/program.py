"""The program `tierd`: its verbs, and what every failure looks like and exits with."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from tierd import __version__
from tierd.cli.announcing import announce, announcements, schedules
from tierd.cli.auditing import audit
from tierd.cli.backing_up import backup
from tierd.cli.demo import demo
from tierd.cli.doctor import doctor
from tierd.cli.fetching import fetch
from tierd.cli.holding import lease, pin, unpin
from tierd.cli.looking import ls, status
from tierd.cli.moving import cancel, migrate, pause, release, resume, transfers
from tierd.cli.phases import phase
from tierd.cli.reasons import events, explain, plan
from tierd.cli.rebuilding import rebuild
from tierd.cli.running import check_config, run
from tierd.cli.simulating import simulate
from tierd.cli.terminal import escape, say
from tierd.cli.using import access, accesses, heatmap, history, top
from tierd.cli.warming import warm
from tierd.cli.webhooks import webhook
from tierd.errors import ConfigError, TierdError

TIMED_OUT, INTERRUPTED, BROKEN_PIPE = 124, 130, 141
"""As timeout(1) and shells have them."""

_VERBS = (
    ("Daily", (status, ls, warm, fetch, lease, pin, unpin)),
    ("Why", (plan, explain, events, simulate)),
    ("Use", (top, accesses, heatmap, history, access)),
    ("Announced", (announce, announcements, schedules)),
    ("Moving", (migrate, release, transfers, cancel, pause, resume, phase)),
    ("Care", (audit, backup, rebuild)),
    ("Daemon", (run, check_config, doctor, webhook, demo)),
)

_EPILOG = """\b
Exit codes:
  0    done
  1    something failed that should not have; audit: something was found
  2    wrong usage, or a faulty configuration
  3    no daemon answers
  4    there is nothing of that name
  5    the present state does not allow it: held, not settled, cancelled, in use
  6    the warm is refused: no room, no copy within reach, or not there in time
  7    you may not do that: role, token, or permission on the socket
  8    the catalog database cannot be used
  9    a tier cannot be used: offline, full, damaged, access denied
  124  --timeout has passed
  126  --exec: the command cannot be run (127: there is none of that name)
  130  interrupted by Ctrl-C
  141  the reader of the output is gone

\b
Shell completion, in ~/.bashrc (for zsh and fish: zsh_source, fish_source):
  eval "$(_TIERD_COMPLETE=bash_source tierd)"

\b
The daemon's address comes from --url or TIERD_URL, else unix:///run/tierd/tierd.sock; the token for a daemon that is
reached over TCP from TIERD_TOKEN. Results go to standard output, everything else to standard error."""


class Program(click.Group):
    """The group of all verbs. Every failure is one line that says what, and one that says what to do."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            # Here, where a reader that is gone can still be told apart; at exit it would be a traceback.
            sys.stdout.flush()
        except TierdError as e:
            _report(e)
            ctx.exit(e.exit_code)
        except TimeoutError as e:
            say(str(e))
            ctx.exit(TIMED_OUT)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            _silence_stdout()
            ctx.exit(BROKEN_PIPE)
        return result

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        # A terminal that cannot show a character gets its escape, never a traceback.
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.Abort:
            sys.exit(INTERRUPTED)
        except click.exceptions.NoArgsIsHelpError as e:
            e.show()
            sys.exit(e.exit_code)
        except click.ClickException as e:
            say(_lower(e.format_message()))
            context = e.ctx if isinstance(e, click.UsageError) else None
            if context is not None:
                click.echo(f"Try `{context.command_path} --help`.", err=True)
            sys.exit(e.exit_code)
        sys.exit(code if isinstance(code, int) else 0)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, verbs in _VERBS:
            with formatter.section(title):
                formatter.write_dl([(verb.name or "", verb.get_short_help_str(limit=90)) for verb in verbs])


def _report(error: TierdError) -> None:
    if isinstance(error, ConfigError):  # made here, one fault a line
        click.echo("tierd: " + "\n".join(escape(line) for line in error.message.splitlines()), err=True)
    else:
        say(error.message)
    if error.hint:
        click.echo(escape(error.hint), err=True)


def _silence_stdout() -> None:
    # The interpreter flushes standard output at exit, and would complain about the pipe again.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _lower(message: str) -> str:
    return (message[:1].lower() + message[1:]).rstrip(".")


@click.group(
    name="tierd",
    cls=Program,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, message="tierd %(version)s")
def program() -> None:
    """Keeps dataset snapshots on the cheapest storage from which a job still finds them on flash.

    \b
    tierd status                                 how full the tiers are, what is going on
    tierd ls                                     which snapshot lies where
    python train.py --data "$(tierd warm imagenet/v3 --wait --lease 8h)"
    tierd explain imagenet/v3                    why it is where it is

    Each verb has examples: tierd VERB --help.
    """


for _, _verbs in _VERBS:
    for _verb in _verbs:
        program.add_command(_verb)
