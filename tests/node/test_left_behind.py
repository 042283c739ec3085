"""An exchange that fails is freed at once: what waits for the collector of cycles may wait for hours."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from cortex.core.errors import NodeSilentError, NodeUnreachableError
from cortex.node.client import NodeClient
from cortex.node.connection import Connection
from tests.garbage import left_behind
from tests.node.rawnode import STREAM_HEAD, Got, RawNode, chunk, silence, whole
from tests.node.test_client import Said, client_of
from tests.running import until


class TwoChunks:
    """A node whose second chunk comes once the first was taken; then it hangs up, if it is to."""

    def __init__(self, *, hangs_up: bool = False) -> None:
        self.taken = asyncio.Event()
        self.hangs_up = hangs_up

    async def __call__(self, got: Got, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(b"one"))
        await self.taken.wait()
        writer.write(chunk(b"two"))
        if self.hangs_up:
            await writer.drain()
            writer.close()


class RefusedError(Exception):
    """What a reader raises who takes no more."""


async def exchange(client: NodeClient, take: Callable[[bytes], object]) -> None:
    async with client.send("POST", "/v1/chat/completions", (), Said(b"{}")) as answer:
        await answer.pour(take)


async def ended(work: Awaitable[None], error: type[Exception]) -> bool:
    """Whether that is how it ended; nothing of it is kept."""
    try:
        await work
    except error:
        return True
    return False


async def test_after_a_reader_that_fails() -> None:
    two = TwoChunks()

    def take(data: bytes) -> None:
        two.taken.set()
        if data == b"two":
            raise RefusedError

    async with RawNode(answer=two) as node, client_of(node.url) as client:
        with left_behind() as left:
            assert await ended(exchange(client, take), RefusedError)
        assert left == []


async def test_after_a_reader_that_fails_while_its_request_is_cancelled() -> None:
    """As when the client of a stream hangs up in the moment in which more of it comes."""
    two = TwoChunks()
    tasks: list[asyncio.Task[None]] = []

    def take(data: bytes) -> None:
        two.taken.set()
        if data == b"two":
            tasks.pop().cancel()
            raise RefusedError

    async with RawNode(answer=two) as node, client_of(node.url) as client:
        with left_behind() as left:
            async with asyncio.TaskGroup() as group:
                tasks.append(group.create_task(exchange(client, take)))
        assert left == []


@pytest.mark.parametrize("begins", [False, True])
async def test_after_a_node_that_falls_silent(begins: bool) -> None:
    reached = asyncio.Event()

    async def quiet(got: Got, writer: asyncio.StreamWriter) -> None:
        if begins:
            writer.write(STREAM_HEAD + chunk(b"one"))
        else:
            reached.set()
        await silence(got, writer)

    async def patience(client: NodeClient) -> None:
        sending = client.send("POST", "/v1/chat/completions", (), Said(b"{}"))

        async def give_up() -> None:
            await reached.wait()
            sending.fail(NodeSilentError("nothing for a while", at_work=True))

        waiting = asyncio.create_task(give_up())  # noqa: TID251
        async with sending as answer:
            await answer.pour(lambda _: reached.set())
        await waiting

    async with RawNode(answer=quiet) as node, client_of(node.url) as client:
        with left_behind() as left:
            assert await ended(patience(client), NodeSilentError)
        assert left == []


async def test_after_a_node_that_hangs_up() -> None:
    two = TwoChunks(hangs_up=True)
    async with RawNode(answer=two) as node, client_of(node.url) as client:
        with left_behind() as left:
            work = exchange(client, lambda _: two.taken.set())
            assert await ended(work, NodeUnreachableError)
        assert left == []


async def test_after_an_answer_that_nobody_asked_for() -> None:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()

    async def planted() -> None:
        transport, connection = await loop.create_connection(
            lambda: Connection(loop), sock=ours
        )
        theirs.sendall(whole(b"planted"))
        await until(lambda: not connection.usable, "the answer to come")
        transport.abort()

    with theirs, left_behind() as left:
        await planted()
        await asyncio.sleep(0)
    assert left == []
