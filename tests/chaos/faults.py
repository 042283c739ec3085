"""What goes wrong with nodes, each for a while, and how it is mended."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from random import Random

import aiohttp

from cortex.devnode.scripted import ScriptedNode

Fault = Callable[[ScriptedNode, Random], Awaitable[None]]


async def crash(node: ScriptedNode, rng: Random) -> None:
    """The process dies with everything it was doing, and comes back later."""
    node.crash()
    await asyncio.sleep(rng.uniform(0.05, 0.5))
    await node.stop()
    await node.start()


async def restart(node: ScriptedNode, _rng: Random) -> None:
    await node.stop()
    await node.start()


async def refuse(node: ScriptedNode, rng: Random) -> None:
    await node.set(refuse_s=rng.uniform(0.05, 0.4))


async def load_by_hand(node: ScriptedNode, rng: Random) -> None:
    """Somebody talks to the node itself, which loads what it has to."""
    await _post(node, "chat/completions", _smallest(rng.choice(_models(node))))


async def unload_by_hand(node: ScriptedNode, rng: Random) -> None:
    """Somebody unloads a model beside cortex, and cuts what it is doing, which is not cortex's doing."""
    stats, model = node.stats, rng.choice(_models(node))
    heard = stats.cut - stats.cut_unheard
    await node.residency.unload(model)
    for _ in range(1000):
        # Each of them notices in the next turns of the loop.
        if not stats.in_flight[model] or model in node.residency.loaded:
            break
        await asyncio.sleep(0)
    stats.cut_unheard += stats.cut - stats.cut_unheard - heard


def _models(node: ScriptedNode) -> list[str]:
    return sorted({model for model, _ in node.residency.entries()})


def _smallest(model: str) -> dict[str, object]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": "by hand"}],
        "max_tokens": 1,
    }


async def _post(node: ScriptedNode, path: str, body: dict[str, object]) -> None:
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with (
            asyncio.timeout(1.0),
            aiohttp.ClientSession() as http,
            http.post(f"{node.url}/v1/{path}", json=body) as response,
        ):
            await response.read()


def _for_a_while(**knobs: object) -> Fault:
    async def fault(node: ScriptedNode, rng: Random) -> None:
        before = {name: getattr(node.knobs, name) for name in knobs}
        await node.set(**knobs)
        await asyncio.sleep(rng.uniform(0.1, 0.6))
        await node.set(**before)

    return fault


def _once(**knobs: object) -> Fault:
    async def fault(node: ScriptedNode, _rng: Random) -> None:
        await node.set(**knobs)

    return fault


FAULTS: dict[str, Fault] = {
    "crash": crash,
    "restart": restart,
    "refuse": refuse,
    "stall": _for_a_while(stall=True),
    "answer late": _for_a_while(answer_delay_s=0.4),
    "list late": _for_a_while(listing_delay_s=0.8),
    "list of before": _for_a_while(listing_late_s=0.3),
    "load in silence": _for_a_while(requests_load=False, silent_reload_share=1.0, load_s=0.3),
    "load by hand": load_by_hand,
    "unload by hand": unload_by_hand,
    "leak": _for_a_while(leak_pct=40.0),
    "free late": _for_a_while(release_delay_s=0.4),
    "load slowly": _for_a_while(load_s=2.0),
    "out of memory": _once(load_fail="CUDA_ERROR_OUT_OF_MEMORY", load_fail_times=1),
    "load fails": _once(load_fail="no such tensor", load_fail_times=1),
    "drop streams": _for_a_while(drop_after_chunks=2),
    "end streams": _for_a_while(eof_after_chunks=2),
    "error events": _for_a_while(error_event_after=1),
    "500": _once(http_error={"status": 500, "message": "CUDA_ERROR", "times": 2}),
}


async def mend(node: ScriptedNode) -> None:
    """As it was at the beginning, and running."""
    await node.set(
        stall=False,
        answer_delay_s=0.0,
        listing_delay_s=0.0,
        listing_late_s=0.0,
        requests_load=True,
        leak_pct=0.0,
        release_delay_s=0.01,
        load_s=0.03,
        load_fail=None,
        drop_after_chunks=None,
        eof_after_chunks=None,
        error_event_after=None,
        http_error=None,
    )
    await node.stop()
    await node.start()
