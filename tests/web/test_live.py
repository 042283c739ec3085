"""`/cortex/v1/live` over real sockets: states and changes, keys, readers that do not read."""

import asyncio
import gc
import json
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cortex.adminapi import EventQuery
from cortex.core.ids import ModelId, NodeName
from cortex.core.records import EventKind
from cortex.fleet.verdict import SERVED
from cortex.gateway import live
from cortex.gateway.live import Live
from cortex.gateway.page import static_files
from cortex.liveapi import LiveFrame
from tests.gateway.conftest import chat_body, scripted, stream
from tests.running import Running, running, until

PATH = "/cortex/v1/live"
KEYS = """[auth]
keys = [{name = "boss", key = "admin-key", role = "admin"}, {name = "app", key = "client-key"}]
"""


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


class Follower:
    """A reader that keeps the state as it is told."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.kinds: list[str] = []
        self.frames: list[Any] = []
        self.sizes: list[int] = []
        self.state: dict[str, dict[str, Any]] = {}
        self.fleet: Any = None
        self.events: list[Any] = []

    async def next(self) -> Any:
        async with asyncio.timeout(10):
            while (block := await self.response.content.readuntil(b"\n\n")).startswith(b":"):
                pass
        kind, data = block.decode().strip().split("\n")
        frame = json.loads(data.removeprefix("data: "))
        LiveFrame.model_validate(frame)
        self.kinds.append(kind.removeprefix("event: "))
        self.frames.append(frame)
        self.sizes.append(len(block))
        if self.kinds[-1] == "state":
            self.state = {}
        self.fleet = frame.get("fleet", self.fleet)
        self.events += frame.get("events", [])
        for section in ("nodes", "models", "requests", "queues"):
            entries = self.state.setdefault(section, {})
            for key, entry in frame.get(section, {}).items():
                if entry is None:
                    entries.pop(key, None)
                else:
                    entries[key] = entry
        return frame

    async def until(self, holds: Any) -> None:
        while not holds():
            await self.next()


@asynccontextmanager
async def following(gateway: Running, **kwargs: Any) -> AsyncIterator[Follower]:
    async with gateway.http.get(gateway.url + PATH, **kwargs) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        follower = Follower(response)
        await follower.next()
        yield follower


async def test_first_everything_then_what_changed(tmp_path: Path) -> None:
    async with (
        scripted(
            {"m1": 3000, "m2": 4000}, unloaded=["m2"], load_s=0.6, vram_total_mib=8192
        ) as node,
        running(tmp_path, [node], toml='[models]\n[models."m2"]\nvram_mb = 4000\n') as gateway,
        following(gateway) as reader,
    ):
        assert reader.kinds == ["state"]
        assert reader.fleet["health"]["status"] == "ok"
        assert set(reader.state["models"]) == {"n0/m1", "n0/m2"}
        node0 = reader.state["nodes"]["n0"]
        assert (node0["vram_total_mib"], node0["vram_used_mib"]) == (8192, 3000)
        assert (node0["sizes_known"], node0["vram_outside_mib"]) == (False, 3000)
        # A node in the feed has no models of its own, and no ages, which always change.
        assert not {"models", "agent_age_s", "last_poll_age_s"} & set(node0)

        async with asyncio.TaskGroup() as group:
            group.create_task(gateway.post("/cortex/v1/models/load", {"model": "m2"}))
            await reader.until(lambda: reader.state["models"]["n0/m2"]["status"] == "loading")
            await reader.until(lambda: reader.state["nodes"]["n0"]["vram_reserved_mib"] == 4000)
            await reader.until(lambda: reader.state["models"]["n0/m2"]["status"] == "loaded")
        await reader.until(lambda: any(row["kind"] == "loaded" for row in reader.events))
        assert set(reader.kinds[1:]) == {"change"}
        # What did not change was not told again.
        assert all("n0/m1" not in frame.get("models", {}) for frame in reader.frames[1:])
        await reader.until(lambda: reader.state["nodes"]["n0"]["vram_reserved_mib"] == 0)
        assert reader.state["nodes"]["n0"]["vram_known_mib"] == 4000
        assert reader.events[0]["kind"] == "start"
        # Of a start with all its nodes and models, only what is read here.
        assert reader.events[0]["detail"] == {}
        assert {"evict", "strategy"} <= next(
            row["detail"] for row in reader.events if row["kind"] == "load"
        ).keys()
        ids = [row["id"] for row in reader.events]
        assert ids == sorted(set(ids))


async def test_an_event_that_is_read_and_followed_is_told_once(tmp_path: Path) -> None:
    """It is committed after the subscription and before the store is read."""
    async with scripted(["m1"]) as node, running(tmp_path, [node]) as gateway:
        ledger = gateway.daemon._services.ledger
        told = Live(gateway.daemon._services)
        await told.enter()

        async def written() -> bool:
            told._past = (await ledger.events(EventQuery(limit=9))).rows[::-1]
            return len(told._past) >= 2

        await until(written, "the events of the start")
        told._follower._rows.extend(told._past)
        ids = [row.id for row in told._new_events()]
        assert ids == sorted(set(ids))
        told.leave()


async def test_a_load_under_way_is_no_outside_use(tmp_path: Path) -> None:
    """Of 3000 MiB in use 1000 are not the model's; a load fills memory, and that is not others' use."""
    toml = '[models]\n[models."m1"]\nvram_mb = 2000\n[models."m2"]\nvram_mb = 4000\n'
    async with (
        scripted(
            {"m1": 3000, "m2": 4000}, unloaded=["m2"], load_s=0.8, vram_total_mib=9000
        ) as node,
        running(tmp_path, [node], toml=toml) as gateway,
        following(gateway) as reader,
    ):
        shown = reader.state["nodes"]["n0"]
        assert (shown["sizes_known"], shown["vram_outside_mib"]) == (True, 1000)
        async with asyncio.TaskGroup() as group:
            group.create_task(gateway.post("/cortex/v1/models/load", {"model": "m2"}))
            await reader.until(lambda: reader.state["models"]["n0/m2"]["status"] == "loaded")
        await reader.until(lambda: reader.state["nodes"]["n0"]["vram_known_mib"] == 6000)
        seen = {
            frame["nodes"]["n0"]["vram_outside_mib"]
            for frame in reader.frames
            if "nodes" in frame
        }
        assert seen == {1000}


async def test_a_request_is_followed_to_its_end_without_its_words(tmp_path: Path) -> None:
    async with (
        scripted(["m1"], token_interval_s=0.02, first_token_s=0.5) as node,
        running(tmp_path, [node]) as gateway,
        following(gateway) as reader,
    ):
        body = chat_body(stream=True, max_tokens=60)
        body["messages"][0]["content"] = "a-very-secret-question"
        async with asyncio.TaskGroup() as group:
            answer = group.create_task(stream(gateway.http, gateway.url, body))

            def only() -> Any:
                return next(iter(reader.state["requests"].values()), {})

            await reader.until(lambda: only().get("state") == "sent")
            assert (only()["model"], only()["node"], only()["stream"]) == ("m1", "n0", True)
            await reader.until(
                lambda: only().get("state") == "answering" and only()["events"] > 20
            )
            # One token every 20 ms, at most; how busy this machine is decides how few.
            assert 5 < only()["events_per_s"] < 60
            assert only()["ttft_ms"] > 400
            await reader.until(lambda: not reader.state["requests"])
        assert answer.result().complete
        text = json.dumps(reader.frames)
        assert "a-very-secret-question" not in text
        assert "content" not in text


async def test_who_waits_for_what(tmp_path: Path) -> None:
    async with (
        scripted(["m1"], token_interval_s=0.02) as node,
        running(tmp_path, [node], toml="[limits]\nmax_in_flight_per_model = 1\n") as gateway,
        following(gateway) as reader,
    ):
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                body = chat_body(stream=True, max_tokens=40)
                group.create_task(stream(gateway.http, gateway.url, body))
            await reader.until(lambda: "m1" in reader.state["queues"])
            await reader.until(lambda: reader.state["queues"].get("m1", {}).get("waiting") == 2)
            queue = reader.state["queues"]["m1"]
            assert queue["decision"] == "wait"
            assert queue["reason"]
            assert sum(queue["clients"].values()) == 2
            assert queue["oldest_at_ms"] <= reader.frames[-1]["at_ms"]
            assert reader.fleet["queued"] == 2
        await reader.until(lambda: not reader.state["queues"])


async def test_only_an_admins_key_opens_it(tmp_path: Path) -> None:
    async with scripted(["m1"]) as node, running(tmp_path, [node], toml=KEYS) as gateway:
        assert (await gateway.get(PATH)).status == 401
        assert (await gateway.get(PATH, headers=bearer("wrong"))).status == 401
        assert (await gateway.get(PATH, headers=bearer("client-key"))).status == 403
        async with following(gateway, headers=bearer("admin-key")) as reader:
            assert reader.kinds == ["state"]
        # The page itself is the same everywhere, so it needs no key.
        page = await gateway.get("/", headers={"Accept": "text/html"})
        assert page.body == static_files()["index.html"].plain


async def test_a_key_that_is_taken_away_ends_the_stream(tmp_path: Path) -> None:
    async with (
        scripted(["m1"]) as node,
        running(tmp_path, [node], toml=KEYS) as gateway,
        following(gateway, headers=bearer("admin-key")) as reader,
    ):
        text = gateway.source.read_text().replace("admin-key", "another-key")
        gateway.source.write_text(text)
        gateway.daemon._reload()
        with pytest.raises((aiohttp.ClientError, ConnectionError, asyncio.IncompleteReadError)):
            while True:
                await reader.next()
        assert (await gateway.get(PATH, headers=bearer("admin-key"))).status == 401


async def test_nothing_is_done_while_nobody_reads(
    shared: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    look = live.LiveView.sections

    def counted(view: live.LiveView) -> Any:
        nonlocal looks
        looks += 1
        return look(view)

    monkeypatch.setattr(live.LiveView, "sections", counted)
    subscribers = shared.daemon._store._subscribers
    await shared.chat("m1")
    assert (looks, len(subscribers)) == (0, 0)
    async with following(shared) as one, following(shared) as other:
        await shared.post("/cortex/v1/models/pin", {"model": "m1"})
        for reader in (one, other):
            await reader.until(lambda reader=reader: reader.state["models"]["n0/m1"]["pinned"])
        # One follows the store for all.
        assert len(subscribers) == 1
    await until(lambda: len(subscribers) == 0, "the last reader to be forgotten")
    seen = looks
    await shared.chat("m1")
    await asyncio.sleep(2 * live.LOOK_S)  # a look would have come by then
    assert looks == seen


async def test_looks_are_shared_and_bounded(
    shared: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten readers and a fleet that never rests: four looks a second for all of them."""
    looks: list[float] = []
    look = live.LiveView.sections

    def counted(view: live.LiveView) -> Any:
        looks.append(time.monotonic())
        return look(view)

    monkeypatch.setattr(live.LiveView, "sections", counted)
    state = shared.services.fleet._state
    async with asyncio.TaskGroup() as group:
        readers = [await _opened(shared) for _ in range(10)]
        tasks = [group.create_task(_drained(reader)) for reader in readers]
        began = time.monotonic()
        while time.monotonic() < began + 2:
            state.event(EventKind.CONFIG, "something", "n0")
            await asyncio.sleep(0.005)
        for task in tasks:
            task.cancel()
        for reader in readers:
            reader.close()
    counted_looks = len([at for at in looks if at >= began])
    assert counted_looks <= 2 / live.LOOK_S + 2


async def _opened(gateway: Running) -> aiohttp.ClientResponse:
    return await gateway.http.get(gateway.url + PATH)


async def _drained(response: aiohttp.ClientResponse) -> int:
    total = 0
    async for chunk in response.content.iter_any():
        total += len(chunk)
    return total


class Stuck:
    """Asks for the feed and never reads a byte of it."""

    def __init__(self, gateway: Running) -> None:
        host, port = gateway.url.removeprefix("http://").split(":")
        self.socket = socket.socket()
        # As little as the kernel gives, so that the gateway feels it soon.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect((host, int(port)))
        self.socket.sendall(f"GET {PATH} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel holds megabytes for a reader on the same machine; here as little as it can."""
    tell = live._tell

    async def telling(request: Any, *rest: Any) -> None:
        held = request.transport.get_extra_info("socket")
        held.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        await tell(request, *rest)

    monkeypatch.setattr(live, "_tell", telling)


@pytest.mark.usefixtures("small_buffers")
async def test_a_reader_that_never_reads_costs_nothing(tmp_path: Path) -> None:
    """500 models on 30 nodes, 200 events a second, 20 stuck readers: no growth, no delay."""
    async with _large(tmp_path) as gateway:
        state = gateway.services.fleet._state
        stuck = [Stuck(gateway) for _ in range(20)]
        rows = iter(range(10**9))

        async def busy_for(duration_s: float) -> list[float]:
            """Two hundred events and leases a second; how long a plain request took meanwhile."""
            took = []
            until_s = time.monotonic() + duration_s
            while time.monotonic() < until_s:
                for _ in range(10):
                    number = next(rows)
                    name = f"n{number % 30}"
                    state.event(EventKind.CONFIG, "x" * 200, name)
                    model = next(iter(state.node(name).models))
                    state.release(state.lease(name, model), SERVED)
                began = time.perf_counter()
                assert (await gateway.get("/v1/models")).status == 200
                took.append(time.perf_counter() - began)
                await asyncio.sleep(0.05)
            return took

        try:
            # Until every buffer on the way is full.
            await busy_for(2)
            gc.collect()
            tracemalloc.start()
            before, _ = tracemalloc.get_traced_memory()
            took = await busy_for(4)
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            # Kept for each of them, what changed meanwhile would be some 6 MB.
            assert after - before < 2_000_000, after - before
            assert sorted(took)[len(took) // 2] < 0.25, sorted(took)
            async with following(gateway) as reader:
                assert len(reader.state["models"]) == 500
        finally:
            for one in stuck:
                one.socket.close()


@pytest.mark.usefixtures("small_buffers")
async def test_a_reader_that_stays_stuck_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "STALL_S", 0.3)
    async with _large(tmp_path) as gateway:
        subscribers = gateway.daemon._store._subscribers
        stuck = Stuck(gateway)
        await until(lambda: len(subscribers) == 1, "the reader to be heard")
        state = gateway.services.fleet._state

        async def gone() -> bool:
            for number in range(30):
                state.event(EventKind.CONFIG, "x" * 2000, f"n{number}")
            await gateway.get("/health")
            return len(subscribers) == 0

        await until(gone, "the stuck reader to be cut", 30)
        stuck.socket.close()


@asynccontextmanager
async def _large(folder: Path) -> AsyncIterator[Running]:
    """30 nodes and 500 models; the nodes have a few, the rest are told of."""
    async with AsyncExitStack() as stack:
        names = [f"org/model-{i}" for i in range(17)]
        nodes = [await stack.enter_async_context(scripted(names)) for _ in range(30)]
        gateway = await stack.enter_async_context(
            running(folder, nodes, toml="[polling]\ninterval_s = 3600\n")
        )
        _spread(gateway)
        yield gateway


def _spread(gateway: Running) -> None:
    """Every node gets models of its own, 500 in all."""
    state = gateway.services.fleet._state
    total = 0
    for index in range(30):
        view = state.node(NodeName(f"n{index}"))
        assert view is not None
        named = {
            ModelId(f"{model}-{index}"): replace(shown, id=ModelId(f"{model}-{index}"))
            for model, shown in view.models.items()
        }
        kept = dict(list(named.items())[: min(17, 500 - total)])
        total += len(kept)
        state.put(replace(view, models=kept))
    state.changed()


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000", 200),
        ("localhost:8000", "http://localhost:8000", 200),
        ("[::1]:8000", "http://[::1]:8000", 200),
        (socket.gethostname().lower(), f"http://{socket.gethostname().lower()}", 200),
        ("localhost:8000", "http://localhost:9000", 403),
        ("localhost:8000", "null", 403),
        # A name that its owner let mean 127.0.0.1.
        ("evil.example:8000", "http://evil.example:8000", 403),
        ("127.0.0.1.evil.example", "http://127.0.0.1.evil.example", 403),
        # Nor may it read there, and a browser says no origin then.
        ("evil.example", None, 403),
    ],
)
async def test_without_keys_a_page_changes_things_under_an_own_name_only(
    shared: Running, host: str, origin: str | None, status: int
) -> None:
    headers = {"Host": host} | ({} if origin is None else {"Origin": origin})
    reply = await shared.post("/cortex/v1/models/pin", {"model": "m1"}, headers=headers)
    assert reply.status == status, reply.text
