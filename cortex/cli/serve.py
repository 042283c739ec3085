"""`cortex serve`: the gateway in the foreground."""

import argparse
import os
from pathlib import Path

from cortex.cli.failures import ConfigFileError
from cortex.core.errors import ConfigError


def run(args: argparse.Namespace) -> int:
    """Run until a signal ends it."""
    from cortex import daemon

    try:
        return daemon.run(Path(args.config) if args.config else None, os.environ)
    except ConfigError as error:
        raise ConfigFileError("\n".join(error.lines)) from error
