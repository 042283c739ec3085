"""Large bodies that have to be taken apart, and who has to wait for them."""

import threading
from pathlib import Path
from typing import Any

import pytest

from cortex.core.amend import amended
from cortex.core.translate.to_messages import messages_body
from cortex.gateway import messages, openai
from cortex.gateway.tokens import prompt_bytes
from tests.gateway.conftest import scripted
from tests.running import running

CHAT = "/v1/chat/completions"


class Places:
    """What work was done on the loop and what beside it, by the size of what was worked on."""

    def __init__(self) -> None:
        self.loop: list[int] = []
        self.beside: list[int] = []

    def seen(self, size: int) -> None:
        here = threading.current_thread() is threading.main_thread()
        (self.loop if here else self.beside).append(size)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_a_large_body_is_understood_beside_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Else everybody would wait for a second while a client's ten megabytes are taken apart."""
    places = Places()

    def seen(fields: Any) -> tuple[int, int]:
        places.seen(len(fields["messages"][0]["content"]))
        return prompt_bytes(fields)

    monkeypatch.setattr(messages, "prompt_bytes", seen)
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        for count in (3, 20_000):
            parts = [{"type": "text", "text": "word"}] * count
            body = {
                "model": "m1",
                "max_tokens": 3,
                "messages": [{"role": "user", "content": parts}],
            }
            assert (await gateway.post(path, body)).status == 200
        assert (places.loop, places.beside) == ([3], [20_000])
        # What is wrong with one is said all the same.
        wrong = {"model": "m1", "max_tokens": 3, "messages": "x" * 500_000}
        reply = await gateway.post(path, wrong)
        assert reply.status == 400
        assert "messages" in reply.json["error"]["message"]


def chat(count: int) -> dict[str, Any]:
    """A chat that is large when `count` is, with both names of a limit."""
    parts = [{"type": "text", "text": "word " * 20}]
    said = [{"role": ("user", "assistant")[n % 2], "content": parts} for n in range(count)]
    return {"model": "m1", "messages": said, "max_tokens": 7, "max_completion_tokens": 3}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_large_chat_for_an_anthropic_node_is_translated_beside_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    places = Places()

    def seen(body: dict[str, Any]) -> dict[str, Any]:
        places.seen(len(body["messages"]))
        return messages_body(body)

    monkeypatch.setattr(openai, "messages_body", seen)
    dialect = ['dialect = "anthropic"']
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], node_toml=dialect) as gateway,
    ):
        for count in (3, 5_001):
            reply = await gateway.post(CHAT, {**chat(count), "stream": stream})
            assert reply.status == 200, reply.text
        assert (places.loop, places.beside) == ([3], [5_001])
        reply = await gateway.post(CHAT, {**chat(5_001), "n": 2})
        assert reply.status == 400
        assert "one answer at a time" in reply.text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_large_chat_is_brought_into_a_nodes_form_beside_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    places = Places()

    def seen(body: dict[str, Any], wishes: Any) -> dict[str, Any] | None:
        places.seen(len(body["messages"]))
        return amended(body, wishes)

    monkeypatch.setattr(openai, "amended", seen)
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        for count in (3, 5_001):
            reply = await gateway.post(CHAT, {**chat(count), "stream": stream})
            assert reply.status == 200, reply.text
        # The small one meets two refusals; the node's form is known then.
        assert (places.loop, places.beside) == ([3, 3], [5_001])
