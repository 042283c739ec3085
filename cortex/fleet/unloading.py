"""How a node is made to let go of a model, and how the memory is seen to come back. Knows no state.

The caller has drained the model: an unload ends running streams with a clean end of file.
"""

import asyncio

from cortex.core.errors import NodeError
from cortex.core.footprint import NOISE_MIB, is_returned, residue_mib
from cortex.core.ids import ModelId
from cortex.core.listing import NodeInfo, ReportedStatus
from cortex.fleet.loading import model_status
from cortex.fleet.ports import NodeControl
from cortex.fleet.transitions import Freed
from cortex.fleet.waits import Waits


class UnloadFailedError(NodeError):
    """The node did not let go of the model."""

    code = "unload_failed"


async def read_info(node: NodeControl, waits: Waits) -> NodeInfo | None:
    """The node's version and memory; None where it will not say."""
    try:
        async with asyncio.timeout(waits.info_s):
            return await node.system_info()
    except (TimeoutError, NodeError):
        return None


async def take_out(
    node: NodeControl,
    model: ModelId,
    *,
    size_mib: int | None,
    took_mib: int | None,
    before_mib: int | None,
    waits: Waits,
) -> Freed:
    """Unload `model` and wait until its memory is free again; `before_mib` was free just before.

    1. Unload; only the body's `status` counts. An answer that was lost is settled by a status call.
    2. Read the free memory until all is back that the load took, or enough of the model's size and
       two readings agree, for at most `waits.verify_s`. Where nothing is known, until two agree.

    Raises:
        UnloadFailedError: It is still there, or nobody knows.
    """
    await _unload(node, model, waits)
    return await _verify(node, size_mib, took_mib, before_mib, waits)


async def _unload(node: NodeControl, model: ModelId, waits: Waits) -> None:
    try:
        async with asyncio.timeout(waits.unload_s):
            answer = await node.unload(model)
    except (TimeoutError, NodeError) as exc:
        try:
            answer = await model_status(node, model, waits)
        except NodeError as silent:
            raise UnloadFailedError(f"the node fell silent: {silent.message}") from exc
    if answer.status is not ReportedStatus.UNLOADED:
        raise UnloadFailedError(answer.error or f"the node says {answer.status}")


async def _verify(
    node: NodeControl,
    size_mib: int | None,
    took_mib: int | None,
    before_mib: int | None,
    waits: Waits,
) -> Freed:
    if before_mib is None:
        return Freed()
    held_mib = size_mib if took_mib is None else took_mib
    last_mib, pause_s = before_mib, waits.verify_first_s
    try:
        async with asyncio.timeout(waits.verify_s):
            while True:
                info = await read_info(node, waits)
                if info is None:
                    await asyncio.sleep(waits.verify_longest_s)
                    continue
                if info.free_mib is None:
                    return Freed()
                steady = abs(info.free_mib - last_mib) <= NOISE_MIB and last_mib > before_mib
                last_mib = info.free_mib
                left_mib = None if held_mib is None else held_mib - (last_mib - before_mib)
                whole = left_mib is not None and left_mib <= NOISE_MIB
                enough = is_returned(held_mib, before_mib, last_mib) is not False
                if whole or (steady and enough):
                    break
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, waits.verify_longest_s)
    except TimeoutError:
        took_mib = held_mib
    # A size may be a careful one; only what a load was seen to take must come back to the last.
    residue = None if took_mib is None else residue_mib(took_mib, before_mib, last_mib)
    return Freed(mib=last_mib - before_mib, residue_mib=residue, free_mib=last_mib)
