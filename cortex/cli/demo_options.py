"""The options of `cortex demo`. Standard library only."""

import argparse

from cortex.cli.argument_types import whole

SHORT = "try it on this machine"
LONG = """\
Start two nodes and a gateway on this machine with a temporary state, ask one question,
and print commands to try. The nodes run mistral.rs's engine on the CPU where the demo
extra and a model are installed, else scripted stand-ins. Ctrl-C ends and removes
everything."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--scripted", action="store_true", help="scripted nodes even where the engine is there"
    )
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        default="127.0.0.1",
        help="address that the gateway listens on (default: %(default)s)",
    )
    parser.add_argument(
        "--port",
        metavar="N",
        type=whole(0, 65_535),
        help="port of the gateway; 0 takes a free one (default: 8000, or a free one if it is taken)",
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="ask one question, print the answer with its timing, clean up and exit",
    )
