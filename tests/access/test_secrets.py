"""Client credentials never reach a node, and neither they nor prompts nor answers are written down anywhere.

A whole gateway as a process, at the level DEBUG, in front of a node that misbehaves in every way that
could make somebody write down what it was sent; then everything that was written is searched.
"""

import asyncio
import contextlib
import io
import json
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.e2e.processes import Gateway, Processes
from tests.node.rawnode import LAST_CHUNK, STREAM_HEAD, Got, RawNode, chunk, saying, whole
from tests.running import running, until

KEY = "sk-CREDENTIAL-of-a-client"
OTHER = "CREDENTIAL-that-is-none"
"""In places where people put keys too: cookies, query strings, other headers."""
NODE_KEY = "CREDENTIAL-for-the-node"
ADMIN = "CREDENTIAL-of-an-admin"
PROMPT = "PROMPT-of-somebody"
ANSWER = "ANSWER-to-somebody"
ROUTES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/images/generations",
    "/v1/audio/speech",
    "/v1/responses",
    "/v1/messages",
)
CLIENT = {
    "Authorization": f"Bearer {KEY}",
    "Cookie": f"session={OTHER}",
    "Proxy-Authorization": f"Basic {OTHER}",
    "x-goog-api-key": OTHER,
    "api-key": OTHER,
    "X-Forwarded-Authorization": OTHER,
    "Referer": f"http://x/?{OTHER}",
    "User-Agent": f"agent/1.0 ({OTHER})",
}

ECHO = f"the request was: {PROMPT}".encode()
DELTA = b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % ANSWER.encode()
DONE = (
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n' + b"data: [DONE]\n\n"
)
FAILED = b'data: {"error":{"message":"%s"}}\n\n' % ECHO
GOOD = json.dumps(
    {
        "id": "x",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": ANSWER},
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1},
    }
).encode()


def error(text: bytes) -> bytes:
    return json.dumps({"error": {"message": text.decode()}}).encode()


BEHAVIOURS: dict[str, tuple[bytes, ...]] = {
    "good": (whole(GOOD),),
    "says-500-with-the-prompt": (whole(error(ECHO), "500 Internal Server Error"),),
    "says-500-in-text": (whole(ECHO, "500 Internal Server Error", Content_Type="text/plain"),),
    "out-of-memory": (whole(error(b"out of memory: " + ECHO), "500 Internal Server Error"),),
    "says-400": (whole(error(ECHO), "400 Bad Request"),),
    "says-429": (whole(error(ECHO), "429 Too Many Requests"),),
    "does-not-hold-it": (
        whole(
            error(b"Requested model '" + ECHO + b"' is not available"),
            "500 Internal Server Error",
        ),
    ),
    "redirects": (whole(b"", "302 Found", Location=f"http://x/{PROMPT}"),),
    "strange-status": (f"HTTP/1.1 2OO {PROMPT}\r\n\r\n".encode(),),
    "strange-header": (f"HTTP/1.1 200 OK\r\n{PROMPT}\r\n\r\n".encode(),),
    "strange-length": (f"HTTP/1.1 200 OK\r\nContent-Length: {PROMPT}\r\n\r\n".encode(),),
    "strange-chunk": (STREAM_HEAD + f"{PROMPT}\r\n".encode(),),
    "no-http": (ECHO + b"\r\n\r\n",),
    "no-json": (whole(ECHO),),
    "cut-off": (whole(GOOD)[:-20],),
    "hangs-up": (),
    "stream": (STREAM_HEAD, chunk(DELTA), chunk(DONE), LAST_CHUNK),
    "stream-fails-at-once": (STREAM_HEAD, chunk(FAILED), LAST_CHUNK),
    "stream-fails-later": (STREAM_HEAD, chunk(DELTA), chunk(FAILED), LAST_CHUNK),
    "stream-of-no-json": (
        STREAM_HEAD,
        chunk(DELTA),
        chunk(b"data: {" + ECHO + b"}\n\n"),
        LAST_CHUNK,
    ),
    "stream-is-cut": (STREAM_HEAD, chunk(DELTA), LAST_CHUNK),
    "stream-is-dropped": (STREAM_HEAD, chunk(DELTA)),
    "silent": (),
    "stream-falls-silent": (STREAM_HEAD, chunk(DELTA)),
    "stream-without-end": (STREAM_HEAD, *[chunk(DELTA * 2000)] * 400),
}


CODES = {
    "ok",
    "client_gone",
    "client_stalled",
    "invalid_json",
    "invalid_request",
    "model_failing",
    "model_not_allowed",
    "model_not_found",
    "model_not_held",
    "node_busy",
    "node_error",
    "node_protocol",
    "node_timeout",
    "node_truncated",
    "node_unreachable",
    "previous_response_not_found",
    "rate_limit_requests",
    "request_too_large",
}
"""What became of the requests, so that none of it is left out unnoticed."""


@dataclass
class Node(RawNode):
    """A node with a model for each behaviour, which keeps all that it is sent."""

    heads: list[Got] = field(default_factory=list)

    async def _read(self, reader: asyncio.StreamReader) -> Got | None:
        got = await super()._read(reader)
        if got is not None:
            self.heads.append(got)
        return got


async def behave(got: Got, writer: asyncio.StreamWriter) -> None:
    name = json.loads(got.body).get("model", "good") if got.body else "good"
    for part in BEHAVIOURS[name]:
        writer.write(part)
        await writer.drain()
    if "silent" in name:
        await got.rest.read()
    if name in {"hangs-up", "cut-off", "stream-is-dropped", "no-http"}:
        writer.close()


@dataclass
class World:
    gateway: Gateway
    node: Node
    http: aiohttp.ClientSession
    folder: Path
    statuses: list[int] = field(default_factory=list)

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> bytes:
        """Whatever comes of it."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode() if body else b""
        data = io.BytesIO(raw) if raw else None
        with contextlib.suppress(aiohttp.ClientError, ConnectionError, TimeoutError):
            async with self.http.request(
                method,
                f"{self.gateway.url}{path}{'&' if '?' in path else '?'}api_key={OTHER}",
                data=data,
                headers=CLIENT | {"Content-Type": "application/json"} | headers,
            ) as response:
                self.statuses.append(response.status)
                return await response.read()
        return b""

    async def well(self) -> bool:
        """A node that hung up is suspect until its next poll, and asked nothing meanwhile."""
        (node,) = json.loads(await self.admin("/cortex/v1/status"))["nodes"]
        return bool(node["health"] == "up")

    async def admin(self, path: str) -> str:
        async with self.http.get(
            self.gateway.url + path, headers={"Authorization": f"Bearer {ADMIN}"}
        ) as response:
            assert response.status == 200, path
            return await response.text()


STATUS = {"/v1/models/status": saying(whole(b'{"status":"loaded"}'))}
"""Whatever the node says of a model it does not hold after all."""


@contextlib.asynccontextmanager
async def world(processes: Processes) -> AsyncIterator[World]:
    folder = processes.folder
    (folder / "node.key").write_text(NODE_KEY)
    toml = f"""
[limits]
max_body_mb = 1
idle_timeout_s = 1
queue_timeout_s = 1
[[auth.keys]]
name = "client"
key = "{KEY}"
[[auth.keys]]
name = "limited"
key = "{KEY}-limited"
requests_per_minute = 1
models = ["good"]
[[auth.keys]]
name = "admin"
key = "{ADMIN}"
role = "admin"
"""
    async with (
        Node(list(BEHAVIOURS), answer=behave, routes=STATUS) as node,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=8)) as http,
    ):
        gateway = await asyncio.to_thread(
            processes.serve,
            node.url,
            toml=toml,
            node_toml=f'api_key_file = "{folder / "node.key"}"',
            CORTEX_LOG_LEVEL="DEBUG",
        )
        try:
            yield World(gateway, node, http, folder)
        finally:
            await asyncio.to_thread(gateway.kill)


def body_for(path: str, model: str, *, stream: bool) -> dict[str, Any]:
    message = {"role": "user", "content": PROMPT}
    body: dict[str, Any] = {"model": model, "stream": stream, "user": PROMPT}
    if path in {"/v1/chat/completions", "/v1/messages"}:
        body |= {"messages": [message], "max_tokens": 9, "system": PROMPT}
    elif path == "/v1/images/generations":
        body |= {"prompt": PROMPT}
    else:
        body |= {"input": PROMPT, "prompt": PROMPT}
    return body


async def every_route_and_behaviour(it: World) -> None:
    """Four times where it counts, so that breakers open and say why."""
    for name in BEHAVIOURS:
        slow = "silent" in name or "without-end" in name
        paths = ROUTES[:1] + ROUTES[-1:] if slow else ROUTES
        stream = name.startswith("stream")
        await until(it.well, "the node to be well after the behaviour before this one")
        async with asyncio.TaskGroup() as group:
            for path in paths:
                if "without-end" in name:
                    group.create_task(read_little(it, path))
                else:
                    group.create_task(
                        it.send("POST", path, body_for(path, name, stream=stream))
                    )
        for _ in range(0 if slow else 4):
            path = ROUTES[0]
            await it.send("POST", path, body_for(path, name, stream=stream))


async def read_little(it: World, path: str) -> None:
    """A client that stops reading, until the gateway gives it up."""
    body = json.dumps(body_for(path, "stream-without-end", stream=True)).encode()
    request = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nx-api-key: {KEY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    connections: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def begun() -> bool:
        # The behaviour before this one may have made the node suspect until its next poll.
        connection = await asyncio.open_connection("127.0.0.1", it.gateway.port, limit=4096)
        connections.append(connection)
        reader, writer = connection
        writer.write(request)
        return (await reader.readline()).startswith(b"HTTP/1.1 200")

    async def given_up() -> bool:
        return "client_stalled" in await it.admin("/cortex/v1/history?outcome=client_stalled")

    try:
        await until(begun, "an answer without end to begin")
        await until(given_up, "a client that does not read to be given up")
    finally:
        for _, writer in connections:
            writer.transport.abort()


async def mistakes_of_clients(it: World) -> None:
    chat = ROUTES[0]
    good = body_for(chat, "good", stream=False)
    for path in (*ROUTES, "/v1/messages/count_tokens", f"/v1/{OTHER}", "/cortex/v1/status"):
        for bad in (
            PROMPT.encode(),
            b'{"model": "good", "messages": "' + PROMPT.encode() + b'"',
            json.dumps({"model": PROMPT}).encode(),
            json.dumps({"model": [PROMPT]}).encode(),
            json.dumps({"model": "good", "messages": PROMPT}).encode(),
            json.dumps(
                {"model": "good", "messages": [{"role": PROMPT, "content": 1}]}
            ).encode(),
            json.dumps({"model": "good", "messages": [], "tools": PROMPT}).encode(),
            json.dumps({"model": "good", "previous_response_id": PROMPT, "input": 1}).encode(),
            PROMPT.encode() * 100_000,
        ):
            await it.send("POST", path, bad)
    await it.send("POST", chat, good, Authorization=f"Bearer {OTHER}")
    for _ in range(3):
        await it.send("POST", chat, good, Authorization=f"Bearer {KEY}-limited")
    for model in ("silent", f"goood-{PROMPT}"):
        await it.send(
            "POST", chat, good | {"model": model}, Authorization=f"Bearer {KEY}-limited"
        )
    for method in ("GET", "DELETE"):
        await it.send(method, f"/v1/responses/resp_{PROMPT}")
    for path in ("/v1/models", f"/v1/models/{PROMPT}", "/health", "/ready", "/"):
        await it.send("GET", path)
    for path in ("load", "unload", "pin"):
        await it.send("POST", f"/cortex/v1/models/{path}", {"model": OTHER})
    await it.send("POST", "/cortex/v1/agents/report", {"node": "n0"})


async def hostile_bytes(it: World) -> None:
    """What an HTTP parser complains about, with secrets in it."""
    key, prompt = f"Authorization: Bearer {KEY}".encode(), PROMPT.encode()
    post = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
    for data in (
        key + b"\r\n\r\n",
        b"GET /" + KEY.encode() + b" HTTP/9.9\r\n\r\n",
        post + key + b"\x00\r\n\r\n",
        post + key + b"\xff\r\nContent-Length: 2\r\n\r\n{}",
        post + key + b"\r\n folded: " + prompt + b"\r\n\r\n",
        post + key + b"\r\nContent-Length: " + prompt + b"\r\n\r\n" + prompt,
        post + key + b"\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + prompt,
        post + key + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + prompt + b"\r\n" + prompt,
        post + key + b"\r\nTransfer-Encoding: " + prompt + b"\r\n\r\n",
        post + key + b"\r\nContent-Encoding: gzip\r\nContent-Length: 18\r\n\r\n" + prompt,
        post + key + b"\r\nX: " + prompt * 3000 + b"\r\n\r\n",
        post + key + b"\r\nContent-Length: 400\r\n\r\n" + prompt,
        post + b"x-api-key: \xff" + KEY.encode() + b"\r\nContent-Length: 2\r\n\r\n{}",
        post + key + b"\r\nExpect: " + prompt + b"\r\nContent-Length: 2\r\n\r\n{}",
        post + key + b"\r\nUpgrade: " + prompt + b"\r\nConnection: upgrade\r\n\r\n" + prompt,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", it.gateway.port)
        writer.write(data)
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(3):
                writer.write_eof()
                await reader.read()
        writer.transport.abort()


async def a_client_that_hangs_up(it: World) -> None:
    body = body_for(ROUTES[0], "stream-falls-silent", stream=True)
    before = len(it.node.got)
    asking = asyncio.create_task(it.send("POST", ROUTES[0], body))  # noqa: TID251 (ended here)
    await until(lambda: len(it.node.got) > before, "the request at the node")
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking


def found(text: str | bytes, *, marks: tuple[str, ...] = ("CREDENTIAL", PROMPT, ANSWER)) -> str:
    """The first secret in it, with what is around it."""
    if isinstance(text, str):
        text = text.encode()
    for mark in marks:
        at = text.find(mark.encode())
        if at >= 0:
            return repr(text[max(0, at - 200) : at + 100])
    return ""


async def test_no_secret_is_written_down_and_no_credential_goes_upstream(
    processes: Processes,
) -> None:
    async with world(processes) as it:
        live = await it.http.get(
            it.gateway.url + "/cortex/v1/live", headers={"Authorization": f"Bearer {ADMIN}"}
        )
        assert ANSWER.encode() in await it.send(
            "POST", ROUTES[0], body_for(ROUTES[0], "good", stream=False)
        )
        assert PROMPT.encode() in it.node.got[-1].body
        await every_route_and_behaviour(it)
        await mistakes_of_clients(it)
        await hostile_bytes(it)
        await a_client_that_hangs_up(it)

        async def written() -> bool:
            store = json.loads(await it.admin("/cortex/v1/status"))["store"]
            return bool(store["queued_rows"] == 0)

        await until(written, "every row to be written")
        shown = {
            path: await it.admin(path)
            for path in (
                "/health",
                "/cortex/v1/status",
                "/cortex/v1/history?limit=10000",
                "/cortex/v1/history/stats",
                "/cortex/v1/events?limit=10000",
                *(f"/cortex/v1/explain?model={name}" for name in BEHAVIOURS),
            )
        }
        metrics_port = metrics_of(it.gateway)
        async with it.http.get(f"http://127.0.0.1:{metrics_port}/metrics") as response:
            shown["metrics"] = await response.text()
        feed = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while data := await live.content.readany():
                    feed += data
        live.close()
        shown["live"] = feed.decode()
        # Another client is told why a model is out of service, and must not read who broke it.
        again = body_for(ROUTES[0], "out-of-memory", stream=False)

        async def refused() -> bool:
            shown["the next client"] = (await it.send("POST", ROUTES[0], again)).decode()
            return "model_failing" in shown["the next client"]

        await until(refused, "the breaker to be open")

        rows = json.loads(shown["/cortex/v1/history?limit=10000"])["rows"]
        codes = {row["error_code"] or row["outcome"] for row in rows}
        assert codes >= CODES, CODES - codes
        assert "internal_error" not in codes
        assert set(it.statuses) >= {200, 400, 401, 403, 404, 413, 429, 502, 503, 504}
        assert "breaker_open" in shown["/cortex/v1/events?limit=10000"]
        await asyncio.to_thread(end_by_crash, it.gateway)
        texts: dict[str, str | bytes] = {**shown, "log": it.gateway.stderr}
        texts |= {f.name: f.read_bytes() for f in it.folder.glob("cortex.db*")}
        assert {name: where for name, text in texts.items() if (where := found(text))} == {}
        assert (it.folder / "cortex.db-wal").stat().st_size > 0
        assert not found(it.gateway.stdout)
        assert len(it.gateway.log) > 100
        assert [line for line in it.gateway.log if line["message"] == "bug"] == []
        assert "Fatal Python error" in it.gateway.stderr
        for got in it.node.heads:
            sent = "\n".join([got.path, *(f"{k}: {v}" for k, v in got.headers.items())])
            assert got.headers["Authorization"] == f"Bearer {NODE_KEY}"
            ours = sent.replace(NODE_KEY, "")
            assert not found(ours, marks=("CREDENTIAL",)), got.path
            assert b"CREDENTIAL" not in got.body


def metrics_of(gateway: Gateway) -> int:
    [line] = [
        line
        for line in gateway.source.read_text().splitlines()
        if line.startswith("metrics_listen")
    ]
    return int(line.rstrip('"').rpartition(":")[2])


def end_by_crash(gateway: Gateway) -> None:
    """As the watchdog does: the stack of every thread goes to the log."""
    gateway.send(signal.SIGABRT)
    assert gateway.end() == -signal.SIGABRT


async def test_a_node_of_anthropics_dialect_gets_its_own_key_only(tmp_path: Path) -> None:
    (tmp_path / "node.key").write_text(NODE_KEY)
    answer = whole(
        b'{"id":"msg_1","type":"message","role":"assistant","model":"m1","content":[],'
        b'"stop_reason":"end_turn","usage":{"input_tokens":1,"output_tokens":1}}'
    )
    toml = f'[[auth.keys]]\nname = "client"\nkey = "{KEY}"\n'
    more = f'dialect = "anthropic"\napi_key_file = "{tmp_path / "node.key"}"'
    node = RawNode(["m1"], answer=saying(answer))
    async with node, running(tmp_path, [node], toml=toml, node_toml=[more]) as gateway:
        for path in (ROUTES[0], ROUTES[-1]):
            for key in ({}, {"x-api-key": KEY}):
                body = body_for(path, "m1", stream=False)
                del body["user"]
                headers = CLIENT | {"anthropic-version": "2023-06-01"} | key
                await gateway.post(path, body, headers=headers)
        # A chat wants a stream of it, so those two fail, once it has been asked.
        assert len(node.got) == 4
        for got in node.got:
            said = str(got.headers)
            assert NODE_KEY in said
            assert "CREDENTIAL" not in said.replace(NODE_KEY, "")
