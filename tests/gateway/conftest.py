"""What the tests of the gateway share: a client that sees how an answer ended, and an SDK's."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from multidict import CIMultiDictProxy

from cortex.devnode.scripted import ScriptedNode
from tests.running import Running, running

if TYPE_CHECKING:
    from openai import AsyncOpenAI


@dataclass
class Streamed:
    """A stream as far as it came. `complete`: HTTP itself says that nothing is missing."""

    status: int
    headers: CIMultiDictProxy[str]
    chunks: list[bytes] = field(default_factory=list)
    complete: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def events(self) -> list[bytes]:
        """Whole events, without comments."""
        return [
            event for event in self.body.split(b"\n\n") if event and not event.startswith(b":")
        ]


def scripted(models: Sequence[str] | Mapping[str, int], **more: Any) -> ScriptedNode:
    """A node that tells of itself at once; a real one takes a while, for which a start waits."""
    return ScriptedNode(models, **({"info_delay_s": 0.0} | more))


def chat_body(model: str = "m1", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}]} | more


async def stream(
    http: aiohttp.ClientSession, url: str, body: Any = None, path: str = "/v1/chat/completions"
) -> Streamed:
    """Read an answer to whatever end it has."""
    body = chat_body(stream=True) if body is None else body
    async with http.post(url + path, json=body) as response:
        seen = Streamed(response.status, response.headers)
        try:
            while chunk := await response.content.readany():
                seen.chunks.append(chunk)
            seen.complete = True
        except (aiohttp.ClientError, ConnectionError):
            pass
    return seen


@asynccontextmanager
async def sdk(gateway: Running, key: str = "any") -> AsyncIterator["AsyncOpenAI"]:
    """The official client, which shows errors at once instead of trying again."""
    # Only here: a package is built where the SDKs are not.
    from openai import AsyncOpenAI

    async with AsyncOpenAI(
        base_url=f"{gateway.url}/v1", api_key=key, max_retries=0, timeout=20
    ) as client:
        yield client


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[Running]:
    """A gateway with one node n0 that holds m1."""
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        yield gateway
