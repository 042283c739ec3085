"""`cortex check-config`: every mistake of the configuration, and nothing started."""

import argparse
import sys

from cortex.cli.checks import settings
from cortex.cli.configured import configured
from cortex.cli.exit_codes import Exit
from cortex.cli.failures import UsageError
from cortex.cli.text import counted
from cortex.config.schema import Config


def run(args: argparse.Namespace) -> int:
    """Print `ok: FILE: …`, or one line per mistake on stderr; warnings go there, too."""
    if args.file and args.config:
        raise UsageError("check-config: FILE and --config FILE exclude each other")
    found, config = configured(args.file or args.config)
    for finding in settings.priorities(config):
        print(f"warning: {finding.said}; {finding.advice}", file=sys.stderr)
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
