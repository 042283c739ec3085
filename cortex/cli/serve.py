"""`cortex serve`: the gateway in the foreground."""

import argparse
import os
from pathlib import Path


def run(args: argparse.Namespace) -> int:
    """Run until a signal ends it; the daemon itself prints the mistakes of a configuration."""
    from cortex import daemon

    return daemon.run(Path(args.config) if args.config else None, os.environ)
