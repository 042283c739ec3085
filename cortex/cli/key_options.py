"""The options of `cortex key`. Standard library only."""

import argparse

SHORT = "make an API key"
LONG = """\
Make a fresh key from 256 random bits. The key is printed once, for its holder, with the table for
the configuration file, which has only its SHA-256. Nothing is stored and no gateway is asked;
the key works once the table is in the file and the gateway has read it again."""
ROLES = ("client", "admin")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", metavar="ACTION", choices=("new",), help="new")
    parser.add_argument(
        "--name",
        metavar="NAME",
        help="how metrics and the request log call its holder (default: one of its own)",
    )
    parser.add_argument(
        "--role",
        metavar="ROLE",
        choices=ROLES,
        default="client",
        help="client or admin, who may also change the fleet (default: %(default)s)",
    )
    parser.add_argument(
        "--models",
        metavar="PATTERN",
        nargs="+",
        help="only these models: ids or aliases, with * ? [ab] (default: all)",
    )
