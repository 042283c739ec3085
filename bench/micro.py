"""What single steps of the product cost, without a socket: `python -m bench.micro`.

Each figure is the best of several batches, in microseconds a call: the best, because whatever else the
machine does can only add to it.
"""

import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from cortex.core.decisions import Serve, Want
from cortex.core.demand import Demand, Outlook
from cortex.core.envelope import Scanner, parse_whole
from cortex.core.eviction import evict
from cortex.core.forecast import cheapest, loss
from cortex.core.health import Liveness, NodeHealth
from cortex.core.ids import ModelId, NodeName, RequestId
from cortex.core.percentile import nearest_rank
from cortex.core.plan import plan
from cortex.core.records import RequestRecord
from cortex.core.routing import pick
from cortex.core.rules import EvictionRules, Strategy
from cortex.core.snapshot import FleetSnapshot, ModelStatus, ModelView, NodeView
from cortex.core.stream import Usage, Watch
from cortex.core.translate.gather import ChatGather
from cortex.core.translate.stream import MessageStream
from cortex.core.translate.stream import encoded as encoded_events
from cortex.core.translate.to_chat import ChatStream
from cortex.gateway.line import Line
from cortex.gateway.quotas import Quotas
from cortex.gateway.recent import Recent
from cortex.gateway.relayed import Relayed
from cortex.store.store import Store
from cortex.telemetry.access import KeyMetrics
from cortex.telemetry.clock import SystemClock
from cortex.telemetry.metrics import Metrics

BATCHES = 7
BATCH_S = 0.05
ROWS = 2000
CARDS, TRIES = 2000, 5

EVENT = (
    b'data: {"id":"7","choices":[{"finish_reason":null,"index":0,"delta":{"content":" word",'
    b'"role":"assistant"},"logprobs":null}],"created":1787000000,"model":"bench",'
    b'"system_fingerprint":"local","object":"chat.completion.chunk"}\n\n'
)
DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":" word"}}\n\n'
)
MESSAGE_START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message",'
    b'"role":"assistant","model":"bench","content":[],"stop_reason":null,"stop_sequence":null,'
    b'"usage":{"input_tokens":1,"output_tokens":1}}}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
    b'"content_block":{"type":"text","text":""}}\n\n'
)


def best_us(call: Callable[[], object]) -> float:
    """Microseconds a call, in the best of several batches."""
    count, took_s = 1, 0.0
    while took_s < BATCH_S:
        count *= 2
        took_s = _batch_s(call, count)
    return min(_batch_s(call, count) for _ in range(BATCHES)) / count * 1e6


def _batch_s(call: Callable[[], object], count: int) -> float:
    began_s = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - began_s


def fleet(nodes: int, models_each: int) -> FleetSnapshot:
    """Nodes that are up; each holds its models, and all hold the one that is asked for."""
    views: dict[NodeName, NodeView] = {}
    locations: dict[ModelId, list[NodeName]] = {}
    for number in range(nodes):
        ids = [ModelId("shared"), *(ModelId(f"m{number}-{i}") for i in range(1, models_each))]
        name = NodeName(f"node{number:04}")
        views[name] = NodeView(
            name=name,
            liveness=Liveness(NodeHealth.UP),
            vram_total_mib=49_152,
            free_mib=8_192,
            models={
                i: ModelView(
                    id=i, status=ModelStatus.LOADED, in_flight=number % 5, size_mib=4096
                )
                for i in ids
            },
        )
        for each in ids:
            locations.setdefault(each, []).append(name)
    return FleetSnapshot(nodes=views, locations={m: tuple(n) for m, n in locations.items()})


def body(size: int) -> bytes:
    """A question of about so many bytes, most of it an image, `model` at its end as some clients do."""
    image = "data:image/png;base64," + "iVBORw0KGgoAAAANSUhEUg" * (size // 22)
    part = {"type": "image_url", "image_url": {"url": image}}
    question = {"messages": [{"role": "user", "content": [part]}], "stream": True}
    return json.dumps(question | {"model": "bench"}).encode()


def planning() -> dict[str, float]:
    found = {}
    for nodes in (2, 30, 200, 1000):
        snapshot, want = fleet(nodes, 4), Want(model=ModelId("shared"))
        assert isinstance(plan(snapshot, want, now_s=0.0), Serve)
        found[f"pick(), {nodes} nodes of 4 models"] = best_us(
            lambda s=snapshot, w=want: pick(s, w, now_s=0.0)
        )
        found[f"plan(), {nodes} nodes of 4 models"] = best_us(
            lambda s=snapshot, w=want: plan(s, w, now_s=0.0)
        )
    return found


def forecasts() -> dict[str, float]:
    """Who of 14 goes, over many cards; what a card comes to for itself is known, as between two uses of it."""
    rng = random.Random(14)
    demand = Demand()
    for number in range(14):
        at_s, gap_s = 0.0, 10 ** rng.uniform(0, 4)
        while at_s < 1e5:
            demand.asked(ModelId(f"m{number}"), at_s)
            at_s += rng.expovariate(1 / gap_s)
    outlook = Outlook(demand)
    cards = [_card(rng) for _ in range(CARDS)]
    found = {}
    for strategy in (Strategy.LRU, Strategy.FORECAST):
        there = FleetSnapshot(eviction=EvictionRules(strategy=strategy, outlook=outlook))
        found |= _spread(
            f"who of 14 goes by {strategy}",
            [
                partial(evict, card, wanted, Want(wanted.id), there, deficit_mib=mib, now_s=1e5)
                for card, wanted, mib in cards
            ],
        )
    sets = []
    for card, _, mib in cards:
        losses = [loss(card, view, outlook, 1e5) for view in card.models.values()]
        sizes = [view.size_mib or 0 for view in card.models.values()]
        sets.append(partial(cheapest, [lost.cost_s for lost in losses], sizes, mib))
    return found | _spread("the cheapest set of 14", sets)


def _spread(name: str, calls: Sequence[Callable[[], object]]) -> dict[str, float]:
    """Each in the best of a few tries, so that the spread is that of the questions."""
    took_us = sorted(min(_batch_s(call, 1) for _ in range(TRIES)) * 1e6 for call in calls)
    return {
        f"{name}, p{percent}": nearest_rank(took_us, percent) or 0.0 for percent in (50, 99)
    }


def _card(rng: random.Random) -> tuple[NodeView, ModelView, int]:
    """14 models in memory, one that is wanted, and what is missing for it."""
    models = {}
    for number in range(14):
        size_mib = round(rng.choice((1500, 3000, 5000, 8000, 12_000)) * rng.uniform(0.85, 1.15))
        model = ModelId(f"m{number}")
        models[model] = ModelView(
            id=model, status=ModelStatus.LOADED, size_mib=size_mib, load_s=3 + size_mib / 800
        )
    wanted = ModelView(id=ModelId("wanted"), size_mib=25_000, load_s=30.0)
    view = NodeView(name=NodeName("n"), models=models, liveness=Liveness(NodeHealth.UP))
    return view, wanted, rng.randrange(500, 25_000)


def chunks() -> dict[str, float]:
    watch, gather = Watch(sse=True), ChatGather()
    messages = MessageStream("msg_1", "bench")
    messages.start()
    chat = ChatStream("chatcmpl-1", "bench", created_s=0, with_usage=True)
    chat.feed(MESSAGE_START)
    assert chat.feed(DELTA)
    return {
        "usage observer, a chunk": best_us(lambda: watch.see(EVENT)),
        "chat chunk gathered": best_us(lambda: gather.feed(EVENT)),
        "chat chunk to Anthropic events": best_us(lambda: encoded_events(messages.feed(EVENT))),
        "Anthropic event to chat chunk": best_us(lambda: chat.feed(DELTA)),
    }


def bodies() -> dict[str, float]:
    def scan(data: bytes) -> None:
        scanner = Scanner()
        for at in range(0, len(data), 65_536):
            scanner.feed(data[at : at + 65_536])
        assert scanner.finish().model == "bench"

    found = {}
    for size in (700, 20_000):
        data = body(size)
        found[f"read `model`, {size:,} bytes"] = best_us(lambda d=data: parse_whole(d))
    for size in (1_000_000, 10_000_000):
        data = body(size)
        found[f"read `model`, {size:,} bytes, scanned"] = best_us(lambda d=data: scan(d))
    return found


def store() -> dict[str, float]:
    """What a row of the request log costs the loop, and what it costs until it is on the disk."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        return asyncio.run(_rows(Path(folder) / "cortex.db"))


async def _rows(path: Path) -> dict[str, float]:
    opened = await Store.open(path, retention_days=30.0, clock=SystemClock())
    records = [
        RequestRecord(
            request_id=RequestId(f"req_{number:08}"),
            started_at_ms=1_787_000_000_000 + number,
            route="chat",
            model=ModelId("bench"),
            node=NodeName("node"),
            status=200,
        )
        for number in range(ROWS)
    ]
    began_s = time.perf_counter()
    for record in records:
        opened.request_done(record)
    queued_s = time.perf_counter() - began_s
    await opened.close()
    written_s = time.perf_counter() - began_s
    return {
        "store: queue a row": queued_s / ROWS * 1e6,
        f"store: a row written, {ROWS:,} at once": written_s / ROWS * 1e6,
    }


def account() -> dict[str, float]:
    """What the end of a request costs the loop: metrics, usage of its key, recent figures, a row, no log line."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        return asyncio.run(_account(Path(folder) / "cortex.db"))


async def _account(path: Path) -> dict[str, float]:
    clock, metrics, recent = SystemClock(), Metrics(), Recent()
    opened = await Store.open(path, retention_days=30.0, clock=clock)
    quotas = Quotas(clock, KeyMetrics(metrics.registry))

    def done(record: RequestRecord) -> None:
        metrics.request_done(record)
        recent.request_done(record)
        quotas.request_done(record)
        opened.request_done(record)

    def one() -> None:
        with Line(RequestId("req_00000001"), "chat", clock, recent.running, done) as line:
            record = line.record
            record.client, record.model, record.node = "me", ModelId("bench"), NodeName("node")
            record.stream, record.status, record.attempts = True, 200, 1
            line.real_bytes(1)
            usage = Usage(prompt_tokens=200, completion_tokens=120)
            line.relayed(Relayed(None, usage, None, 1000, streamed=True))

    took_us = best_us(one)
    await opened.close()
    return {"account of a request": took_us}


def main() -> int:
    found = planning() | forecasts() | chunks() | bodies() | account() | store()
    if sys.argv[1:] == ["--json"]:
        print(json.dumps(found, indent=1))
        return 0
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:{width}}  {value:10,.2f} us")
    return 0


if __name__ == "__main__":
    sys.exit(main())
