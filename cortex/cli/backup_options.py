"""The options of `cortex backup`. Standard library only."""

import argparse

from cortex.cli.common_options import add_config, add_database

SHORT = "copy the state file, also while the gateway runs"
LONG = """\
Copy the state file, with the request log, events, pins and what was learned, as it is at one
moment; the gateway goes on writing meanwhile. The copy is checked, and appears under its name
when it is whole. Never copy the file by itself: what is not yet in it is in a file beside it.
To restore: stop the service, put the copy in the place of the state file, start."""
JSON = "print path, size_bytes, requests, events and seconds as JSON, for scripts"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="FILE", help="where the copy shall be")
    add_config(parser)
    add_database(parser, "copy this state file instead of the configured one", nargs=None)
    parser.add_argument("--force", action="store_true", help="replace FILE if it is there")
    parser.add_argument("--json", action="store_true", help=JSON)
