"""The options of `cortex why`. Standard library only."""

import argparse

from cortex.cli import common_options

SHORT = "tell the story of one request"
LONG = """\
Tell what became of one request and why, from the log: who or what it waited for, the load
it set off or found under way, what went for that, which other ways there were and what they
would have cost, retries, the end. The id is the answer's `x-request-id`, which `cortex history
--json` has, too. With --db the database file is read instead of asking the gateway."""
JSON = "print the request with its events as JSON, for scripts"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("request_id", metavar="REQUEST-ID", help="the request's `x-request-id`")
    common_options.add_gateway(parser, JSON)
    common_options.add_database(parser)
