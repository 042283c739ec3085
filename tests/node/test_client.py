"""The client of one node: what it sends, and what it makes of every kind of answer."""

import asyncio
import contextlib
import gc
import json
import os
import resource
import socket
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cortex.core.errors import (
    NodeError,
    NodeProtocolError,
    NodeTimeoutError,
    NodeUnreachableError,
    NodeUntriedError,
)
from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import LifecycleAnswer, NodeInfo, ReportedStatus, Work
from cortex.core.nodefaults import failed_load
from cortex.core.traits import Kind, Traits
from cortex.devnode.scripted import ScriptedNode
from cortex.node.client import CONTROL_LIMIT_BYTES, NodeClient
from tests.node.rawnode import (
    Answer,
    Got,
    RawNode,
    chunk,
    hang_up,
    head,
    saying,
    silence,
    whole,
)
from tests.running import free_port, until

MODEL = ModelId("m1")
LISTING = "/v1/models"


@asynccontextmanager
async def client_of(url: str, **more: str) -> AsyncIterator[NodeClient]:
    client = NodeClient(NodeName("n0"), url, connect_timeout_s=0.5, **more)
    try:
        yield client
    finally:
        await client.close()


class Said:
    """A body that says how often it was asked for."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = parts
        self.size = sum(map(len, parts))

    def payload(self) -> bytes | AsyncIterator[bytes]:
        return self.parts[0] if len(self.parts) == 1 else self._iterate()

    async def _iterate(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            yield part


async def test_a_whole_life_of_a_model_on_a_node() -> None:
    async with (
        ScriptedNode(["m1", "m2"], unloaded=["m2"]) as node,
        client_of(node.url) as client,
    ):
        seen = await client.list_models()
        assert seen.models == {"m1": ReportedStatus.LOADED, "m2": ReportedStatus.UNLOADED}
        assert seen.created_at_s == node.created_s
        m2 = ModelId("m2")
        assert await client.reload(m2) == LifecycleAnswer(status=ReportedStatus.LOADED)
        assert (await client.model_status(m2)).status is ReportedStatus.LOADED
        assert (await client.unload(m2)).status is ReportedStatus.UNLOADED
        assert (await client.model_status(ModelId("no"))).status is ReportedStatus.NOT_FOUND
        info = await client.system_info()
        assert (info.version, info.vram_total_mib) == ("0.9.2", 24_576)
        assert node.stats.reload_posts == node.stats.unload_posts == {"m2": 1}


async def test_a_load_that_fails_is_told_by_the_body_of_a_200() -> None:
    async with (
        ScriptedNode(["m1"], unloaded=["m1"], load_fail="broken weights") as node,
        client_of(node.url) as client,
    ):
        answer = await client.reload(MODEL)
        assert answer.status is not ReportedStatus.LOADED
        assert "broken weights" in (answer.error or "")


async def test_a_model_is_woken_by_the_smallest_request() -> None:
    async with (
        ScriptedNode(["m1"], unloaded=["m1"], tokens=500) as node,
        client_of(node.url) as client,
    ):
        assert await client.wake(MODEL, Work.CHAT) is None
        assert node.stats.generated == 1
        assert (await client.model_status(MODEL)).status is ReportedStatus.LOADED
        assert "incompatible" in (await client.wake(MODEL, Work.EMBEDDINGS) or "")
        await node.set(category="embedding")
        assert await client.wake(MODEL, Work.EMBEDDINGS) is None
        assert "incompatible" in (await client.wake(MODEL, Work.CHAT) or "")
        assert node.stats.loads == {"m1": 1}


async def test_a_node_that_will_not_be_woken_is_heard() -> None:
    async with (
        ScriptedNode(["m1"], unloaded=["m1"], load_fail="broken weights") as node,
        client_of(node.url) as client,
    ):
        said = await client.wake(MODEL, Work.CHAT)
        assert said == "failed to reload model: broken weights"
        assert failed_load(said or "") == "broken weights"
        assert failed_load(await client.wake(ModelId("no"), Work.CHAT) or "") is None
        await node.set(http_error={"status": 503, "shape": "empty"})
        assert await client.wake(MODEL, Work.CHAT) == "HTTP 503"


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_node_without_the_route_has_no_version(status: int) -> None:
    node = RawNode(routes={"/v1/system/info": saying(whole(b"", status=f"{status} So"))})
    async with node, client_of(node.url) as client:
        assert await client.system_info() == NodeInfo(version=None)


@pytest.mark.parametrize("status", [500, 503, 401])
async def test_a_failure_to_tell_the_memory_is_not_the_lack_of_the_route(status: int) -> None:
    node = RawNode(routes={"/v1/system/info": saying(whole(b"", status=f"{status} So"))})
    async with node, client_of(node.url) as client:
        with pytest.raises(NodeProtocolError, match=f"answered HTTP {status}"):
            await client.system_info()


async def test_control_calls_carry_the_nodes_key_and_name_the_model() -> None:
    node = RawNode(routes={"/v1/models/reload": saying(whole(b'{"status":"loaded"}'))})
    async with node, client_of(node.url, api_key="k1") as client:
        await client.reload(ModelId("org/m \u00e9"))
        [got] = node.got
        assert (got.method, json.loads(got.body)) == ("POST", {"model_id": "org/m \u00e9"})
        assert got.headers["Authorization"] == "Bearer k1"
        assert got.headers["Content-Type"] == "application/json"


async def test_one_connection_serves_many_calls() -> None:
    async with ScriptedNode(["m1"]) as node, client_of(node.url) as client:
        for _ in range(5):
            await client.list_models()
            await client.model_status(MODEL)
            async with client.send("GET", LISTING, (), None) as answer:
                assert await answer.read_at_most(1 << 20)
                assert await answer.read_some() == b""
        assert node.stats.connections == 1


async def test_the_page_says_what_models_are_for() -> None:
    async with (
        ScriptedNode(["m1", "m2", "m3"], category={"m2": "speech", "m3": "embedding"}) as node,
        client_of(node.url) as client,
    ):
        assert await client.kinds() == {"m1": {Kind.CHAT}, "m2": {Kind.SPEECH}}


async def test_words_of_the_page_that_nobody_knows_say_nothing() -> None:
    answer = (
        b'{"models": [{"name": "a", "kind": "Multimodal"}, {"name": "b", "kind": "mind"},'
        b' {"name": "c"}, {"name": "\\u001b[31m", "kind": "text"}]}'
    )
    routes = {"/ui/api/list_models": saying(whole(answer))}
    async with RawNode(["a"], routes=routes) as node, client_of(node.url) as client:
        assert await client.kinds() == {"a": {Kind.CHAT, Kind.VISION}}


async def test_a_node_without_a_page_says_nothing_of_its_models() -> None:
    routes = {
        "/ui/api/list_models": saying(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
    }
    async with RawNode(["a"], routes=routes) as node, client_of(node.url) as client:
        assert await client.kinds() == {}


async def test_other_servers_say_in_their_list_how_much_a_model_takes() -> None:
    listing = (
        b'{"data": [{"id": "a", "max_model_len": 8192}, {"id": "b", "context_length": 4096},'
        b' {"id": "c", "max_model_len": -1, "context_length": "many"}, {"id": "d"},'
        b' {"id": "e", "max_model_len": true}]}'
    )
    routes = {"/v1/models": saying(whole(listing))}
    async with RawNode([], routes=routes) as node, client_of(node.url) as client:
        seen = await client.list_models()
        assert seen.traits == {"a": Traits(8192), "b": Traits(4096)}


async def test_an_answer_that_cannot_be_read_is_let_go_of_at_once() -> None:
    """Polled five times a second, megabytes that wait for the collector would be a hundred of them."""
    routes = {"/v1/models": saying(whole(b'{"data": [{}]}'))}
    async with RawNode([], routes=routes) as node, client_of(node.url) as client:
        gc.disable()
        try:
            await client.list_models()
        except NodeProtocolError as exc:
            assert "data.0.id" in exc.message
            assert exc.__context__ is None
            error = weakref.ref(exc)
        finally:
            gc.enable()
        assert error() is None


async def test_a_version_without_system_info_has_none() -> None:
    missing = saying(head("404 Not Found", Content_Length="0"))
    async with (
        RawNode(routes={"/v1/system/info": missing}) as node,
        client_of(node.url) as client,
    ):
        assert await client.system_info() == NodeInfo(version=None)


ENDLESS = saying(
    head(Content_Type="application/json", Transfer_Encoding="chunked"),
    *[chunk(b" " * (1 << 20))] * (CONTROL_LIMIT_BYTES // (1 << 20) + 2),
)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (hang_up, NodeUnreachableError),
        (saying(whole(b"<html>")), NodeProtocolError),
        (saying(whole(b"")), NodeProtocolError),
        (saying(whole(b'{"message":"lock is poisoned"}')), NodeProtocolError),
        (saying(whole(b'{"data":[]}', "500 Internal Server Error")), NodeProtocolError),
        (saying(whole(b'{"data":[]}', "404 Not Found")), NodeProtocolError),
        (saying(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), NodeProtocolError),
        (saying(head("302 Found", Location="/elsewhere", Content_Length="0")), NodeProtocolError),
        (ENDLESS, NodeProtocolError),
    ],
    ids=[
        "reset", "html", "empty", "an error as 200", "500", "404", "not http", "redirect", "endless",
    ],
)  # fmt: skip
async def test_a_listing_that_cannot_be_had(answer: Answer, kind: type[NodeError]) -> None:
    elsewhere = RawNode()
    node = RawNode(routes={LISTING: answer, "/elsewhere": saying(whole(b'{"data":[]}'))})
    async with elsewhere, node, client_of(node.url) as client:
        with pytest.raises(NodeError) as caught:
            async with asyncio.timeout(5):
                await client.list_models()
        assert type(caught.value) is kind
        assert str(node.port) not in caught.value.message
        assert len(caught.value.message) < 250


async def test_an_answer_that_breaks_off_is_no_answer() -> None:
    async def cut(_: Got, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(b'{"data":[]}')[:-3])
        writer.close()

    async with RawNode(routes={LISTING: cut}) as node, client_of(node.url) as client:
        with pytest.raises(NodeError):
            await client.list_models()


async def test_an_answer_of_nearly_the_limit_is_read() -> None:
    body = b'{"data":[]' + b" " * (CONTROL_LIMIT_BYTES - 11) + b"}"
    async with (
        RawNode(routes={LISTING: saying(whole(body))}) as node,
        client_of(node.url) as client,
    ):
        assert (await client.list_models()).models == {}


async def test_a_refused_connection_is_unreachable() -> None:
    async with client_of(f"http://127.0.0.1:{free_port()}") as client:
        for call in (client.list_models(), client.reload(MODEL), client.system_info()):
            with pytest.raises(NodeUnreachableError) as caught:
                await call
            assert caught.value.message == "n0: Connection refused"
        with pytest.raises(NodeUnreachableError):
            async with client.send("POST", "/v1/chat/completions", (), Said(b"{}")):
                pass


async def test_want_of_descriptors_is_not_the_nodes_fault() -> None:
    async with RawNode(["m1"]) as node, client_of(node.url) as client:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (sum(1 for _ in Path("/proc/self/fd").iterdir()), hard)
        )
        held = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    held.append(os.open("/dev/null", os.O_RDONLY))
            with pytest.raises(NodeUntriedError) as caught:
                await client.list_models()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for number in held:
                os.close(number)
        assert caught.value.message == "this gateway cannot connect: Too many open files"
        assert (await client.list_models()).models


async def test_a_name_that_does_not_resolve_is_unreachable() -> None:
    async with client_of("http://no-such-host.invalid:1") as client:
        with pytest.raises(NodeUnreachableError) as caught:
            await client.list_models()
        assert caught.value.message.startswith("n0: ")


async def test_a_connection_that_is_never_accepted_times_out() -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        async with client_of(f"http://127.0.0.1:{full.getsockname()[1]}") as client:
            with pytest.raises(NodeTimeoutError, match="n0: no connection in time"):
                async with asyncio.timeout(5):
                    await client.list_models()


async def test_a_silent_node_is_the_callers_to_give_up() -> None:
    async with (
        RawNode(routes={LISTING: silence}) as node,
        client_of(node.url) as client,
    ):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.list_models()
        await until(lambda: node.closed == 1, "the connection to be let go")


async def test_a_listing_that_is_none_is_the_last_answer_of_its_connection() -> None:
    """It was perhaps meant for somebody else, and the listing itself comes next."""
    late = whole(b'{"data": []}')

    async def surplus(got: Got, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(b'{"planted": true}'))
        await writer.drain()
        # Whoever used this connection next would be given this.
        await got.rest.read(1)
        writer.write(late)

    async with (
        RawNode(["m1"], routes={LISTING: surplus}) as node,
        client_of(node.url) as client,
    ):
        with pytest.raises(NodeProtocolError, match="unexpected answer"):
            await client.list_models()
        async with client.send("POST", "/v1/chat/completions", (), None) as answer:
            assert await answer.read_at_most(100) == b"{}"
        assert node.connections == 2
