"""`cortex check-config`: every mistake of the configuration, and nothing started."""

import argparse
import os
from pathlib import Path

from cortex.cli.exit_codes import Exit
from cortex.cli.failures import ConfigFileError, UsageError
from cortex.cli.text import counted
from cortex.config.load import find, load
from cortex.config.schema import Config
from cortex.core.errors import ConfigError


def run(args: argparse.Namespace) -> int:
    """Print `ok: FILE: …`, or one line per mistake on stderr."""
    if args.file and args.config:
        raise UsageError("check-config: FILE and --config FILE exclude each other")
    given = args.file or args.config
    path = Path(given) if given else None
    try:
        config = load(path, os.environ)
        found = find(path, os.environ)
    except ConfigError as error:
        raise ConfigFileError("\n".join(error.lines)) from error
    print(f"ok: {found}: {summary(config)}")
    return Exit.OK


def summary(config: Config) -> str:
    """What the configuration holds, counted."""
    named = {model for node in config.nodes for model in node.pinned} | config.models.keys()
    aliases = {alias for model in config.models.values() for alias in model.aliases}
    return ", ".join(
        (
            counted(len(config.nodes), "node"),
            f"{counted(len(named), 'model')} named",
            counted(len(aliases | config.aliases.keys()), "alias", "aliases"),
            counted(len(config.auth.keys), "key"),
            f"listens on {config.gateway.listen}",
        )
    )
