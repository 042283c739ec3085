"""What no node could do with a model is refused before anything is loaded for it, and the catalogue says what is known."""

from pathlib import Path
from typing import Any

import pytest

from cortex.devnode.scripted import ScriptedNode
from tests.gateway.conftest import scripted
from tests.running import Reply, Running, running, until

WORDS = "word " * 60


async def entry(gateway: Running, model: str) -> Any:
    return (await gateway.get(f"/v1/models/{model}")).json


async def embed(gateway: Running, model: str, text: str = "hi") -> Reply:
    return await gateway.post("/v1/embeddings", {"model": model, "input": text})


async def loads(gateway: Running) -> int:
    return len((await gateway.get("/cortex/v1/events", params={"kind": "load"})).json["rows"])


def unloaded(*models: str, **knobs: Any) -> ScriptedNode:
    return scripted([*models, "other"], unloaded=list(models), **knobs)


async def test_a_kind_is_refused_before_a_load_and_others_are_named(tmp_path: Path) -> None:
    toml = '[models.e]\nkinds = ["embeddings"]\n'
    async with (
        unloaded("a", "e", category={"e": "embedding"}) as node,
        running(tmp_path, [node], toml=toml) as gateway,
    ):
        refused = await embed(gateway, "a")
        assert refused.status == 400
        assert refused.json["error"] == {
            "message": "model a is not for embeddings (source: node n0); for that there is e",
            "type": "invalid_request_error",
            "param": "model",
            "code": "route_not_supported",
        }
        refused = await gateway.chat("e")
        assert refused.status == 400
        assert refused.json["error"]["message"] == (
            "model e is not for chat (source: configuration); for that there is a or other"
        )
        assert await loads(gateway) == 0
        assert (await embed(gateway, "e")).status == 200
        assert (await entry(gateway, "a"))["modalities"] == ["chat"]
        known = await entry(gateway, "e")
        assert (known["modalities"], known["sources"]["modalities"]) == (
            ["embeddings"],
            "configuration",
        )


async def test_a_key_is_told_of_its_own_models_only(tmp_path: Path) -> None:
    toml = (
        '[models.e]\nkinds = ["embeddings"]\n'
        '[[auth.keys]]\nname = "k"\nkey = "k"\nmodels = ["a"]\n'
    )
    async with unloaded("a", "e") as node, running(tmp_path, [node], toml=toml) as gateway:
        gateway.http.headers["Authorization"] = "Bearer k"
        refused = await embed(gateway, "a")
        assert (
            refused.json["error"]["message"]
            == "model a is not for embeddings (source: node n0)"
        )


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": WORDS}]}),
        ("/v1/completions", {"prompt": WORDS}),
        ("/v1/responses", {"input": WORDS}),
        (
            "/v1/messages",
            {"max_tokens": 5, "messages": [{"role": "user", "content": WORDS}]},
        ),
    ],
)
async def test_a_prompt_that_is_certainly_too_long_is_refused_before_a_load(
    tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    toml = "[models.a]\ncontext_tokens = 50\n"
    async with unloaded("a") as node, running(tmp_path, [node], toml=toml) as gateway:
        refused = await gateway.post(path, {"model": "a", **body})
        assert refused.status == 400
        assert refused.json["error"]["message"] == (
            "the prompt is too long: at least 60 tokens, and the model takes 50 with its answer"
            " (source: configuration)"
        )
        if path != "/v1/messages":
            assert refused.json["error"]["code"] == "context_length_exceeded"
            assert refused.json["error"]["param"] in body
        assert await loads(gateway) == 0
        short = {key: "hi" if value == WORDS else value for key, value in body.items()}
        if "messages" in short:
            short["messages"] = [{"role": "user", "content": "hi"}]
        assert (await gateway.post(path, {"model": "a", **short})).status == 200
        assert (await entry(gateway, "a"))["context_length"] == 50


async def test_the_limit_is_learned_from_a_refusal_until_the_node_restarts(
    tmp_path: Path,
) -> None:
    async with (
        scripted(["a"], context_tokens=50) as node,
        running(tmp_path, [node]) as gateway,
    ):
        long = {"model": "a", "messages": [{"role": "user", "content": WORDS}]}
        assert "context_length" not in await entry(gateway, "a")
        first = await gateway.post("/v1/chat/completions", long)
        assert first.json["error"]["code"] == "context_length_exceeded"
        assert "at least 60 tokens" not in first.json["error"]["message"]
        known = await entry(gateway, "a")
        assert known["context_length"] == 50
        assert known["sources"]["context_length"] == "refusal by n0"
        asked = node.stats.requests.total()
        again = await gateway.post("/v1/chat/completions", long)
        assert "at least 60 tokens" in again.json["error"]["message"]
        assert node.stats.requests.total() == asked
        await node.start()

        async def forgotten() -> bool:
            return "context_length" not in await entry(gateway, "a")

        await until(forgotten, "the restart")


async def test_a_kind_is_learned_from_a_refusal(tmp_path: Path) -> None:
    """Of models that the node's own page does not have."""
    async with (
        scripted(["i"], category={"i": "image"}) as node,
        running(tmp_path, [node]) as gateway,
    ):
        first = await embed(gateway, "i")
        assert "incompatible" in first.json["error"]["message"]
        second = await embed(gateway, "i")
        assert second.json["error"]["message"] == (
            "model i is not for embeddings (source: refusal by n0)"
        )
        # A chat that is refused may have had something in it that others have not.
        for _ in range(2):
            refused = await gateway.chat("i")
            assert "incompatible" in refused.json["error"]["message"]


async def test_an_agent_tells_what_it_found(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t0ken")
    toml = f'[agent]\ntoken_file = "{token}"\n'
    async with scripted(["a"]) as node, running(tmp_path, [node], toml=toml) as gateway:
        found = {
            "model": "a",
            "size_mib": 5000,
            "context_tokens": 8192,
            "kinds": ["chat", "vision", "telepathy"],
            "quantization": "Q4_K_M",
        }
        reply = await gateway.post(
            "/cortex/v1/agents/report",
            {"node": "n0", "weights": [found]},
            headers={"Authorization": "Bearer t0ken"},
        )
        assert reply.status == 200
        known = await entry(gateway, "a")
        assert known["context_length"] == 8192
        assert known["quantization"] == "Q4_K_M"
        # The node is believed before what lies on its disk.
        assert known["modalities"] == ["chat"]
        assert known["sources"] == {
            "context_length": "agent beside n0",
            "modalities": "node n0",
            "quantization": "agent beside n0",
            "size_mib": "agent beside n0",
        }
