"""Options that several commands share. Standard library only."""

import argparse

from cortex.cli.argument_types import reads, whole
from cortex.cli.durations import instant_ms

MOST_ROWS = 10_000

INSTANT_HELP = "a duration back from now (90s, 15m, 2h, 3d, 1h30m) or a date (2026-07-01T12:00)"


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="configuration file (default: $CORTEX_CONFIG, ./cortex.toml, /etc/cortex/cortex.toml)",
    )


def add_gateway(
    parser: argparse.ArgumentParser,
    json_help: str = "print the gateway's answer as JSON, for scripts",
) -> None:
    """The options of every command that asks a running gateway."""
    parser.add_argument(
        "--endpoint",
        metavar="URL",
        help="gateway to ask (default: $CORTEX_ENDPOINT, else where the configuration listens,"
        " else http://127.0.0.1:8000)",
    )
    add_config(parser)
    parser.add_argument(
        "--ca",
        metavar="FILE",
        help="trust this certificate, or what it vouches for, of a gateway at https"
        " (default: $SSL_CERT_FILE; for the configured gateway its own certificate)",
    )
    parser.add_argument("--json", action="store_true", help=json_help)


def add_since(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--since",
        metavar="WHEN",
        type=reads(instant_ms),
        help=f"nothing older: {INSTANT_HELP}",
    )


def add_span(parser: argparse.ArgumentParser) -> None:
    """Filters on time and the number of rows."""
    add_since(parser)
    parser.add_argument(
        "--until",
        metavar="WHEN",
        type=reads(instant_ms),
        help="nothing from then on; the same forms",
    )
    parser.add_argument(
        "--limit",
        metavar="N",
        type=whole(1, MOST_ROWS),
        help="at most so many rows, the newest ones (default: 50; with --follow 10 to begin with)",
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="go on printing rows as they come, over restarts of the gateway, until Ctrl-C",
    )


def add_database(
    parser: argparse.ArgumentParser,
    text: str = "read this database file, or the configured one, instead of asking the gateway",
    nargs: str | None = "?",
) -> None:
    """The option alone means the configured file, unless it wants its argument."""
    const = None if nargs is None else ""
    parser.add_argument("--db", metavar="FILE", nargs=nargs, const=const, help=text)
