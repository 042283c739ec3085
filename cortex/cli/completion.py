"""`cortex completion`: a script for a shell, and the values that scripts ask for while one types."""

import argparse
import re
from collections.abc import Iterator

from cortex.cli import completion_bash, completion_fish, completion_zsh
from cortex.cli.completion_spec import spec_of
from cortex.cli.exit_codes import Exit
from cortex.cli.failures import UsageError
from cortex.cli.parser import build_parser

SCRIPTS = {
    "bash": completion_bash.script,
    "zsh": completion_zsh.script,
    "fish": completion_fish.script,
}
PATIENCE_S = 1.0
HARMLESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,199}", re.ASCII)
"""Names that no shell reads as anything else. A node could list a model called `$(reboot)`."""


def run(args: argparse.Namespace) -> int:
    """Print the script, or candidates one per line."""
    if args.values:
        for value in sorted(set(values(args.values))):
            print(value)
        return Exit.OK
    if not args.shell:
        raise UsageError("completion: which shell? bash, zsh or fish")
    print(SCRIPTS[args.shell](*spec_of(build_parser())), end="")
    return Exit.OK


def values(kind: str) -> Iterator[str]:
    """What the gateway knows of `kind`; nothing at all when anything is amiss."""
    try:
        names = list(_names(kind))
    except Exception:  # noqa: BLE001 - an error message in the middle of a command line helps nobody
        return
    yield from (name for name in names if HARMLESS.fullmatch(name))


def _names(kind: str) -> Iterator[str]:
    from cortex.cli.client import Client
    from cortex.cli.endpoint import resolve

    asking = argparse.Namespace(endpoint=None, config=None)
    client = Client(resolve(asking), timeout_s=PATIENCE_S)
    path, listed, key = {
        "models": ("/v1/models", "data", "id"),
        "nodes": ("/cortex/v1/status", "nodes", "name"),
    }[kind]
    answer = client.get(path)
    if isinstance(answer, dict):
        yield from (str(entry[key]) for entry in answer[listed])
