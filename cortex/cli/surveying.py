"""Looks at nodes themselves, all at once, where a command must not depend on a gateway."""

import asyncio
from collections.abc import Sequence

from cortex.core.survey import Survey
from cortex.node.client import NodeClient
from cortex.node.survey import survey

TIMEOUT_S = 5.0
"""For each question; `/v1/system/info` takes a busy node a while."""


def survey_all(clients: Sequence[NodeClient], *, timeout_s: float = TIMEOUT_S) -> list[Survey]:
    """One survey for each client, which is closed."""
    return asyncio.run(_all(clients, timeout_s))


async def _all(clients: Sequence[NodeClient], timeout_s: float) -> list[Survey]:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(survey(client, timeout_s=timeout_s)) for client in clients
            ]
        return [task.result() for task in tasks]
    finally:
        for client in clients:
            await client.close()
