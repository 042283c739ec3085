"""`/v1/models`, `/health` and `/ready`: what there is, and what is wrong with it."""

import asyncio
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from cortex import __version__
from tests.gateway.conftest import chat_body, scripted
from tests.node.rawnode import RawNode, saying, silence, whole
from tests.running import Running, free_port, running, until

ANTHROPIC = {"anthropic-version": "2023-06-01"}
SOON = "[polling]\ninterval_s = 0.05\ntimeout_s = 0.5\nfailures_before_down = 2"


async def listed(gateway: Running) -> dict[str, Any]:
    return {entry["id"]: entry for entry in (await gateway.get("/v1/models")).json["data"]}


async def test_the_catalogue_merges_all_nodes(tmp_path: Path) -> None:
    async with (
        scripted(["org/a", "b"], unloaded=["b"]) as one,
        scripted(["b"]) as other,
        running(
            tmp_path,
            [one, other],
            toml='[aliases]\nshort = "org/a"\nnowhere = "absent"',
            node_toml=['pinned = ["org/a"]'],
        ) as gateway,
    ):
        body = (await gateway.get("/v1/models")).json
        assert body["object"] == "list"
        models = await listed(gateway)
        assert list(models) == ["b", "org/a", "short"]
        assert models["b"] == {
            "id": "b",
            "object": "model",
            "created": min(one.created_s, other.created_s),
            "owned_by": "local",
            "status": "loaded",
            "locations": [
                {"node": "n0", "status": "unloaded", "pinned": False, "in_flight": 0},
                {"node": "n1", "status": "loaded", "pinned": False, "in_flight": 0},
            ],
            "modalities": ["chat"],
            "sources": {"modalities": "node n0"},
        }
        assert models["org/a"]["locations"][0]["pinned"] is True
        assert models["short"] == models["org/a"] | {"id": "short", "parent": "org/a"}
        assert (await gateway.get("/v1/models/org/a")).json == models["org/a"]
        assert (await gateway.get("/v1/models/org%2Fa")).json == models["org/a"]


async def test_what_runs_now_is_counted_where_it_runs(tmp_path: Path) -> None:
    async with (
        scripted(["m1"], endless=True, token_interval_s=0.01) as node,
        running(tmp_path, [node]) as gateway,
        gateway.http.post(
            gateway.url + "/v1/chat/completions", json=chat_body(stream=True)
        ) as response,
    ):
        await response.content.readany()
        assert (await listed(gateway))["m1"]["locations"][0]["in_flight"] == 1


async def test_anthropics_clients_get_anthropics_list(tmp_path: Path) -> None:
    async with (
        scripted([f"m{n}" for n in range(5)]) as node,
        running(tmp_path, [node]) as gateway,
    ):

        async def page(**query: str) -> tuple[list[str], bool]:
            reply = await gateway.get("/v1/models", params=query, headers=ANTHROPIC)
            body = reply.json
            ids = [entry["id"] for entry in body["data"]]
            assert (body["first_id"], body["last_id"]) == (
                (ids[0], ids[-1]) if ids else (None, None)
            )
            return ids, body["has_more"]

        assert await page() == (["m0", "m1", "m2", "m3", "m4"], False)
        assert await page(limit="2") == (["m0", "m1"], True)
        assert await page(limit="2", after_id="m1") == (["m2", "m3"], True)
        assert await page(limit="2", after_id="m3") == (["m4"], False)
        assert await page(after_id="m4") == ([], False)
        one = (await gateway.get("/v1/models/m1", headers=ANTHROPIC)).json
        assert set(one) == {"type", "id", "display_name", "created_at"}
        assert (one["type"], one["id"], one["display_name"]) == ("model", "m1", "m1")
        assert one["created_at"].endswith("Z")
        for limit in ("0", "1001", "many"):
            refused = await gateway.get(
                "/v1/models", params={"limit": limit}, headers=ANTHROPIC
            )
            assert refused.status == 400
            assert refused.json["error"]["type"] == "invalid_request_error"


async def test_anthropics_list_can_be_walked_backwards(tmp_path: Path) -> None:
    async with (
        scripted([f"m{n}" for n in range(5)]) as node,
        running(tmp_path, [node]) as gateway,
    ):
        query = {"limit": "2", "before_id": "m4"}
        body = (await gateway.get("/v1/models", params=query, headers=ANTHROPIC)).json
        # The page that ends where the one before began.
        assert [entry["id"] for entry in body["data"]] == ["m2", "m3"]
        assert body["has_more"] is True


async def test_an_answer_says_where_it_came_from(tmp_path: Path) -> None:
    async with (
        scripted(["m1", "m2"], unloaded=["m2"]) as node,
        running(tmp_path, [node], toml='[aliases]\nsmall = "m2"') as gateway,
    ):
        for cold in ("true", "false"):
            reply = await gateway.chat("small", max_tokens=1)
            assert reply.headers["x-cortex-node"] == "n0"
            assert reply.headers["x-cortex-model"] == "m2"
            assert reply.headers["x-cortex-cold-start"] == cold
        assert node.stats.loads == {"m2": 1}


async def test_health_names_what_is_wrong(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as one,
        scripted(["m1", "m2"]) as other,
        running(tmp_path, [one, other], toml=SOON) as gateway,
    ):
        well = await gateway.get("/health")
        assert (well.status, well.json) == (
            200,
            {"status": "ok", "reasons": [], "warnings": [], "version": __version__},
        )
        await other.stop()

        async def unserved() -> bool:
            return bool((await gateway.get("/health")).json["status"] == "impaired")

        await until(unserved, "the loss to show")
        ill = await gateway.get("/health")
        assert ill.status == 200
        assert ill.json["reasons"][0] == "model m2 cannot be served by any node"
        assert ill.json["reasons"][1].startswith("node n1 is down")
        assert len(ill.json["reasons"]) == 2
        assert (await listed(gateway))["m2"]["status"] == "unavailable"
        assert (await listed(gateway))["m1"]["status"] == "loaded"


async def test_health_is_degraded_while_every_model_is_still_served(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as one,
        scripted(["m1"]) as other,
        running(tmp_path, [one, other], toml=SOON) as gateway,
    ):
        await other.stop()

        async def degraded() -> bool:
            return bool((await gateway.get("/health")).json["status"] == "degraded")

        await until(degraded, "the loss to show")


async def test_health_names_a_store_that_takes_nothing(tmp_path: Path) -> None:
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:

        async def told() -> bool:
            # Something to be written, which another program's lock forbids.
            assert (await gateway.chat("m1")).status == 200
            health = (await gateway.get("/health")).json
            named = any(reason.startswith("store: ") for reason in health["reasons"])
            return health["status"] == "degraded" and named

        with closing(
            sqlite3.connect(
                tmp_path / "cortex.db", isolation_level=None, check_same_thread=False
            )
        ) as other:
            # In a thread: the store's open transaction ends only while the loop turns.
            await asyncio.to_thread(other.execute, "BEGIN EXCLUSIVE")
            await until(told, "the store to be named")
            other.execute("ROLLBACK")


async def test_ready_waits_for_the_first_answer_of_every_node(tmp_path: Path) -> None:
    node = RawNode(["m1"], routes={"/v1/models": silence})
    async with node, running(tmp_path, [node], toml=SOON, settled=False) as gateway:
        reply = await gateway.get("/ready")
        assert reply.status == 503
        assert reply.json == {
            "ready": False,
            "reason": "waiting for the first answers of the nodes",
        }
        node.routes["/v1/models"] = saying(whole(b'{"data":[]}'))

        async def ready() -> bool:
            return (await gateway.get("/ready")).json == {"ready": True}

        await until(ready, "the poll that hangs to end")


async def test_a_node_that_is_down_from_the_start_does_not_hold_up_the_rest(
    tmp_path: Path,
) -> None:
    dead = RawNode(port=free_port())
    async with scripted(["m1"]) as node, running(tmp_path, [node, dead]) as gateway:
        assert (await gateway.get("/ready")).status == 200
        assert (await gateway.chat("m1")).status == 200
        health = (await gateway.get("/health")).json
        assert health["status"] == "degraded"
        assert re.match("node n1 is (unknown|down)", health["reasons"][0])
