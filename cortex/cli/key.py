"""`cortex key new`: a fresh key and the table that admits it; nothing is stored."""

import argparse
import hashlib
import json
import re
import secrets
import sys

from cortex.cli.exit_codes import Exit
from cortex.cli.failures import UsageError

PREFIX = "cortex_"
"""Lets a person, or a scanner of what is published, see what it is."""
KEY_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def run(args: argparse.Namespace) -> int:
    """Print the key, and what to paste."""
    name = args.name or f"key-{secrets.token_hex(3)}"
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"key: --name {name!r}: letters, digits, dots, dashes and underscores, at most 63"
        )
    key = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    if sys.stdout.isatty():
        print("The key, which is shown only now:\n")
    print(key)
    if sys.stdout.isatty():
        print("\nFor the gateway's cortex.toml, then `systemctl reload cortex`:")
    print(f"\n{table(name, key, role=args.role, models=args.models)}", end="")
    return Exit.OK


def table(name: str, key: str, *, role: str, models: list[str] | None) -> str:
    """The table of a key in `cortex.toml`."""
    lines = [
        "[[auth.keys]]",
        f'name = "{name}"',
        f'key_sha256 = "{hashlib.sha256(key.encode()).hexdigest()}"',
    ]
    if role != "client":
        lines.append(f'role = "{role}"')
    if models:
        # A JSON string of ASCII is one of TOML.
        lines.append(f"models = [{', '.join(json.dumps(model) for model in models)}]")
    return "\n".join(lines) + "\n"
