"""What a key may use: requests at once, requests and tokens by the minute; refused in words that SDKs know."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cortex.devnode.scripted import ScriptedNode
from tests.gateway.conftest import chat_body, scripted, sdk, stream
from tests.node.rawnode import LAST_CHUNK, STREAM_HEAD, Got, RawNode, chunk, saying, whole
from tests.running import Reply, Running, running, until

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
ADMIN = {"Authorization": "Bearer boss"}
ANSWER = b'{"choices":[],"usage":{"prompt_tokens":600,"completion_tokens":900}}'


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.time_s = 1000.0

    def now_s(self) -> float:
        return self.time_s

    def now_ms(self) -> int:
        return 1_800_000_000_000 + int(self.time_s * 1000)


def keys(limits: str) -> str:
    return f"""
[[auth.keys]]
name = "alice"
key = "a"
{limits}
[[auth.keys]]
name = "bob"
key = "b"
[[auth.keys]]
name = "boss"
key = "boss"
role = "admin"
"""


@asynccontextmanager
async def limited(
    folder: Path, node: ScriptedNode | RawNode, limits: str
) -> AsyncIterator[tuple[Running, Clock]]:
    """A gateway whose key `a` has `limits`, and the clock of its quotas."""
    async with node, running(folder, [node], toml=keys(limits)) as gateway:
        clock = Clock()
        gateway.services.quotas._clock = clock
        yield gateway, clock


async def ask(gateway: Running, key: str = "a", path: str = CHAT) -> Reply:
    body = chat_body() | ({"max_tokens": 9} if path == MESSAGES else {})
    return await gateway.post(path, body, headers={"Authorization": f"Bearer {key}"})


async def test_requests_by_the_minute(tmp_path: Path) -> None:
    node = scripted(["m1"])
    async with limited(tmp_path, node, "requests_per_minute = 2") as (gateway, clock):
        first = await ask(gateway)
        assert first.status == 200
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert first.headers["x-ratelimit-reset-requests"] == "30s"
        assert "x-ratelimit-limit-tokens" not in first.headers
        assert (await ask(gateway)).status == 200
        started = node.stats.started
        for _ in range(3):
            refused = await ask(gateway)
            assert (refused.status, refused.code) == (429, "rate_limit_requests")
            assert refused.json["error"]["type"] == "rate_limit_error"
            assert refused.headers["Retry-After"] == "30"
            assert refused.headers["x-ratelimit-remaining-requests"] == "0"
            assert refused.headers["x-ratelimit-reset-requests"] == "1m0s"
            assert "x-should-retry" not in refused.headers
        assert node.stats.started == started
        clock.time_s += 29.9
        assert (await ask(gateway)).status == 429
        clock.time_s += 0.2
        assert (await ask(gateway)).status == 200


async def test_other_keys_are_not_touched_and_see_no_headers(tmp_path: Path) -> None:
    async with limited(tmp_path, scripted(["m1"]), "requests_per_minute = 1") as (gateway, _):
        assert [(await ask(gateway)).status for _ in range(2)] == [200, 429]
        for key in ("b", "boss", "b"):
            reply = await ask(gateway, key)
            assert reply.status == 200
            assert not [name for name in reply.headers if "ratelimit" in name.lower()]


async def test_anthropics_clients_get_their_own_words(tmp_path: Path) -> None:
    limits = "requests_per_minute = 1\ntokens_per_minute = 5000"
    async with limited(tmp_path, scripted(["m1"]), limits) as (gateway, _):
        first = await ask(gateway, path=MESSAGES)
        assert first.status == 200
        refused = await ask(gateway, path=MESSAGES)
        assert refused.status == 429
        assert refused.json["type"] == "error"
        assert refused.json["error"]["type"] == "rate_limit_error"
        assert refused.headers["Retry-After"] == "60"
        assert refused.headers["anthropic-ratelimit-requests-limit"] == "1"
        assert refused.headers["anthropic-ratelimit-requests-remaining"] == "0"
        # 1,800,001,000 s, and a minute.
        assert refused.headers["anthropic-ratelimit-requests-reset"] == "2027-01-15T08:17:40Z"
        assert refused.headers["anthropic-ratelimit-tokens-limit"] == "5000"
        assert int(refused.headers["anthropic-ratelimit-tokens-remaining"]) < 5000
        assert not [name for name in refused.headers if name.lower().startswith("x-ratelimit")]


async def test_tokens_are_counted_after_the_answer_and_a_debt_delays_the_next(
    tmp_path: Path,
) -> None:
    node = RawNode(["m1"], answer=saying(whole(ANSWER)))
    async with limited(tmp_path, node, "tokens_per_minute = 1000") as (gateway, clock):
        first = await ask(gateway)
        assert first.status == 200
        assert first.headers["x-ratelimit-remaining-tokens"] == "1000"
        refused = await ask(gateway)
        assert (refused.status, refused.code) == (429, "rate_limit_tokens")
        # 500 owed, at a thousand a minute, and one to be left.
        assert refused.headers["Retry-After"] == "31"
        assert refused.headers["x-ratelimit-limit-tokens"] == "1000"
        assert refused.headers["x-ratelimit-remaining-tokens"] == "0"
        assert refused.headers["x-ratelimit-reset-tokens"] == "1m30s"
        assert len(node.got) == 1
        clock.time_s += 30
        assert (await ask(gateway)).status == 429
        clock.time_s += 0.1
        assert (await ask(gateway)).status == 200


async def test_what_refills_during_a_long_answer_does_not_pay_for_it(tmp_path: Path) -> None:
    """The bucket was full all the while."""
    release = asyncio.Event()

    async def held(_: Got, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(b'data: {"choices":[]}\n\n'))
        await release.wait()
        writer.write(chunk(b"data: " + ANSWER + b"\n\ndata: [DONE]\n\n") + LAST_CHUNK)

    node = RawNode(["m1"], answer=held)
    async with limited(tmp_path, node, "tokens_per_minute = 1000") as (gateway, clock):
        async with gateway.http.post(
            gateway.url + CHAT, json=chat_body(stream=True), headers={"x-api-key": "a"}
        ) as response:
            await response.content.readany()
            clock.time_s += 600
            release.set()
            await response.read()
        await until(lambda: gateway.services.recent.in_flight == 0, "the end of the request")
        refused = await ask(gateway)
        assert (refused.status, refused.code) == (429, "rate_limit_tokens")
        assert refused.headers["Retry-After"] == "31"


async def test_hanging_up_before_the_report_is_not_free(tmp_path: Path) -> None:
    event = b'data: {"choices":[{"delta":{"content":"' + b"x" * 160 + b'"}}]}\n\n'
    hung_up = asyncio.Event()

    async def endless(got: Got, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(event) * 40)
        await got.rest.read()
        hung_up.set()

    node = RawNode(["m1"], answer=endless)
    async with limited(tmp_path, node, "tokens_per_minute = 30") as (gateway, _):
        headers = {"Authorization": "Bearer a"}
        async with gateway.http.post(
            gateway.url + CHAT, json=chat_body(stream=True), headers=headers
        ) as response:
            seen = 0
            while seen < 40 * len(event):
                seen += len(await response.content.readany())
        await hung_up.wait()
        await until(lambda: gateway.services.recent.in_flight == 0, "the end of the request")
        refused = await ask(gateway)
        assert (refused.status, refused.code) == (429, "rate_limit_tokens")


async def test_requests_at_once(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def held(_: Got, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(whole(b"{}"))

    node = RawNode(["m1"], answer=held)
    async with (
        limited(tmp_path, node, "max_concurrent = 2") as (gateway, _),
        asyncio.TaskGroup() as group,
    ):
        under_way = [group.create_task(ask(gateway)) for _ in range(2)]
        await until(lambda: len(node.got) == 2, "two requests at the node")
        refused = await ask(gateway)
        assert (refused.status, refused.code) == (429, "rate_limit_concurrency")
        assert refused.headers["Retry-After"] == "1"
        other = group.create_task(ask(gateway, "b"))
        await until(lambda: len(node.got) == 3, "the request of another key")
        release.set()
        assert [(await task).status for task in (*under_way, other)] == [200, 200, 200]
        assert (await ask(gateway)).status == 200


@pytest.mark.parametrize("how", ["node fails", "client hangs up", "model is absent"])
async def test_whatever_ends_a_request_it_is_no_longer_under_way(
    tmp_path: Path, how: str
) -> None:
    arrived = asyncio.Event()

    async def answer(got: Got, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        if how == "client hangs up":
            await got.rest.read()
        else:
            writer.write(whole(b'{"message":"CUDA_ERROR"}', "500 Internal Server Error"))

    node = RawNode(["m1"], answer=answer)
    async with limited(tmp_path, node, "max_concurrent = 1") as (gateway, _):
        if how == "client hangs up":
            asking = asyncio.create_task(ask(gateway))  # noqa: TID251 (ended below)
            await arrived.wait()
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        else:
            model = "m2" if how == "model is absent" else "m1"
            headers = {"Authorization": "Bearer a"}
            assert (await gateway.post(CHAT, chat_body(model), headers=headers)).status in {
                404,
                502,
            }
        account = gateway.services.quotas._accounts.get("alice")
        await until(lambda: account is None or account.running == 0, "nothing under way")
        node.answer = saying(whole(b"{}"))
        assert (await ask(gateway)).status == 200


async def test_a_streams_end_counts_as_the_end(tmp_path: Path) -> None:
    done = (b'data: {"choices":[{"finish_reason":"stop"}]}\n\n', b"data: [DONE]\n\n")
    node = RawNode(["m1"], answer=saying(STREAM_HEAD, *map(chunk, done), LAST_CHUNK))
    async with limited(tmp_path, node, "max_concurrent = 1") as (gateway, _):
        for _ in range(3):
            seen = await stream_as(gateway, "a")
            assert seen.complete


async def stream_as(gateway: Running, key: str) -> Any:
    gateway.http.headers["Authorization"] = f"Bearer {key}"
    try:
        return await stream(gateway.http, gateway.url)
    finally:
        del gateway.http.headers["Authorization"]


async def test_a_reload_gives_nothing_back(tmp_path: Path) -> None:
    async with limited(tmp_path, scripted(["m1"]), "requests_per_minute = 2") as (
        gateway,
        clock,
    ):
        assert [(await ask(gateway)).status for _ in range(3)] == [200, 200, 429]
        await reload(gateway, "requests_per_minute = 2", "requests_per_minute = 120")
        refused = await ask(gateway)
        assert refused.status == 429
        assert refused.headers["x-ratelimit-limit-requests"] == "120"
        clock.time_s += 0.5
        assert [(await ask(gateway)).status for _ in range(2)] == [200, 429]
        await reload(gateway, "requests_per_minute = 120", "")
        assert [(await ask(gateway)).status for _ in range(3)] == [200, 200, 200]


async def reload(gateway: Running, old: str, new: str) -> None:
    before = gateway.services.config
    gateway.source.write_text(gateway.source.read_text().replace(old, new))
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: gateway.services.config is not before, "a reload")


async def test_usage_is_in_metrics_and_history_by_key(tmp_path: Path) -> None:
    node = RawNode(["m1"], answer=saying(whole(ANSWER)))
    async with limited(tmp_path, node, "requests_per_minute = 2") as (gateway, _):
        assert [(await ask(gateway)).status for _ in range(3)] == [200, 200, 429]
        assert (await ask(gateway, "b")).status == 200
        assert (await ask(gateway, "nobody")).status == 401
        metrics = await gateway.metrics()
        for line in (
            'cortex_key_requests_total{key="alice",outcome="ok"} 2.0',
            'cortex_key_requests_total{key="alice",outcome="error"} 1.0',
            'cortex_key_requests_total{key="bob",outcome="ok"} 1.0',
            'cortex_key_prompt_tokens_total{key="alice"} 1200.0',
            'cortex_key_completion_tokens_total{key="alice"} 1800.0',
            'cortex_key_refusals_total{key="alice",limit="requests"} 1.0',
            'cortex_request_errors_total{code="rate_limit_requests"} 1.0',
        ):
            assert line in metrics
        await gateway.flushed()
        rows = await gateway.get(
            "/cortex/v1/history", params={"client": "alice"}, headers=ADMIN
        )
        assert [(row["client"], row["error_code"]) for row in rows.json["rows"]] == [
            ("alice", "rate_limit_requests"),
            ("alice", None),
            ("alice", None),
        ]


async def test_without_keys_no_client_becomes_a_label(tmp_path: Path) -> None:
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        assert (await gateway.chat("m1")).status == 200
        assert "cortex_key_requests_total{" not in await gateway.metrics()


async def test_openais_sdk_reads_a_refusal(tmp_path: Path) -> None:
    openai = pytest.importorskip("openai")
    async with (
        limited(tmp_path, scripted(["m1"]), "requests_per_minute = 1") as (gateway, _),
        sdk(gateway, key="a") as client,
    ):
        messages: Any = [{"role": "user", "content": "hi"}]
        raw = await client.chat.completions.with_raw_response.create(
            model="m1", messages=messages
        )
        assert raw.headers["x-ratelimit-remaining-requests"] == "0"
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(model="m1", messages=messages)
        assert refused.value.code == "rate_limit_requests"
        assert refused.value.type == "rate_limit_error"
        assert refused.value.response.headers["retry-after"] == "60"


async def test_anthropics_sdk_reads_a_refusal_and_waits_as_told(tmp_path: Path) -> None:
    anthropic = pytest.importorskip("anthropic")
    async with limited(tmp_path, scripted(["m1"]), "requests_per_minute = 100") as (
        gateway,
        clock,
    ):
        client = anthropic.AsyncAnthropic(base_url=gateway.url, api_key="a", max_retries=0)
        async with client:
            asked: Any = {
                "model": "m1",
                "max_tokens": 9,
                "messages": [{"role": "user", "content": "hi"}],
            }
            for _ in range(100):
                await client.messages.create(**asked)
            with pytest.raises(anthropic.RateLimitError) as refused:
                await client.messages.create(**asked)
            headers = refused.value.response.headers
            assert headers["anthropic-ratelimit-requests-remaining"] == "0"
            assert headers["retry-after"] == "1"
            # With retries it comes through by itself, as soon as there is one more.
            again = client.with_options(max_retries=5)
            async with asyncio.TaskGroup() as group:
                answer = group.create_task(again.messages.create(**asked))
                before = gateway.services.recent.requests_total
                await until(
                    lambda: gateway.services.recent.requests_total > before, "the first try"
                )
                clock.time_s += 1
            assert answer.result().type == "message"


async def test_tokens_of_a_day_are_kept_over_a_restart_and_end_at_midnight(
    tmp_path: Path,
) -> None:
    node = RawNode(["m1"], answer=saying(whole(ANSWER)))
    async with node:
        async with running(tmp_path, [node], toml=keys("tokens_per_day = 2000")) as gateway:
            first = await ask(gateway)
            assert first.status == 200
            # Of 1,500 tokens, but they were not known when the head was made.
            assert first.headers["x-ratelimit-limit-tokens-day"] == "2000"
            second = await ask(gateway)
            assert second.status == 200
            assert second.headers["x-ratelimit-remaining-tokens-day"] == "500"
            refused = await ask(gateway, path=MESSAGES)
            assert refused.status == 429
            assert refused.headers["anthropic-ratelimit-tokens-day-remaining"] == "0"
            assert refused.headers["anthropic-ratelimit-tokens-day-reset"].endswith("00:00:00Z")
            await gateway.flushed()
        async with running(tmp_path, [node], toml=keys("tokens_per_day = 2000")) as gateway:
            refused = await ask(gateway)
            assert (refused.status, refused.code) == (429, "rate_limit_tokens_day")
            assert refused.headers["x-ratelimit-remaining-tokens-day"] == "0"
            assert 0 < int(refused.headers["Retry-After"]) <= 86_400
            assert [(await ask(gateway, key)).status for key in ("b", "boss")] == [200, 200]
            clock = Clock()
            real = gateway.services.quotas._clock
            clock.now_ms = lambda: real.now_ms() + 86_400_000  # type: ignore[method-assign]
            gateway.services.quotas._clock = clock
            assert [(await ask(gateway)).status for _ in range(3)] == [200, 200, 429]
