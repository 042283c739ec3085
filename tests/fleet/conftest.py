"""What the tests of the fleet share. They see it as a client and as a node do, never from inside."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp

from tests.running import Reply, Running

SEPARATE = iter(range(10**9))


def about(topic: object, **more: Any) -> dict[str, Any]:
    """The body of a conversation of its own, which no node is warm for."""
    return {"messages": [{"role": "user", "content": f"about {topic}"}]} | more


def apart(**more: Any) -> dict[str, Any]:
    """A conversation like no other."""
    return about(next(SEPARATE), **more)


@asynccontextmanager
async def held(
    gateway: Running, model: str, count: int = 1, headers: dict[str, str] | None = None
) -> AsyncIterator[list[str]]:
    """Streams that occupy their nodes until the block ends; yields the nodes' names.

    The nodes must be slow or endless.
    """
    async with AsyncExitStack() as stack:
        nodes = []
        for _ in range(count):
            body = apart(model=model, stream=True)
            response = await stack.enter_async_context(
                gateway.http.post(
                    gateway.url + "/v1/chat/completions", json=body, headers=headers
                )
            )
            assert response.status == 200, await response.text()
            stack.callback(response.close)
            nodes.append(response.headers["x-cortex-node"])
        yield nodes


async def chats(gateway: Running, model: str, count: int, **more: Any) -> list[Reply]:
    """So many at once, each a conversation of its own."""
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(gateway.chat(model, **apart(**more)), name=f"chat {n}")
            for n in range(count)
        ]
    return [task.result() for task in tasks]


async def node_view(gateway: Running, name: str) -> Any:
    """One node of the status."""
    nodes = (await gateway.status())["nodes"]
    return next(node for node in nodes if node["name"] == name)


async def model_view(gateway: Running, name: str, model: str) -> Any:
    """One model of one node of the status."""
    models = (await node_view(gateway, name))["models"]
    return next(view for view in models if view["model"] == model)


async def polls(gateway: Running, node: str, outcome: str) -> int:
    """How many polls of the node ended so."""
    wanted = f'cortex_poll_duration_seconds_count{{node="{node}",outcome="{outcome}"}} '
    for line in (await gateway.metrics()).splitlines():
        if line.startswith(wanted):
            return int(float(line.removeprefix(wanted)))
    return 0


async def queued(gateway: Running) -> int:
    return int((await gateway.status())["queued"])


def asking(group: asyncio.TaskGroup, gateway: Running, model: str) -> asyncio.Task[None]:
    """A request in a task of its own; cancel it to hang up."""

    async def ask() -> None:
        async with aiohttp.ClientSession() as http:
            url = gateway.url + "/v1/chat/completions"
            async with http.post(url, json=apart(model=model)) as response:
                await response.read()

    return group.create_task(ask(), name=f"ask {model}")
