"""Large bodies of Messages requests, and who has to wait for them."""

import threading
from pathlib import Path
from typing import Any

import pytest

from cortex.gateway import messages
from cortex.gateway.tokens import prompt_bytes
from tests.gateway.conftest import scripted
from tests.running import running


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_a_large_body_is_understood_beside_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Else everybody would wait for a second while a client's ten megabytes are taken apart."""
    loop_s, beside_s = [], []

    def seen(fields: Any) -> tuple[int, int]:
        here = threading.current_thread() is threading.main_thread()
        (loop_s if here else beside_s).append(len(fields["messages"][0]["content"]))
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
        assert (loop_s, beside_s) == ([3], [20_000])
        # What is wrong with one is said all the same.
        wrong = {"model": "m1", "max_tokens": 3, "messages": "x" * 500_000}
        reply = await gateway.post(path, wrong)
        assert reply.status == 400
        assert "messages" in reply.json["error"]["message"]
