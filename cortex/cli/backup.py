"""`cortex backup`: a copy of the state file, made beside a running gateway."""

import argparse
import json
import time
from pathlib import Path

from cortex.cli.exit_codes import Exit
from cortex.cli.failures import CliError
from cortex.cli.history_file import configured_file
from cortex.cli.progress import progress
from cortex.cli.text import counted, file_size, safe, span
from cortex.core.errors import StoreError
from cortex.store.backup import copy


def run(args: argparse.Namespace) -> int:
    """Copy, and print what the copy holds."""
    source = Path(args.db) if args.db else configured_file(args.config, args.verb)
    target, began_s = Path(args.target), time.monotonic()
    try:
        with progress(f"copying {safe(str(source))}"):
            copied = copy(source, target, overwrite=args.force)
    except StoreError as exc:
        raise CliError(exc.message) from exc
    took_s = time.monotonic() - began_s
    if args.json:
        seconds = round(took_s, 3)
        print(json.dumps({"path": str(target), **copied._asdict(), "seconds": seconds}))
    else:
        print(
            f"{safe(str(target))}: {file_size(copied.size_bytes)},"
            f" {counted(copied.requests, 'request')}, {counted(copied.events, 'event')},"
            f" sound; {span(took_s)}"
        )
    return Exit.OK
