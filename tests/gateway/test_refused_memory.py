"""What was refused is let go at once, not when the garbage collector comes round."""

import gc
from pathlib import Path
from typing import Any

import pytest

from cortex.core.errors import CortexError
from cortex.gateway.body import Body
from tests.gateway.conftest import scripted
from tests.running import running

HELLO = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{", 400),
        ({"model": "nobody", "max_tokens": 1, "messages": HELLO}, 404),
        ({"model": "m1", "max_tokens": 1, "stream": True, "messages": HELLO}, 502),
    ],
)
async def test_a_failure_is_in_no_cycle(
    tmp_path: Path, path: str, body: str | dict[str, Any], status: int
) -> None:
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        await gateway.post(path, {"model": "m1", "max_tokens": 1, "messages": HELLO})
        node.knobs.drop_after_chunks = 0
        gc.collect()
        gc.disable()
        try:
            if isinstance(body, str):
                reply = await gateway.post(path, json=None, data=body.encode())
            else:
                reply = await gateway.post(path, body)
            left = [kept for kept in gc.get_objects() if isinstance(kept, CortexError | Body)]
        finally:
            gc.enable()
    assert reply.status == status
    assert left == []
