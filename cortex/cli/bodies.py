"""What a command reads from the gateway, checked, and what it prints for scripts."""

import json
from typing import TypeVar

from cortex.adminapi import Body
from cortex.cli.client import Client, Query, not_cortex

B = TypeVar("B", bound=Body)


def understood(kind: type[B], answer: object, client: Client) -> B:
    """`answer` as the body it should be.

    Raises:
        CliError: It is another; the answer then comes from something else than this cortex.
    """
    try:
        return kind.model_validate(answer)
    except ValueError as error:
        raise not_cortex(client.endpoint, f"unexpected {kind.__name__}") from error


def ask(client: Client, kind: type[B], path: str, query: Query | None = None) -> B:
    """GET and check."""
    return understood(kind, client.get(path, query), client)


def as_json(answer: object, *, lines: bool = False) -> str:
    """JSON for scripts. Pure ASCII, so that no name from elsewhere can reach a terminal as it is."""
    return json.dumps(answer, indent=None if lines else 2)
