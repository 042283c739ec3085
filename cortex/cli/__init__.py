"""The `cortex` command. A verb's module, and what it needs, is imported only when the verb is called."""

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from cortex.cli.exit_codes import Exit
from cortex.cli.failures import CliError
from cortex.cli.parser import build_parser
from cortex.cli.text import safe

MODULES = {
    "unpin": "pin",
    "check-config": "check_config",
    **dict.fromkeys(("load", "unload", "drain", "undrain", "defrag"), "operations"),
}
"""Verbs whose module has another name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (see `exit_codes`)."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks must not end the command.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else Exit.OK
    return guarded(lambda: _run(args.verb)(args))


def _run(verb: str) -> Callable[..., int]:
    module = importlib.import_module(f"cortex.cli.{MODULES.get(verb, verb)}")
    run: Callable[..., int] = module.run
    return run


def guarded(run: Callable[[], int]) -> int:
    """Turn the ways a command can end early into exit codes."""
    try:
        code = run()
        sys.stdout.flush()
        return code
    except CliError as error:
        from cortex.telemetry.journal import error_mark

        for line in str(error).splitlines():
            sys.stderr.write(f"{error_mark()}cortex: {safe(line)}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The interpreter flushes stdout at its end, which would complain once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.PIPE
