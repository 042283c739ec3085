"""What the log says of loads: who wanted them, what else could have been done, what was read."""

from pathlib import Path
from typing import Any

from tests.fleet.conftest import apart
from tests.gateway.conftest import scripted
from tests.running import Running, running, until

SIZES = (
    '[models."a"]\nvram_mb = 8000\n[models."b"]\nvram_mb = 8000\n[models."c"]\nvram_mb = 8000\n'
)
SETTLED = "[eviction]\nmin_residency_s = 0\n"


async def of_kind(gateway: Running, kind: str, **query: str) -> list[Any]:
    return await gateway.events(kind=kind, **query)


async def test_a_load_names_its_request_and_the_next_best_ways(tmp_path: Path) -> None:
    async with (
        scripted(["a"], unloaded=["a"], vram_total_mib=20_000, size_mib=8000) as roomy,
        scripted(["a", "b"], unloaded=["a"], vram_total_mib=10_000, size_mib=8000) as tight,
        scripted(["a", "b"], unloaded=["a"], vram_total_mib=20_000, size_mib=8000) as fits,
        running(tmp_path, [roomy, tight, fits], toml=SIZES + SETTLED) as gateway,
    ):
        reply = await gateway.post(
            "/v1/chat/completions",
            apart(model="a"),
            headers={"x-request-id": "the-one"},
        )
        assert reply.status == 200, reply.text
        (load,) = await of_kind(gateway, "load")
        assert load["node"] == "n0"
        detail = load["detail"]
        assert (detail["by"], detail["request_id"], detail["strategy"]) == (
            "request",
            "the-one",
            "lru",
        )
        assert 0 <= detail["waited_ms"] < 10_000
        ways = [(way["node"], way["evict"], way["need_mib"]) for way in detail["alternatives"]]
        assert ways == [("n2", [], 8000), ("n1", ["b"], 8000)]


async def test_a_load_says_what_was_read_there_since_its_file_was_read(tmp_path: Path) -> None:
    async with (
        scripted(
            ["a", "b", "c"], unloaded=["a", "b", "c"], vram_total_mib=10_000, size_mib=8000
        ) as node,
        running(tmp_path, [node], toml=SIZES + SETTLED) as gateway,
    ):
        for model in ("a", "b", "c", "a", "a", "b"):
            assert (await gateway.chat(model)).status == 200
        loaded = [
            tuple(row["detail"][what] for what in ("size_mib", "read_since_mib", "warm"))
            for row in await of_kind(gateway, "loaded", model="a")
        ]
        # The machine has 64 GiB.
        assert loaded == [(8000, None, None), (8000, 16_000, True)]
        loaded = [
            (row["model"], row["detail"]["read_since_mib"])
            for row in await of_kind(gateway, "loaded", model="b")
        ]
        assert loaded == [("b", None), ("b", 16_000)]
        evicted = await of_kind(gateway, "evict")
        assert [row["model"] for row in evicted] == ["a", "b", "c", "a"]
        first = evicted[0]
        assert first["reason"] == "to make room for b"
        assert first["detail"]["load_s"] >= 0
        assert first["detail"]["idle_s"] >= 0
    # It is remembered over a restart of the gateway.
    async with (
        scripted(["b", "a"], unloaded=["a"], vram_total_mib=10_000, size_mib=8000) as node,
        running(tmp_path, [node], toml=SIZES + SETTLED) as gateway,
    ):
        assert (await gateway.chat("a")).status == 200
        newest = (await of_kind(gateway, "loaded"))[-1]
        assert (newest["model"], newest["detail"]["read_since_mib"]) == ("a", 8000)


async def test_a_size_that_was_not_known_is_told_once_it_is_measured(tmp_path: Path) -> None:
    async with (
        scripted(["a"], unloaded=["a"], size_mib=3000, vram_total_mib=10_000) as node,
        running(tmp_path, [node]) as gateway,
    ):
        asked = []
        for _ in range(2):
            asked.append(await gateway.chat("a"))
            assert asked[-1].status == 200
            assert (
                await gateway.post("/cortex/v1/models/unload", {"model": "a"})
            ).status == 200
        sized = await of_kind(gateway, "sized")
        assert [row["detail"] for row in sized] == [
            {
                "taken_mib": 3000,
                "expected_mib": None,
                "guess_mib": None,
                "request_id": asked[0].headers["x-request-id"],
            }
        ]
        loads = [row["detail"] for row in await of_kind(gateway, "loaded")]
        assert [(d["size_mib"], d["read_since_mib"]) for d in loads] == [
            (None, None),
            (3000, 0),
        ]


async def test_a_guess_is_told_as_one_and_how_far_off_it_was(tmp_path: Path) -> None:
    """Nobody has seen B: it is taken to be as large as A, the largest there."""
    async with (
        scripted(["a", "b"], unloaded=["a", "b"], size_mib={"a": 4000, "b": 3200}) as node,
        running(tmp_path, [node]) as gateway,
    ):
        assert (await gateway.chat("a")).status == 200
        asked = await gateway.chat("b")
        assert asked.status == 200

        async def sized() -> bool:
            return len(await of_kind(gateway, "sized")) == 2

        await until(sized, "both sizes")
        first, second = await of_kind(gateway, "load")
        assert (first["detail"]["guess_mib"], first["detail"]["guess"]) == (None, None)
        assert second["detail"]["need_mib"] is None
        assert (second["detail"]["guess_mib"], second["detail"]["guess"]) == (
            4000,
            "the size of a",
        )
        assert (await of_kind(gateway, "sized"))[1]["detail"] == {
            "taken_mib": 3200,
            "expected_mib": None,
            "guess_mib": 4000,
            "request_id": asked.headers["x-request-id"],
        }
        lines = (await gateway.metrics()).splitlines()
        assert "cortex_model_size_guess_error_ratio_count 1.0" in lines
        assert "cortex_model_size_guess_error_ratio_sum 0.25" in lines


async def test_operators_and_pins_are_told_apart_from_requests(tmp_path: Path) -> None:
    async with (
        scripted(["a", "b"], unloaded=["a", "b"], vram_total_mib=20_000, size_mib=8000) as node,
        running(tmp_path, [node], toml=SIZES) as gateway,
    ):
        assert (await gateway.post("/cortex/v1/models/load", {"model": "a"})).status == 200
        assert (await gateway.post("/cortex/v1/models/pin", {"model": "b"})).status == 200

        async def both() -> bool:
            return len(await of_kind(gateway, "loaded")) == 2

        await until(both, "the pinned model")
        loads = await of_kind(gateway, "load")
        said = [
            (row["model"], row["detail"]["by"], row["detail"]["request_id"]) for row in loads
        ]
        assert said == [("a", "operator", None), ("b", "pin", None)]


async def test_a_start_and_a_reload_say_how_the_fleet_is_configured(tmp_path: Path) -> None:
    toml = SIZES.replace("vram_mb = 8000", 'vram_mb = 8000\npriority = 7\nnodes = ["n0"]', 1)
    async with (
        scripted(["a"], vram_total_mib=20_000) as node,
        running(tmp_path, [node], toml=toml, node_toml=['pinned = ["a"]']) as gateway,
    ):
        source = gateway.source.read_text()
        changed = source.replace("priority = 7", "priority = 8") + SETTLED
        gateway.source.write_text(changed + "[limits]\nmax_queue = 9\n")
        gateway.daemon._reload()
        (event,) = await of_kind(gateway, "config")
        detail = event["detail"]
        assert detail["nodes"] == {
            "n0": {
                "vram_mib": 20_000,
                "ram_mib": 65_536,
                "max_in_flight": None,
                "lifecycle": "auto",
            }
        }
        assert detail["models"]["a"] == {
            "size_mib": 8000,
            "priority": 8,
            "pinned": ["n0"],
            "max_in_flight": None,
            "idle_unload_s": None,
            "max_copies": None,
            "allowed": ["n0"],
        }
        assert detail["eviction"] == {"strategy": "lru", "min_residency_s": 0.0}
        assert detail["limits"]["max_queue"] == 9
    # A node that has not answered yet is as large as it was when it last did.
    async with running(tmp_path, [node], settled=False) as gateway:
        start = (await of_kind(gateway, "start"))[-1]
        assert start["detail"]["nodes"]["n0"]["vram_mib"] == 20_000
        assert start["detail"]["nodes"]["n0"]["ram_mib"] == 65_536
