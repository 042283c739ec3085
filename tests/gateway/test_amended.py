"""What a node refuses for its form alone is sent to it again in the form it takes, and so from then on."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import scripted
from tests.node.rawnode import RawNode, saying, whole
from tests.running import Running, running

SYSTEM = {
    "role": "system",
    "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "brief."}],
}
HI = [{"role": "user", "content": "hi"}]
LIMITS = {"max_tokens": 7, "max_completion_tokens": 3}
FORMS = pytest.mark.parametrize(
    "form", [LIMITS, {"messages": [SYSTEM, *HI]}, {"messages": [SYSTEM, *HI], **LIMITS}]
)


async def ask(gateway: Running, form: dict[str, Any], **more: Any) -> Any:
    body = {"model": "m1", "messages": HI, **form, **more}
    return await gateway.post("/v1/chat/completions", body)


async def attempts(gateway: Running) -> list[int]:
    return [row["attempts"] for row in reversed(await gateway.history())]


@FORMS
@pytest.mark.parametrize("stream", [False, True])
async def test_a_form_the_node_does_not_take_is_learned_once(
    tmp_path: Path, form: dict[str, Any], stream: bool
) -> None:
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        for _ in range(3):
            reply = await ask(gateway, form, stream=stream)
            assert reply.status == 200, reply.text
        learned = ("max_tokens" in form) + ("messages" in form)
        assert await attempts(gateway) == [1 + learned, 1, 1]
        assert await gateway.events(kind="breaker_open") == []
        if "max_tokens" in form and not stream:
            assert reply.json["usage"]["completion_tokens"] == 3


async def test_more_nodes_than_tries_all_learn_it(tmp_path: Path) -> None:
    nodes = [scripted(["m1"]) for _ in range(4)]
    async with nodes[0], nodes[1], nodes[2], nodes[3], running(tmp_path, nodes) as gateway:
        for n in range(8):
            messages = [{"role": "user", "content": f"conversation {n}"}]
            form = {"messages": [SYSTEM, *messages], **LIMITS}
            assert (await ask(gateway, form)).status == 200


async def test_a_node_that_takes_it_gets_the_bytes_as_they_came(tmp_path: Path) -> None:
    good = saying(whole(b'{"choices":[]}'))
    async with RawNode(["m1"], answer=good) as node, running(tmp_path, [node]) as gateway:
        body = {"model": "m1", "messages": [SYSTEM, *HI], **LIMITS, "stream": True}
        raw = json.dumps(body, indent=3).encode()
        headers = {"Content-Type": "application/json"}
        for _ in range(2):
            reply = await gateway.post(
                "/v1/chat/completions", json=None, data=raw, headers=headers
            )
            assert reply.status == 200
        assert [got.body for got in node.got] == [raw, raw]


async def test_what_stays_refused_is_the_callers_after_one_more_try(tmp_path: Path) -> None:
    words = "Role for an image message must be `user`, but it is system"
    refusal = saying(
        whole(json.dumps({"message": words}).encode(), "500 Internal Server Error")
    )
    async with RawNode(["m1"], answer=refusal) as node, running(tmp_path, [node]) as gateway:
        for sent in (2, 3):
            reply = await ask(gateway, {"messages": [SYSTEM, *HI]})
            assert (reply.status, reply.code) == (400, "invalid_request")
            assert len(node.got) == sent
