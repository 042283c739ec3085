"""A client that knows nothing of the node's insides: what it sees is what a gateway sees."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

HI = [{"role": "user", "content": "hi"}]


@dataclass(frozen=True)
class Reply:
    status: int
    kind: str
    text: str
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Wire:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def get(self, path: str, method: str = "GET", **kwargs: Any) -> Reply:
        async with self.session.request(method, path, **kwargs) as response:
            text = (await response.read()).decode(errors="replace")
            return Reply(response.status, response.content_type, text, dict(response.headers))

    async def post(self, path: str, body: Any = None, **kwargs: Any) -> Reply:
        return await self.get(path, "POST", **({"json": body} | kwargs))

    async def lifecycle(self, verb: str, model: str) -> str:
        reply = await self.post(f"/v1/models/{verb}", {"model_id": model})
        assert reply.status == 200
        assert reply.json["model_id"] == model
        return str(reply.json["status"])

    async def listing(self) -> list[tuple[str, str | None]]:
        rows = (await self.get("/v1/models")).json["data"]
        return [(row["id"], row.get("status")) for row in rows]

    async def chat(self, model: str, /, **more: Any) -> Reply:
        body = {"model": model, "messages": HI, "max_tokens": 4} | more
        return await self.post("/v1/chat/completions", body)

    async def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.get("/_stats")).json
        return found

    async def free_mib(self) -> int:
        devices = (await self.get("/v1/system/info")).json["devices"]
        gpu = next(device for device in devices if device["kind"] == "cuda")
        return int(gpu["available_memory_bytes"]) >> 20


@asynccontextmanager
async def wire(url: str) -> AsyncIterator[Wire]:
    async with aiohttp.ClientSession(url) as session:
        yield Wire(session)


def frames(text: str) -> list[str]:
    """The `data:` payloads of a stream."""
    return [part[6:] for part in text.split("\n\n") if part.startswith("data: ")]


def named(text: str) -> list[tuple[str, Any]]:
    """(event, data) of a stream with named events."""
    found = []
    for part in text.split("\n\n"):
        if part.startswith("event: "):
            name, data = part.split("\n", 1)
            found.append((name[7:], json.loads(data[6:])))
    return found
