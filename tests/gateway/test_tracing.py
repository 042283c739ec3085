"""Spans of requests by the official SDK, as a collector that speaks OTLP over HTTP gets them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cortex.config.load import load
from cortex.core.errors import ConfigError
from cortex.telemetry import tracing
from tests.gateway.conftest import chat_body, scripted, stream
from tests.node.rawnode import RawNode, hang_up, saying, whole
from tests.running import running

pytest.importorskip(
    "opentelemetry.exporter.otlp.proto.http", reason="the otel extra is not installed"
)
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"
UNSAMPLED = TRACEPARENT[:-1] + "0"
CHAT = "/v1/chat/completions"
PROMPT = "a-secret-of-mine"
SERVER, CLIENT, INTERNAL = 2, 3, 1
ERROR = 2


class Collector:
    """Takes what is exported; `url` is where."""

    def __init__(self) -> None:
        self.raw = b""
        self.spans: list[Any] = []
        self.resource: dict[str, Any] = {}
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service

        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        self.raw += body
        asked = service.ExportTraceServiceRequest.FromString(body)
        for of_resource in asked.resource_spans:
            self.resource |= attributes(of_resource.resource)
            for scope in of_resource.scope_spans:
                self.spans += scope.spans
        return web.Response(
            body=service.ExportTraceServiceResponse().SerializeToString(),
            content_type="application/x-protobuf",
        )

    def named(self, name: str) -> Any:
        [span] = [span for span in self.spans if span.name == name]
        return span


def attributes(of: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in of.attributes}


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    [address] = runner.addresses
    collector.url = f"http://127.0.0.1:{address[1]}"
    try:
        yield collector
    finally:
        await runner.cleanup()


def answering() -> RawNode:
    return RawNode(["a"], answer=saying(whole(b'{"choices": []}')))


def configured(collector: Collector, more: str = "") -> str:
    return f'[tracing]\nendpoint = "{collector.url}"\n{more}'


async def test_a_request_is_a_span_with_one_for_each_of_its_parts(tmp_path: Path) -> None:
    async with (
        collecting() as collector,
        scripted(["other", "a"], unloaded=["a"], load_s=0.05) as node,
    ):
        async with running(tmp_path, [node], toml=configured(collector)) as gateway:
            body = chat_body("a", stream=True, messages=[{"role": "user", "content": PROMPT}])
            headers = {"traceparent": TRACEPARENT, "x-request-id": "mine"}
            async with gateway.http.post(
                f"{gateway.url}/v1/chat/completions", json=body, headers=headers
            ) as answer:
                assert answer.status == 200
                await answer.read()
        # It has what was left when the gateway ended.
        root, relay = collector.named("chat a"), collector.named("relay n0")
        admit, load = collector.named("admit"), collector.named("load")
        assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
        assert root.parent_span_id.hex() == SPAN
        assert {one.parent_span_id for one in (admit, load, relay)} == {root.span_id}
        assert (root.kind, relay.kind, admit.kind) == (SERVER, CLIENT, INTERNAL)
        assert load.end_time_unix_nano - load.start_time_unix_nano >= 50_000_000
        assert admit.end_time_unix_nano <= load.start_time_unix_nano
        assert load.end_time_unix_nano <= relay.start_time_unix_nano
        assert relay.end_time_unix_nano <= root.end_time_unix_nano
        told = attributes(root)
        assert told["gen_ai.operation.name"] == "chat"
        assert told["gen_ai.request.model"] == "a"
        assert told["gen_ai.usage.output_tokens"] > 0
        assert told["http.response.status_code"] == 200
        assert told["cortex.request_id"] == "mine"
        assert told["cortex.cold_start"] is True
        assert told["cortex.node"] == attributes(relay)["cortex.node"] == "n0"
        assert collector.resource["service.name"] == "cortex"
        assert PROMPT.encode() not in collector.raw


async def test_a_failure_is_one_of_the_node_and_of_the_request(tmp_path: Path) -> None:
    async with collecting() as collector, RawNode(["a"], answer=hang_up) as node:
        async with running(tmp_path, [node], toml=configured(collector)) as gateway:
            assert (await gateway.chat("a")).status == 502
            assert (await gateway.chat("nobody")).status == 404
        failed, relay = collector.named("chat a"), collector.named("relay n0")
        assert failed.status.code == relay.status.code == ERROR
        assert attributes(failed)["error.type"] == "node_unreachable"
        assert attributes(relay)["error.type"] == "node_unreachable"
        # Nothing came with it, so it begins a trace of its own.
        assert failed.parent_span_id == b""
        unknown = collector.named("chat unknown")
        assert attributes(unknown)["error.type"] == "model_not_found"
        assert unknown.trace_id != failed.trace_id


@pytest.mark.parametrize(
    "parent",
    ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", TRACEPARENT + "-" + "x" * 500],
)
async def test_what_is_no_parent_begins_a_trace_anew(tmp_path: Path, parent: str) -> None:
    async with collecting() as collector, scripted(["a"]) as node:
        async with running(tmp_path, [node], toml=configured(collector)) as gateway:
            reply = await gateway.post(
                "/v1/chat/completions", chat_body("a"), headers={"traceparent": parent}
            )
            assert reply.status == 200
        assert collector.named("chat a").parent_span_id == b""


async def test_a_node_is_told_which_span_it_belongs_to(tmp_path: Path) -> None:
    async with collecting() as collector, answering() as node:
        async with running(tmp_path, [node], toml=configured(collector)) as gateway:
            for parent in (UNSAMPLED, TRACEPARENT):
                headers = {"traceparent": parent, "x-request-id": "mine"}
                reply = await gateway.post(CHAT, chat_body("a"), headers=headers)
                assert reply.status == 200
        relay = collector.named("relay n0")
        first, second = (one.headers for one in node.got)
        assert second["traceparent"] == f"00-{TRACE}-{relay.span_id.hex()}-01"
        assert second["x-request-id"] == "mine"
        # A client that wants no trace has none, and its node is told so.
        assert first["traceparent"].startswith(f"00-{TRACE}-")
        assert first["traceparent"].endswith("-00")
        assert collector.named("chat a").parent_span_id.hex() == SPAN


async def test_a_share_of_nothing_keeps_none_that_begins_here(tmp_path: Path) -> None:
    async with collecting() as collector, scripted(["a"]) as node:
        toml = configured(collector, "sample_ratio = 0.0\n")
        async with running(tmp_path, [node], toml=toml) as gateway:
            assert (await gateway.chat("a")).status == 200
        assert collector.spans == []


async def test_without_it_nodes_are_sent_no_trace(tmp_path: Path) -> None:
    async with answering() as node, running(tmp_path, [node]) as gateway:
        assert gateway.services.tracing is None
        await gateway.post(CHAT, chat_body("a"), headers={"traceparent": TRACEPARENT})
        assert "traceparent" not in node.got[-1].headers


async def test_a_collector_that_is_away_costs_no_request_and_little_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "SHUTDOWN_S", 0.2)
    async with scripted(["a"]) as node:
        toml = '[tracing]\nendpoint = "http://127.0.0.1:9"\n'
        async with asyncio.timeout(10), running(tmp_path, [node], toml=toml) as gateway:
            told = await stream(gateway.http, gateway.url, chat_body("a", stream=True))
            assert told.status == 200


@pytest.mark.parametrize("endpoint", ["collector:4318", "unix:/run/x", "http://", "ftp://a"])
def test_an_endpoint_is_a_url(tmp_path: Path, endpoint: str) -> None:
    source = tmp_path / "cortex.toml"
    source.write_text(
        f'[[nodes]]\nname = "a"\nendpoint = "http://a"\n[tracing]\nendpoint = "{endpoint}"\n'
    )
    with pytest.raises(ConfigError, match=r"tracing\.endpoint: expected a URL like"):
        load(source, {})


def test_without_the_sdk_it_is_a_mistake_in_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    source = tmp_path / "cortex.toml"
    source.write_text(
        '[[nodes]]\nname = "a"\nendpoint = "http://a"\n[tracing]\nendpoint = "http://c:4318"\n'
    )
    with pytest.raises(ConfigError, match=r"tracing\.endpoint: expected OpenTelemetry"):
        load(source, {})
