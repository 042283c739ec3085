"""The clients: what they ask, and how each of them knows whether it got what it asked for."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

MODELS = tuple(f"m{index}" for index in range(7))
"""More than the fleet has memory for."""
POPULARITY = (16, 12, 8, 5, 3, 2, 1)
EMBEDDER = "vectors"
CONVERSATIONS = 300
"""Few, so that what is remembered of each is there after the warm-up. Its bound is that of an LRU
of 20,000, about 4 MiB, which has tests of its own; filling it would look like a leak here."""
RIVER = "river"
"""A model whose answers never end."""
TIMEOUT_S = 60.0
TOOL = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "required": ["place"],
        "properties": {"place": {"type": "string"}},
    },
}


@dataclass(frozen=True, slots=True)
class Result:
    """One request as its client saw it."""

    id: str
    kind: str
    began_s: float
    ended_s: float
    wrong: str
    """Why this is not what was asked for; empty when all is well."""
    logged: bool = True
    """It must be in the request log."""
    deliberate: bool = False
    """Meant to end badly: a mistake of the client's, or its going away."""


class WrongError(Exception):
    """The answer is not the one that was asked for."""


class Clients:
    """Sends one request of any kind; `http` is shared, so connections are kept and reused."""

    def __init__(self, url: str, metrics_url: str, http: aiohttp.ClientSession) -> None:
        self._url = url
        self._metrics_url = metrics_url
        self._http = http

    async def send(self, kind: str, request_id: str, rng: random.Random) -> Result:
        began_s = time.monotonic()
        way = KINDS[kind]
        wrong = ""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await way.run(self, request_id, rng)
        except WrongError as error:
            wrong = str(error)
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            wrong = f"{type(error).__name__}: {error}"[:200]
        result = Result(request_id, kind, began_s, time.monotonic(), wrong, way.logged)
        return replace(result, deliberate=way.deliberate)

    @asynccontextmanager
    async def _post(
        self, path: str, request_id: str, body: object, want: int = 200
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "x-request-id": request_id}
        async with self._http.post(self._url + path, data=data, headers=headers) as response:
            if response.status != want:
                text = (await response.read()).decode(errors="replace")
                raise WrongError(f"status {response.status}: {text[:200]}")
            yield response

    async def _whole(self, path: str, request_id: str, body: object, *keys: str) -> Any:
        async with self._post(path, request_id, body) as response:
            answer = json.loads(await response.read())
        for key in keys:
            _need(key in answer, f"an answer without {key}")
        return answer

    async def _stream(self, path: str, request_id: str, body: object, last: bytes) -> bytes:
        async with self._post(path, request_id, body) as response:
            data = await response.read()
        _need(last in data, f"a stream that ends in {data[-120:]!r}")
        return data

    async def chat(self, request_id: str, rng: random.Random) -> None:
        body = _chat(rng, max_tokens=rng.randint(4, 32))
        await self._whole("/v1/chat/completions", request_id, body, "choices", "usage")

    async def chat_stream(self, request_id: str, rng: random.Random) -> None:
        body = _chat(rng, stream=True, max_tokens=rng.randint(8, 64))
        await self._stream("/v1/chat/completions", request_id, body, b"data: [DONE]")

    async def large(self, request_id: str, rng: random.Random) -> None:
        body = _chat(rng, "x" * rng.randint(100_000, 400_000), max_tokens=4)
        await self._whole("/v1/chat/completions", request_id, body, "choices")

    async def tools(self, request_id: str, rng: random.Random) -> None:
        tools = [{"type": "function", "function": TOOL}]
        body = _chat(rng, tools=tools, tool_choice="required")
        answer = await self._whole("/v1/chat/completions", request_id, body, "choices")
        _need(answer["choices"][0]["finish_reason"] == "tool_calls", "no call of the tool")

    async def embeddings(self, request_id: str, rng: random.Random) -> None:
        first = rng.randrange(CONVERSATIONS)
        body = {"model": EMBEDDER, "input": [f"{first + n}" for n in range(4)]}
        answer = await self._whole("/v1/embeddings", request_id, body, "data")
        _need(len(answer["data"]) == 4, "not four vectors")

    async def responses(self, request_id: str, rng: random.Random) -> None:
        body = {"model": _model(rng), "input": f"say {rng.randrange(CONVERSATIONS)}"}
        await self._whole("/v1/responses", request_id, body, "id", "output")

    async def messages(self, request_id: str, rng: random.Random) -> None:
        body = _chat(rng, max_tokens=16)
        answer = await self._whole("/v1/messages", request_id, body, "content", "usage")
        _need(answer["stop_reason"] is not None, "no reason of its end")

    async def messages_stream(self, request_id: str, rng: random.Random) -> None:
        body = _chat(rng, max_tokens=rng.randint(8, 64), stream=True)
        await self._stream("/v1/messages", request_id, body, b"event: message_stop")

    async def messages_tools(self, request_id: str, rng: random.Random) -> None:
        tool = {"name": TOOL["name"], "input_schema": TOOL["parameters"]}
        body = _chat(rng, max_tokens=16, stream=True, tools=[tool], tool_choice={"type": "any"})
        data = await self._stream("/v1/messages", request_id, body, b"event: message_stop")
        _need(b"tool_use" in data, "no use of the tool")

    async def hang_up(self, request_id: str, rng: random.Random) -> None:
        path = rng.choice(("/v1/chat/completions", "/v1/messages"))
        body = _chat(rng, stream=True, max_tokens=64) | {"model": RIVER}
        async with self._post(path, request_id, body) as response:
            for _ in range(rng.randint(1, 4)):
                _need(await response.content.readany(), "an end of what never ends")
            response.close()

    async def bad(self, request_id: str, rng: random.Random) -> None:
        path = rng.choice(("/v1/chat/completions", "/v1/messages"))
        body, status = rng.choice(BAD)
        async with self._post(path, request_id, body, status) as response:
            answer = json.loads(await response.read())
            _need(answer["error"]["message"], "an error without a word")

    async def count_tokens(self, request_id: str, rng: random.Random) -> None:
        body = _chat(rng)
        await self._whole("/v1/messages/count_tokens", request_id, body, "input_tokens")

    async def admin(self, request_id: str, rng: random.Random) -> None:
        await self._get(self._url + rng.choice(READS).format(model=_model(rng)))

    async def scrape(self, request_id: str, rng: random.Random) -> None:
        text = await self._get(self._metrics_url + "/metrics")
        _need(b"cortex_requests_total" in text, "no metrics")

    async def _get(self, url: str) -> bytes:
        async with self._http.get(url) as response:
            data = await response.read()
            _need(response.status == 200, f"status {response.status}: {data[:200]!r}")
            return data


@dataclass(frozen=True, slots=True)
class Way:
    run: Callable[[Clients, str, random.Random], Awaitable[None]]
    weight: int
    logged: bool = True
    deliberate: bool = False


KINDS: Mapping[str, Way] = {
    "chat": Way(Clients.chat, 20),
    "chat_stream": Way(Clients.chat_stream, 22),
    "large": Way(Clients.large, 3),
    "tools": Way(Clients.tools, 5),
    "embeddings": Way(Clients.embeddings, 6),
    "responses": Way(Clients.responses, 6),
    "messages": Way(Clients.messages, 6),
    "messages_stream": Way(Clients.messages_stream, 9),
    "messages_tools": Way(Clients.messages_tools, 3),
    "hang_up": Way(Clients.hang_up, 6, deliberate=True),
    "bad": Way(Clients.bad, 5, deliberate=True),
    "count_tokens": Way(Clients.count_tokens, 2, logged=False),
    "admin": Way(Clients.admin, 6, logged=False),
    "scrape": Way(Clients.scrape, 2, logged=False),
}
READS = (
    "/cortex/v1/status",
    "/cortex/v1/history?limit=50",
    "/cortex/v1/history/stats",
    "/cortex/v1/events?limit=50",
    "/cortex/v1/explain?model={model}",
    "/v1/models",
    "/health",
    "/",
)
BAD: tuple[tuple[object, int], ...] = (
    (b'{"model": "m0", "messages": [', 400),
    (b"\xff\xfe not JSON at all", 400),
    ({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}, 400),
    (
        {
            "model": "no-such-model",
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 4,
        },
        404,
    ),
)


def choose(rng: random.Random) -> str:
    return rng.choices(list(KINDS), [way.weight for way in KINDS.values()])[0]


def _model(rng: random.Random) -> str:
    return rng.choices(MODELS, POPULARITY)[0]


def _chat(rng: random.Random, text: str = "", **more: Any) -> dict[str, Any]:
    content = f"conversation {rng.randrange(CONVERSATIONS)} {text}"
    # Last, since what follows it counts as the conversation's head while that is short.
    said = {"messages": [{"role": "user", "content": content}]}
    return {"model": _model(rng)} | more | said


def _need(holds: object, wrong: str) -> None:
    if not holds:
        raise WrongError(wrong)
