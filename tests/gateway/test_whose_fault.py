"""One client's mistakes take nothing away from the others; a node's failures do not hide as theirs."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.conftest import apart, model_view
from tests.gateway.conftest import scripted
from tests.node.rawnode import Answer, RawNode, saying, streaming, whole
from tests.running import Running, running, until

ODD = "the flux is not calibrated"
GOOD = saying(whole(b'{"choices":[]}'))
KEYS = "\n".join(
    f'[[auth.keys]]\nname = "{name}"\nkey = "sk-{name}-0123456789"'
    for name in ("ann", "bob", "cy")
)
CALLERS_MISTAKES = [
    "Tool choice was required but no tools were called.",
    "The image format could not be determined",
    "Remote media URLs must not target private or local IP addresses.",
    "Image sub-content `image_url` object must have a `url` key.",
    "Text sub-content must have `text` key.",
    "Request `grammar` and `response_format` were both provided but are mutually exclusive.",
    'tools[].type="shell" is only supported by the Responses API.',
]


def failing(words: str) -> Answer:
    body = json.dumps({"message": words}).encode()
    return saying(whole(body, "500 Internal Server Error"))


def failing_stream(words: str) -> Answer:
    event = json.dumps({"error": {"message": words, "type": "server_error"}}).encode()
    return streaming(b"data: " + event + b"\n\n", b"data: [DONE]\n\n")


async def ask(gateway: Running, key: str | None = None, **more: Any) -> Any:
    headers = {} if key is None else {"Authorization": f"Bearer sk-{key}-0123456789"}
    body = {"model": "m1", **apart(**more)}
    return await gateway.post("/v1/chat/completions", json=body, headers=headers)


@pytest.mark.parametrize("words", CALLERS_MISTAKES)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_callers_mistake_is_400_at_once_and_leaves_the_breakers_alone(
    tmp_path: Path, words: str, stream: bool
) -> None:
    refusal = failing_stream(words) if stream else failing(words)
    async with (
        RawNode(["m1"], answer=refusal) as one,
        RawNode(["m1"], answer=refusal) as other,
        running(tmp_path, [one, other]) as gateway,
    ):
        for n in range(1, 5):
            reply = await ask(gateway, stream=stream)
            assert (reply.status, reply.code) == (400, "invalid_request")
            assert reply.json["error"]["message"] == words
            assert reply.headers["x-should-retry"] == "false"
            assert len(one.got) + len(other.got) == n
        one.answer = other.answer = GOOD
        assert (await ask(gateway)).status == 200


async def test_what_two_nodes_say_alike_is_the_callers(tmp_path: Path) -> None:
    async with (
        RawNode(["m1"], answer=failing(ODD + " at 17")) as one,
        RawNode(["m1"], answer=failing(ODD + " at 4")) as other,
        running(tmp_path, [one, other]) as gateway,
    ):
        for _ in range(5):
            reply = await ask(gateway)
            assert (reply.status, reply.code) == (400, "invalid_request")
            assert reply.json["error"]["message"].startswith(ODD)
        assert (len(one.got), len(other.got)) == (5, 5)
        one.answer = other.answer = GOOD
        assert (await ask(gateway)).status == 200
        assert await gateway.events(kind="breaker_open") == []


async def test_where_another_node_serves_it_was_the_first_nodes_failure(tmp_path: Path) -> None:
    async with (
        RawNode(["m1"], answer=failing(ODD)) as one,
        RawNode(["m1"], answer=GOOD) as other,
        running(tmp_path, [one, other]) as gateway,
    ):
        for _ in range(6):
            assert (await ask(gateway)).status == 200
        assert (len(one.got), len(other.got)) == (3, 6)
        view = await model_view(gateway, "n0", "m1")
        assert view["breaker_open"] is True
        assert view["breaker_reason"] == "the node answered HTTP 500"
        assert [row["attempts"] for row in await gateway.history()] == [1, 1, 1, 2, 2, 2]


async def test_with_one_copy_a_client_counts_once(tmp_path: Path) -> None:
    async with (
        RawNode(["m1"], answer=failing(ODD)) as node,
        running(tmp_path, [node], toml=KEYS) as gateway,
    ):
        for _ in range(5):
            reply = await ask(gateway, "ann")
            assert (reply.status, reply.code) == (502, "node_error")
            assert reply.json["error"]["message"] == f"node n0: {ODD}"
        node.answer = GOOD
        assert (await ask(gateway, "bob")).status == 200, (
            "one client cannot take it from another"
        )


async def test_many_clients_find_the_same_and_the_breaker_opens(tmp_path: Path) -> None:
    async with (
        RawNode(["m1"], answer=failing(ODD)) as node,
        running(tmp_path, [node], toml=KEYS) as gateway,
    ):
        codes = [(await ask(gateway, key)).code for key in ("ann", "ann", "bob", "cy", "bob")]
        assert codes == ["node_error"] * 4 + ["model_failing"]


async def test_a_success_in_between_resets_the_count(tmp_path: Path) -> None:
    async with (
        RawNode(["m1"], answer=failing(ODD)) as node,
        running(tmp_path, [node], toml=KEYS) as gateway,
    ):
        for key in ("ann", "bob", "ann", "cy", "bob"):
            node.answer = failing(ODD)
            assert (await ask(gateway, key)).code == "node_error"
            node.answer = GOOD
            assert (await ask(gateway, key)).status == 200


async def test_the_second_opinion_loads_no_copy_for_it(tmp_path: Path) -> None:
    async with (
        RawNode(["m1"], answer=failing(ODD)) as one,
        scripted(["m1"], unloaded=["m1"]) as other,
        running(tmp_path, [one, other]) as gateway,
    ):
        assert (await ask(gateway)).code == "node_error"
        assert dict(other.stats.loads) == {}


async def test_a_nodes_own_failure_is_never_called_the_callers(tmp_path: Path) -> None:
    for words in ("Unexpected response type", "unexpected dtype, expected: F32, got: F16"):
        async with (
            RawNode(["m1"], answer=failing(words)) as one,
            RawNode(["m1"], answer=failing(words)) as other,
            running(tmp_path, [one, other]) as gateway,
        ):
            reply = await ask(gateway)
            assert reply.status == 502
            assert words in reply.json["error"]["message"]
            assert "x-should-retry" not in reply.headers


async def test_the_same_holds_in_the_other_dialect(tmp_path: Path) -> None:
    words = "Tool choice was required but no tools were called."
    async with (
        RawNode(["m1"], answer=failing_stream(words)) as node,
        running(tmp_path, [node]) as gateway,
    ):
        for stream in (False, True) * 2:
            body = {"model": "m1", "max_tokens": 5, "stream": stream, **apart()}
            reply = await gateway.post("/v1/messages", json=body)
            assert reply.status == 400
            assert reply.json["error"] == {"type": "invalid_request_error", "message": words}
        node.answer = GOOD
        assert (await ask(gateway)).status == 200


INSISTS = {
    "tools": [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    ],
    "tool_choice": "required",
}
PARTS = [{"role": "user", "content": [{"type": "image_url", "image_url": {"detail": "low"}}]}]


@pytest.mark.parametrize("stream", [False, True])
async def test_three_bad_requests_of_each_kind_take_nothing_from_a_bystander(
    tmp_path: Path, stream: bool
) -> None:
    mistakes: list[dict[str, Any]] = [
        INSISTS,
        {"messages": PARTS},
        {"grammar": {}, "response_format": {"type": "text"}},
        {"tools": [{"type": "web_search"}]},
        {"reasoning_effort": "extreme"},
        {"max_tokens": 0},
    ]
    async with (
        scripted(["m1"], tool_calls=False) as one,
        scripted(["m1"], tool_calls=False) as other,
        running(tmp_path, [one, other]) as gateway,
    ):
        for mistake in mistakes * 3:
            reply = await ask(gateway, stream=stream, **mistake)
            assert (reply.status, reply.code) == (400, "invalid_request"), mistake
        assert {row["attempts"] for row in await gateway.history()} == {1}
        assert [(await ask(gateway, stream=stream)).status for _ in range(4)] == [200] * 4
        assert await gateway.events(kind="breaker_open") == []


async def test_a_whole_response_that_is_cut_is_the_nodes_failure(tmp_path: Path) -> None:
    async with (
        scripted(["m1"], first_token_s=20.0) as node,
        running(tmp_path, [node]) as gateway,
        asyncio.TaskGroup() as group,
    ):
        body = {"model": "m1", "input": "hello"}
        asked = group.create_task(gateway.post("/v1/responses", body))
        await until(lambda: node.stats.in_flight["m1"] > 0, "the request at the node")
        # Behind the gateway's back; it loads again, and serves.
        await node.set(first_token_s=0.0, requests_load=False)
        await node.residency.unload("m1")
        reply = await asked
        assert (reply.status, reply.code) == (502, "node_interrupted")
