"""The options of `cortex history`. Standard library only."""

import argparse

from cortex.cli import common_options
from cortex.cli.argument_types import reads
from cortex.cli.durations import duration_ms

SHORT = "show finished requests"
LONG = """\
Show finished requests, newest last. All filters that are given must hold. Tokens
are prompt/cached/completion; wait is the time in the queue and for a load. With --db
the database file is read instead of asking the gateway, which need not run."""


def add_options(parser: argparse.ArgumentParser) -> None:
    common_options.add_gateway(parser)
    parser.add_argument("--model", metavar="ID", help="only this model")
    parser.add_argument("--node", metavar="NAME", help="only this node")
    parser.add_argument("--client", metavar="NAME", help="only the key of this name")
    parser.add_argument(
        "--outcome",
        metavar="OUTCOME",
        help="only these (ok, client_gone, error, or one error code such as node_unreachable)",
    )
    parser.add_argument(
        "--slow",
        metavar="DURATION",
        type=reads(duration_ms),
        help="only requests that took at least this long (5s, 500ms)",
    )
    common_options.add_span(parser)
    parser.add_argument(
        "--csv", action="store_true", help="print a header and one line of CSV per request"
    )
    parser.add_argument(
        "--stats",
        action="store_true",
        help="print one row per model instead, of the newest requests that match (10,000, or 3,000"
        " where a filter picks them): requests, errors, tokens, median and 95th percentile of time"
        " to first token, duration and tokens per second",
    )
    parser.add_argument(
        "--by",
        metavar="WHAT",
        choices=("model", "client", "node"),
        help="what --stats has a row for each of (default: model)",
    )
    common_options.add_database(parser)
