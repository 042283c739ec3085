"""Failures reach users of the OpenAI SDK as the exceptions they already handle."""

import asyncio
from pathlib import Path

import pytest

from tests.gateway.conftest import scripted, sdk
from tests.running import Running, running, until
from tests.sdks import openai

HI = [{"role": "user", "content": "hi"}]
TURNS_TO_429 = "[limits]\nmax_in_flight_per_model = 1\nmax_queue = 1"


async def refusal(
    gateway: Running, model: str = "m1", **more: object
) -> "openai.APIStatusError":
    """The exception that a chat ends in."""
    async with sdk(gateway) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model=model, **({"messages": HI} | more))
    return caught.value


async def test_an_unknown_model_is_not_found_and_near_names_are_given(tmp_path: Path) -> None:
    toml = '[aliases]\nlittle = "org/large-model"'
    async with (
        scripted(["org/large-model", "other"]) as node,
        running(tmp_path, [node], toml=toml) as gateway,
    ):
        error = await refusal(gateway, "org/large-mode")
        assert type(error) is openai.NotFoundError
        assert (error.code, error.param) == ("model_not_found", "model")
        assert "did you mean org/large-model" in error.message
        assert "other" not in error.message
        assert "did you mean little" in (await refusal(gateway, "litle")).message
        assert "did you mean" not in (await refusal(gateway, "zzz")).message
        assert not node.stats.started


async def test_an_unknown_model_is_not_retrieved(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node]) as gateway,
        sdk(gateway) as client,
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            await client.models.retrieve("m2")
        assert caught.value.code == "model_not_found"


async def test_a_callers_mistake_is_a_bad_request_though_the_node_says_500(
    tmp_path: Path,
) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    mistake = [{"role": "user", "content": [part]}]
    async with (
        scripted(["m1"]) as node,
        scripted(["m1"]) as other,
        running(tmp_path, [node, other]) as gateway,
    ):
        error = await refusal(gateway, messages=mistake)
        assert type(error) is openai.BadRequestError
        assert error.code == "invalid_request"
        assert "The image format could not be determined" in error.message
        assert error.response.headers["x-should-retry"] == "false"
        # One attempt: no other node is bothered with it.
        [row] = await gateway.history()
        assert (row["outcome"], row["error_code"]) == ("error", "invalid_request")
        assert (row["status"], row["attempts"]) == (400, 1)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_prompt_that_is_too_long_is_a_bad_request(
    tmp_path: Path, streamed: bool
) -> None:
    async with (
        scripted(["m1"], context_tokens=1) as node,
        running(tmp_path, [node]) as gateway,
    ):
        error = await refusal(
            gateway, messages=[{"role": "user", "content": "long " * 50}], stream=streamed
        )
        assert type(error) is openai.BadRequestError
        assert error.code == "context_length_exceeded"


async def test_an_unknown_previous_response_is_a_bad_request(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node]) as gateway,
        sdk(gateway) as client,
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(
                model="m1", input="hi", previous_response_id="resp_gone"
            )
        assert caught.value.code == "previous_response_not_found"
        assert caught.value.param == "previous_response_id"
        assert not node.stats.started


async def test_a_response_that_nobody_has_is_not_found(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node]) as gateway,
        sdk(gateway) as client,
    ):
        with pytest.raises(openai.NotFoundError) as never:
            await client.responses.retrieve("resp_never")
        made = await client.responses.create(model="m1", input="hi", max_output_tokens=1)
        node.responses.clear()
        with pytest.raises(openai.NotFoundError) as gone:
            await client.responses.retrieve(made.id)
        assert [never.value.code, gone.value.code] == ["response_not_found"] * 2


async def test_a_wrong_key_is_an_authentication_error(tmp_path: Path) -> None:
    toml = '[auth]\nkeys = [{name = "me", key = "right"}]'
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], toml=toml) as gateway,
    ):
        async with sdk(gateway, "wrong") as client:
            with pytest.raises(openai.AuthenticationError) as caught:
                await client.models.list()
        assert caught.value.code == "invalid_api_key"
        async with sdk(gateway, "right") as client:
            assert [model.id async for model in client.models.list()] == ["m1"]


async def test_a_full_queue_is_a_rate_limit_with_a_time_to_wait(tmp_path: Path) -> None:
    async with (
        scripted(["m1"], answer_delay_s=60) as node,
        running(tmp_path, [node], toml=TURNS_TO_429) as gateway,
        asyncio.TaskGroup() as group,
    ):
        running_one = group.create_task(gateway.chat("m1"))
        await until(lambda: node.stats.started == 1, "the first to run")
        waiting = group.create_task(gateway.chat("m1"))
        await until(lambda: gateway.services.fleet.depth() == 1, "the second to wait")
        error = await refusal(gateway)
        assert type(error) is openai.RateLimitError
        assert error.code == "queue_full"
        assert int(error.response.headers["retry-after"]) >= 1
        for task in (waiting, running_one):
            task.cancel()


async def test_nobody_up_is_a_503_with_a_time_to_wait(tmp_path: Path) -> None:
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        await node.set(refuse=True)
        node._sever()
        first = await refusal(gateway)
        assert type(first) is openai.InternalServerError
        assert (first.status_code, first.code) == (502, "node_unreachable")
        # Which node it was helps; where it lives is nobody's business.
        assert "n0: Connection refused" in first.message
        assert str(node.port) not in first.message
        then = await refusal(gateway)
        assert type(then) is openai.InternalServerError
        assert (then.status_code, then.code) == (503, "no_healthy_node")
        assert int(then.response.headers["retry-after"]) >= 1
        assert "x-should-retry" not in then.response.headers


async def test_a_model_that_can_never_fit_is_refused_at_once_with_the_numbers(
    tmp_path: Path,
) -> None:
    async with (
        scripted({"m1": 1024, "huge": 99_000}, unloaded=["huge"]) as node,
        running(
            tmp_path,
            [node],
            toml="[models.huge]\nvram_mb = 99_000",
            node_toml=["vram_mb = 24_576"],
        ) as gateway,
    ):
        error = await refusal(gateway, "huge")
        assert (error.status_code, error.code) == (503, "model_never_fits")
        assert "99000" in error.message
        assert "24576" in error.message
        assert not node.stats.reload_posts


async def test_a_failure_in_mid_stream_is_raised_out_of_the_stream(tmp_path: Path) -> None:
    async with (
        scripted(["m1"], error_event_after=3) as node,
        running(tmp_path, [node]) as gateway,
        sdk(gateway) as client,
    ):
        streamed = await client.chat.completions.create(
            model="m1", messages=HI, max_tokens=9, stream=True
        )
        for _ in range(3):
            assert (await anext(streamed)).choices[0].delta.content
        with pytest.raises(openai.APIError) as caught:
            await anext(streamed)
        assert caught.value.code == "node_error"
        assert caught.value.message == "node n0: scripted engine failure"
