"""Whether what is written goes to the journal, and what a line there begins with. Standard library only."""

import os
import sys
from collections.abc import Mapping
from typing import TextIO

ERROR = "<3>"
"""The priority of an error (sd-daemon(3)), which the journal takes off again."""


def is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether the service manager says so, by device and inode (`JOURNAL_STREAM` of systemd.exec(5))."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False  # closed, or no file at all
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def error_mark() -> str:
    """What a complaint on stderr begins with: nothing, unless that is the journal."""
    return ERROR if is_journal(sys.stderr, os.environ) else ""
