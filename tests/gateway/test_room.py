"""All request bodies together have a bound; what is beyond it is told to come again."""

import asyncio
import json
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

from tests.gateway.conftest import chat_body
from tests.node.rawnode import RawNode
from tests.running import running, until

CHAT = "/v1/chat/completions"
MIB = 1024 * 1024
TOML = "[limits]\nmax_bodies_mb = 2"


def body(size: int) -> BytesIO:
    return BytesIO(json.dumps(chat_body(pad="x" * size)).encode())


async def test_a_body_that_finds_no_room_is_refused_until_others_have_ended(
    tmp_path: Path,
) -> None:
    go_on = asyncio.Event()
    whole = body(3 * MIB // 2).getvalue()
    begun = whole[:-10]

    async def slowly() -> AsyncIterator[bytes]:
        yield begun
        await go_on.wait()
        yield whole[len(begun) :]

    async with (
        RawNode(["m1"]) as node,
        running(tmp_path, [node], toml=TOML) as gateway,
        asyncio.TaskGroup() as group,
    ):
        first = group.create_task(gateway.post(CHAT, json=None, data=slowly()), name="first")
        room = gateway.services.room
        # All that was sent of it: were some still to come, the first might be the one refused.
        await until(lambda: room.held_bytes == len(begun), "the first body to be held")
        for path in (CHAT, "/v1/messages"):
            refused = await gateway.post(path, json=None, data=body(MIB))
            assert refused.status == 503, refused.text
            assert "Retry-After" in refused.headers
        assert (await gateway.chat("m1")).status == 200
        go_on.set()
        assert (await first).status == 200
        assert (await gateway.post(CHAT, json=None, data=body(MIB))).status == 200
        await until(lambda: room.held_bytes == 0, "all room to be free again")


async def test_a_body_alone_is_never_refused(tmp_path: Path) -> None:
    async with RawNode(["m1"]) as node, running(tmp_path, [node], toml=TOML) as gateway:
        assert (await gateway.post(CHAT, json=None, data=body(8 * MIB))).status == 200
        assert gateway.services.room.held_bytes == 0
