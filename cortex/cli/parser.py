"""The command line as an argparse tree. Standard library only: man pages and completions are made from it."""

import argparse
from collections.abc import Callable
from typing import NoReturn

from cortex import __version__
from cortex.cli.durations import duration_ms, instant_ms, interval_s
from cortex.cli.exit_codes import MEANINGS, Exit

SHELLS = ("bash", "zsh", "fish")
OUTCOMES = ("ok", "client_gone", "error")
MOST_ROWS = 10_000

DESCRIPTION = """\
One OpenAI and Anthropic API in front of a fleet of mistral.rs nodes.

`cortex serve` runs the gateway. Every other command asks a running gateway; the gateway is
found by --endpoint, else $CORTEX_ENDPOINT, else the `listen` address of the configuration
file, else http://127.0.0.1:8000."""

EPILOG = """\
exit codes:
{codes}

environment:
  CORTEX_ENDPOINT  URL of the gateway that the commands ask
  CORTEX_API_KEY   key sent as a bearer token; the admin commands want one with the admin role
  CORTEX_CONFIG    configuration file, unless --config names one
  NO_COLOR         no colour on a terminal; piped output never has any

files:
  ./cortex.toml, /etc/cortex/cortex.toml   the configuration, the first that exists
"""

INSTANT_HELP = "a duration back from now (90s, 15m, 2h, 3d, 1h30m) or a date (2026-07-01T12:00)"


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaint is one line, not a page of usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(Exit.USAGE, f"{self.prog}: {message} (see `{self.prog} --help`)\n")


def build_parser() -> argparse.ArgumentParser:
    """The whole tree; `args.verb` names the command."""
    codes = "\n".join(f"  {code:<4} {meaning}" for code, meaning in MEANINGS.items())
    parser = Parser(
        prog="cortex",
        description=DESCRIPTION,
        epilog=EPILOG.format(codes=codes),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"cortex {__version__}",
        help="print the version and exit",
    )
    verbs = parser.add_subparsers(
        dest="verb", required=True, metavar="COMMAND", title="commands", parser_class=Parser
    )
    for add in (_serve, _status, _history, _models, _events, _pin, _unpin):
        add(verbs)
    for add in (_check_config, _demo, _completion):
        add(verbs)
    return parser


Verbs = argparse._SubParsersAction  # noqa: SLF001 - argparse names the type nowhere else


def _verb(verbs: "Verbs[Parser]", name: str, short: str, long: str) -> argparse.ArgumentParser:
    return verbs.add_parser(
        name,
        help=short,
        description=long,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _typed[T](read: Callable[[str], T]) -> Callable[[str], T]:
    return read
