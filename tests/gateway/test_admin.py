"""The admin API: the fleet's status, the request log, the events, and pins."""

from pathlib import Path

import pytest

from cortex import __version__
from cortex.adminapi import EventRow, HistoryRow, StatusBody
from tests.gateway.conftest import chat_body, scripted, stream
from tests.running import Running, running

HISTORY = "/cortex/v1/history"
PIN, UNPIN = "/cortex/v1/models/pin", "/cortex/v1/models/unpin"


async def test_status_shows_every_node_and_model(tmp_path: Path) -> None:
    async with (
        scripted({"m1": 2048, "m2": 1024}, unloaded=["m2"]) as node,
        running(
            tmp_path,
            [node],
            toml='[aliases]\nsmall = "m2"\n[eviction]\ndefrag_after_cycles = 7',
            node_toml=["max_in_flight = 5\nvram_mb = 20_000"],
        ) as gateway,
    ):
        await gateway.chat("small", max_tokens=1)
        status = StatusBody.model_validate(await gateway.status())
        assert (status.version, status.health.status) == (__version__, "ok")
        assert (status.in_flight, status.queued, status.requests_total) == (0, 0, 1)
        assert (status.draining, status.store.ok) == (False, True)
        assert 0 <= status.uptime_s < 30
        [seen] = status.nodes
        assert (seen.name, seen.endpoint, seen.health) == ("n0", node.url, "up")
        assert (seen.version, seen.max_in_flight, seen.cycles) == ("0.9.2", 5, 0)
        assert (seen.defrag_after_cycles, seen.defrag_due) == (7, False)
        assert (seen.vram_total_mib, seen.may_load) == (20_000, True)
        assert 0 <= seen.last_poll_age_s < 5
        models = {model.model: model for model in seen.models}
        assert {name: model.status for name, model in models.items()} == {
            "m1": "loaded",
            "m2": "loaded",
        }
        assert models["m2"].aliases == ["small"]
        assert (models["m2"].loads, models["m1"].loads) == (1, 0)
        assert models["m2"].last_used_at_ms >= status.started_at_ms
        assert models["m2"].breaker_open is False


async def some_history(gateway: Running) -> None:
    """Oldest first: m1 ok, m2 ok and streamed, unknown model, bad request."""
    await gateway.chat("m1", max_tokens=1)
    await stream(gateway.http, gateway.url, chat_body("m2", stream=True, max_tokens=3))
    await gateway.chat("m3")
    await gateway.post("/v1/embeddings", {}, headers={"User-Agent": "other/1"})
    await gateway.flushed()


async def test_history_is_newest_first_and_filtered(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as one,
        scripted(["m2"]) as other,
        running(tmp_path, [one, other]) as gateway,
    ):
        await some_history(gateway)
        rows = await gateway.history()
        assert [HistoryRow.model_validate(row).route for row in rows] == [
            "embeddings",
            "chat",
            "chat",
            "chat",
        ]
        ids = [row["id"] for row in rows]
        assert ids == sorted(ids, reverse=True)
        assert rows[2]["dialect"] == "openai"

        async def found(**query: str) -> list[int]:
            return [ids.index(row["id"]) for row in await gateway.history(**query)]

        assert await found(limit="2") == [0, 1]
        assert await found(model="m1") == [3]
        assert await found(node="n1") == [2]
        assert await found(client="other/1") == [0]
        assert await found(outcome="ok") == [2, 3]
        assert await found(outcome="error") == [0, 1]
        assert await found(outcome="model_not_found") == [1]
        assert await found(outcome="ok", model="m2", node="n1") == [2]
        assert await found(slow_ms="60000") == []
        assert await found(since_ms=str(rows[0]["started_at_ms"] + 60_000)) == []
        assert await found(until_ms=str(rows[3]["started_at_ms"])) == []
        # Following reads on from an id, oldest first.
        assert await found(after_id=str(ids[2])) == [1, 0]


async def test_history_goes_on_where_an_answer_ended(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as one,
        scripted(["m2"]) as other,
        running(tmp_path, [one, other]) as gateway,
    ):
        await some_history(gateway)
        everything = (await gateway.get("/cortex/v1/history")).json
        assert everything["next"] is None
        assert everything["last_id"] == everything["rows"][0]["id"]
        rows, before = [], None
        while True:
            asked = {"limit": "3"} | ({"before": before} if before else {})
            page = (await gateway.get("/cortex/v1/history", params=asked)).json
            rows += page["rows"]
            before = page["next"]
            if before is None:
                break
        assert rows == everything["rows"]
        for wrong in ("1", "a-b", "1-2-3", "9" * 40 + "-1"):
            refused = await gateway.get("/cortex/v1/history", params={"before": wrong})
            assert (refused.status, refused.json["error"]["param"]) == (400, "before")

        events = (await gateway.get("/cortex/v1/events", params={"limit": "2"})).json
        after = (
            await gateway.get("/cortex/v1/events", params={"before_id": str(events["next"])})
        ).json
        assert events["rows"][-1]["id"] == events["next"] > after["rows"][0]["id"]


async def test_statistics_are_per_model(tmp_path: Path) -> None:
    async with (
        scripted(["m1", "m2"]) as node,
        running(tmp_path, [node]) as gateway,
    ):
        await some_history(gateway)
        rows = (await gateway.get("/cortex/v1/history/stats")).json["rows"]
        by_model = {row["model"]: row for row in rows}
        assert by_model["m1"]["requests"] == 1
        assert by_model["m1"]["ttft_p50_ms"] is None
        assert by_model["m2"]["completion_tokens"] == 3
        assert by_model["m2"]["ttft_p50_ms"] > 0
        assert (by_model[None]["requests"], by_model[None]["errors"]) == (2, 2)
        only = (await gateway.get("/cortex/v1/history/stats", params={"model": "m2"})).json
        assert [row["model"] for row in only["rows"]] == ["m2"]


@pytest.mark.parametrize("path", [HISTORY, "/cortex/v1/history/stats", "/cortex/v1/events"])
@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "10001"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"since_ms": "yesterday"}, "since_ms"),
        ({"modell": "m1"}, "modell"),
    ],
)
async def test_a_query_that_makes_no_sense_is_a_400(
    shared: Running, path: str, query: dict[str, str], param: str
) -> None:
    reply = await shared.get(path, params=query)
    assert (reply.status, reply.code) == (400, "invalid_request")
    assert reply.json["error"]["param"] == param


async def test_events_say_what_happened_and_why(tmp_path: Path) -> None:
    async with (
        scripted(["m1", "m2"], unloaded=["m2"]) as node,
        running(tmp_path, [node]) as gateway,
    ):
        await gateway.chat("m2")
        events = [EventRow.model_validate(row) for row in await gateway.events()]
        kinds = [event.kind for event in events]
        assert kinds.index("node_up") < kinds.index("load") < kinds.index("loaded")
        assert "start" in kinds
        [load] = [event for event in events if event.kind == "load"]
        assert (load.node, load.model) == ("n0", "m2")
        assert load.reason
        newest = (await gateway.get("/cortex/v1/events", params={"limit": "1"})).json["rows"]
        assert [row["id"] for row in newest] == [events[-1].id]
        for query, wanted in (
            ({"kind": "load"}, {"load"}),
            ({"model": "m2"}, {"load", "loaded", "sized"}),
            ({"node": "n9"}, set()),
            ({"after_id": str(events[-1].id)}, set()),
        ):
            assert {row["kind"] for row in await gateway.events(**query)} == wanted


async def test_a_pin_is_kept_over_a_restart_until_it_is_undone(tmp_path: Path) -> None:
    async with scripted(["m1"]) as one, scripted(["m1", "m2"]) as other:
        async with running(tmp_path, [one, other]) as gateway:
            reply = await gateway.post(PIN, {"model": "m1", "node": "n1"})
            assert reply.status == 200
            assert [(m["node"], m["pinned"]) for m in reply.json["models"]] == [
                ("n0", False),
                ("n1", True),
            ]
            assert [event["kind"] for event in await gateway.events(kind="pin")] == ["pin"]
        async with running(tmp_path, [one, other]) as gateway:
            assert await pins(gateway) == {("n1", "m1")}
            reply = await gateway.post(UNPIN, {"model": "m1", "node": "n1"})
            assert not any(m["pinned"] for m in reply.json["models"])
        async with running(tmp_path, [one, other]) as gateway:
            assert await pins(gateway) == set()


async def test_a_pin_may_be_given_by_alias_and_without_a_node(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], toml='[aliases]\nsmall = "m1"') as gateway,
    ):
        assert (await gateway.post(PIN, {"model": "small"})).status == 200
        assert await pins(gateway) == {("n0", "m1")}


async def pins(gateway: Running) -> set[tuple[str, str]]:
    return {
        (model["node"], model["model"])
        for node in (await gateway.status())["nodes"]
        for model in node["models"]
        if model["pinned"]
    }


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "zzz"}, 404, "model_not_found"),
        ({"model": "m1", "node": "n9"}, 400, "invalid_request"),
        ({"model": "m1", "nodes": "n0"}, 400, "invalid_request"),
        ({"model": 1}, 400, "invalid_request"),
        ({}, 400, "invalid_request"),
        ([], 400, "invalid_request"),
        ("{", 400, "invalid_json"),
        ("\xff", 400, "invalid_json"),
        ("x" * 65_537, 400, "invalid_request"),
        ("", 400, "invalid_json"),
        ("[" * 60_000, 400, "invalid_json"),
    ],
    ids=lambda value: repr(value)[:30],
)
@pytest.mark.parametrize("path", [PIN, UNPIN])
async def test_a_pin_that_makes_no_sense_changes_nothing(
    shared: Running, path: str, body: object, status: int, code: str
) -> None:
    if isinstance(body, str):
        reply = await shared.post(path, json=None, data=body.encode("latin-1"))
    else:
        reply = await shared.post(path, json=body)
    assert (reply.status, reply.code) == (status, code), reply.text
    assert await pins(shared) == set()
