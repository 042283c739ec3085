"""The options of `cortex init`. Standard library only."""

import argparse

SHORT = "write a configuration for these nodes"
LONG = """\
Ask the nodes what they are (models, version, memory, accelerators), and write a cortex.toml with
comments, in which the nodes have the names of their hosts. A file that is there is never
overwritten. A node that does not answer is written down too, with why."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "urls",
        metavar="URL",
        nargs="+",
        help="where a node listens: http://gpu-1:1234, gpu-1 (port 1234), unix:/run/mistralrs.sock",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        default="cortex.toml",
        help="where to write it (default: ./%(default)s)",
    )
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--print",
        dest="to_stdout",
        action="store_true",
        help="print it instead, and what was found on stderr",
    )
    shown.add_argument(
        "--json", action="store_true", help="print what was found as JSON, for scripts"
    )
