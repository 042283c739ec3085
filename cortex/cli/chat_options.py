"""The options of `cortex chat`. Standard library only."""

import argparse

from cortex.cli.argument_types import whole

SHORT = "talk to a model"
LONG = """\
Talk to a model of the fleet, with the answer as it comes. Ctrl-C stops the answer, not the
program; Ctrl-D ends it. A line that begins with three double quotes goes on until three more.
/help tells the commands: /model, /system, /stats, /new. Nothing of it is written down.

What comes through a pipe is one question; its answer is printed, and nothing else."""
JSON = "ask the one question of standard input and print its answer and figures as JSON"
MOST_TOKENS = 1_000_000


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="id or alias of the model (default: the only one, or one that is loaded)",
    )
    parser.add_argument("--system", metavar="TEXT", help="what to tell the model first")
    parser.add_argument(
        "--max-tokens",
        metavar="N",
        type=whole(1, MOST_TOKENS),
        help="longest answer, in tokens (default: as the node has it)",
    )
