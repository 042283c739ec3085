from pathlib import Path

from tests.gateway.conftest import scripted
from tests.running import running


async def test_a_chat_is_answered(tmp_path: Path) -> None:
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        reply = await gateway.chat("m1", max_tokens=3)
        assert reply.status == 200, reply.text
        assert reply.headers["x-cortex-node"] == "n0"
        assert [row["outcome"] for row in await gateway.history()] == ["ok"]
