"""The command line: one module per group of verbs. What is heavy is imported inside the verb that needs it.

program: the verbs together, errors and exit codes · options: what verbs have in common · terminal, progress: what
people see · leaving, logs: how it ends, how the daemon speaks · looking, reasons, moving, holding, warming, running,
demo: the verbs.
"""

from __future__ import annotations

from typing import NoReturn


def main() -> NoReturn:
    """Run the command line of this process, and exit."""
    from tierd.cli.program import program

    program.main(prog_name="tierd")
    raise SystemExit(0)
