"""The options of `cortex keys`. Standard library only."""

import argparse

from cortex.cli.argument_types import whole

SHORT = "make, list and take back API keys"
LONG = """\
Keep the API keys in a file beside the configuration, which has only their SHA-256: keys.toml, or
`file` of [auth]. The gateway reads it at a start and at a reload. While the file is there, nobody
gets in without a key, even when it is empty. No gateway is asked.

`add NAME` makes a key from 256 random bits and prints it, once, for its holder. `list` shows who has
a key, of the file and of the configuration, and what it may do. `revoke NAME` takes the key of this
name out of the file."""
ACTIONS = ("add", "list", "revoke")
ROLES = ("client", "admin")
MOST = 1_000_000_000_000
LIMITS = {
    "max_concurrent": "requests at once",
    "requests_per_minute": "inference requests; a minute's worth may come at once",
    "tokens_per_minute": "prompt and completion",
    "tokens_per_day": "prompt and completion, from midnight to midnight (UTC)",
}
"""Options by the names that they have in the file."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """All but --config, of which the parser knows the words."""
    parser.add_argument("action", metavar="ACTION", choices=ACTIONS, help=", ".join(ACTIONS))
    parser.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        help="whose key it is, as metrics and the request log call its holder",
    )
    parser.add_argument(
        "--role",
        metavar="ROLE",
        choices=ROLES,
        help="with add: client, or admin, who may also change the fleet (default: client)",
    )
    parser.add_argument(
        "--models",
        metavar="PATTERN",
        nargs="+",
        help="with add: only these models: ids or aliases, with * ? [ab] (default: all)",
    )
    for name, what in LIMITS.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(
            option, metavar="N", type=whole(1, MOST), help=f"with add: at most so many: {what}"
        )
    parser.add_argument(
        "--print",
        dest="to_stdout",
        action="store_true",
        help="with add: print the table for a configuration that is kept elsewhere, write nothing",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
