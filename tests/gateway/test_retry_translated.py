"""A translated answer that is tried again is made of the second try alone."""

from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import scripted
from tests.running import running

ASK: dict[str, Any] = {
    "model": "m1",
    "max_tokens": 12,
    "messages": [{"role": "user", "content": "hi"}],
}


@pytest.mark.parametrize("after", [1, 2, 5])
async def test_a_node_that_dies_in_mid_answer_leaves_nothing_of_it(
    tmp_path: Path, after: int
) -> None:
    async with scripted(["m1"]) as dying, scripted(["m1"]) as well:
        async with running(tmp_path, [well]) as gateway:
            alone = (await gateway.post("/v1/messages", ASK)).json
        dying.knobs.drop_after_chunks = after
        (tmp_path / "cortex.db").unlink()
        async with running(tmp_path, [dying, well]) as gateway:
            replies = [await gateway.post("/v1/messages", ASK) for _ in range(3)]
    assert [reply.status for reply in replies] == [200] * 3
    assert dying.stats.started >= 1
    for reply in replies:
        assert reply.json["content"] == alone["content"]
        assert reply.json["usage"] == alone["usage"]
