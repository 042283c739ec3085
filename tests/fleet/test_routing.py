"""Which of several copies answers: the idlest for its size, or the one that knows the conversation."""

from pathlib import Path
from typing import Any

import pytest

from tests.fleet.conftest import about, apart, held
from tests.gateway.conftest import scripted
from tests.running import Running, running

SLOW: dict[str, Any] = {"endless": True, "token_interval_s": 0.05}
LONG = "a system prompt that all turns share " * 20


async def asked(gateway: Running, headers: dict[str, str] | None = None, **body: Any) -> str:
    """The node that answers."""
    reply = await gateway.post(
        "/v1/chat/completions", apart(model="a", max_tokens=1) | body, headers=headers
    )
    assert reply.status == 200, reply.text
    return reply.headers["x-cortex-node"]


async def test_requests_go_where_fewest_are_in_flight(tmp_path: Path) -> None:
    async with (
        scripted(["a"], **SLOW) as one,
        scripted(["a"], **SLOW) as other,
        running(tmp_path, [one, other]) as gateway,
        held(gateway, "a", 6) as nodes,
    ):
        assert nodes == ["n0", "n1"] * 3
        assert [node["in_flight"] for node in (await gateway.status())["nodes"]] == [3, 3]
        lines = (await gateway.metrics()).splitlines()
        assert 'cortex_in_flight{model="a",node="n1"} 3.0' in lines


async def test_a_node_with_room_for_more_gets_more(tmp_path: Path) -> None:
    async with (
        scripted(["a"], **SLOW) as small,
        scripted(["a"], **SLOW) as large,
        running(
            tmp_path, [small, large], node_toml=["max_in_flight = 2", "max_in_flight = 6"]
        ) as gateway,
        held(gateway, "a", 4) as nodes,
    ):
        assert sorted(nodes) == ["n0", "n1", "n1", "n1"]
        async with held(gateway, "a", 4) as more:
            assert sorted(more) == ["n0", "n1", "n1", "n1"]


async def test_a_busy_node_of_another_model_is_avoided(tmp_path: Path) -> None:
    async with (
        scripted(["a", "b"], **SLOW) as one,
        scripted(["a"], **SLOW) as other,
        running(tmp_path, [one, other]) as gateway,
        held(gateway, "b") as busy,
        held(gateway, "a") as nodes,
    ):
        assert (busy, nodes) == (["n0"], ["n1"])


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"x-session-affinity": "s1"}, {}),
        ({"x-session-id": "s1"}, {}),
        ({"session-id": "s1"}, {}),
        ({"x-claude-code-session-id": "s1"}, {}),
        ({}, {"prompt_cache_key": "s1"}),
    ],
    ids=lambda given: next(iter(given), "") or None,
)
async def test_a_conversation_returns_to_the_node_that_is_warm_for_it(
    tmp_path: Path, headers: dict[str, str], body: dict[str, Any]
) -> None:
    async with (
        scripted(["a"]) as one,
        scripted(["a"]) as other,
        running(tmp_path, [one, other]) as gateway,
    ):
        assert await asked(gateway, headers, **about("turn one", **body)) == "n0"
        await one.set(**SLOW)
        async with held(gateway, "a") as nodes:
            assert nodes == ["n0"]
            await one.set(endless=False)
            # A stranger takes the idle node; who was here before does not.
            assert await asked(gateway, **apart()) == "n1"
            assert await asked(gateway, headers, **about("turn two", **body)) == "n0"


async def test_a_conversation_is_known_by_how_it_begins(tmp_path: Path) -> None:
    async with (
        scripted(["a"]) as one,
        scripted(["a"]) as other,
        running(tmp_path, [one, other]) as gateway,
    ):
        turns = [{"role": "system", "content": LONG}, {"role": "user", "content": "hi"}]
        assert await asked(gateway, messages=turns) == "n0"
        await one.set(**SLOW)
        async with held(gateway, "a"):
            await one.set(endless=False)
            turns += [{"role": "assistant", "content": "x"}, {"role": "user", "content": "go"}]
            assert await asked(gateway, messages=turns) == "n0"
            turns[0] = {"role": "system", "content": "another" + LONG}
            assert await asked(gateway, messages=turns) == "n1"


async def test_a_warm_node_that_is_much_busier_is_left(tmp_path: Path) -> None:
    session = {"x-session-id": "s1"}
    async with (
        scripted(["a"]) as one,
        scripted(["a"]) as other,
        running(
            tmp_path, [one, other], toml="[limits]\nmax_in_flight_per_model = 4"
        ) as gateway,
    ):
        assert await asked(gateway, session) == "n0"
        await one.set(**SLOW)
        # A quarter of its capacity busier than the idlest: still warm enough. Two quarters: not.
        async with held(gateway, "a", 2, session) as nodes:
            assert nodes == ["n0", "n0"]
            assert await asked(gateway, session) == "n1"


async def test_a_conversation_whose_node_is_gone_goes_on_elsewhere(tmp_path: Path) -> None:
    session = {"x-session-id": "s1"}
    async with (
        scripted(["a"]) as one,
        scripted(["a"]) as other,
        running(tmp_path, [one, other]) as gateway,
    ):
        assert await asked(gateway, session) == "n0"
        await one.stop()
        assert await asked(gateway, session) == "n1"
        assert [row["outcome"] for row in await gateway.history()] == ["ok", "ok"]


async def test_an_alias_is_served_by_the_model_it_stands_for(tmp_path: Path) -> None:
    toml = '[aliases]\n"small" = "a"\n[models."a"]\naliases = ["tiny"]'
    async with scripted(["a"]) as node, running(tmp_path, [node], toml=toml) as gateway:
        for alias in ("small", "tiny"):
            reply = await gateway.chat(alias)
            assert (reply.status, reply.headers["x-cortex-model"]) == (200, "a")
            assert reply.json["model"] == "a"
        assert dict(node.stats.requests) == {"a": 2}
        assert {row["model"] for row in await gateway.history()} == {"a"}
        [node_] = (await gateway.status())["nodes"]
        assert node_["models"][0]["aliases"] == ["small", "tiny"]


async def test_a_model_stays_on_the_nodes_it_may_run_on(tmp_path: Path) -> None:
    async with (
        scripted(["a"]) as one,
        scripted(["a"], unloaded=["a"]) as other,
        running(tmp_path, [one, other], toml='[models."a"]\nnodes = ["n1"]') as gateway,
    ):
        assert await asked(gateway) == "n1"
        assert dict(other.stats.loads) == {"a": 1}
        assert one.stats.started == 0
