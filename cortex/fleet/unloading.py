"""How a node is made to let go of a model, and how the memory is seen to come back. Knows no state.

The caller has drained the model: an unload ends running streams with a clean end of file.
"""

import asyncio

from cortex.core.errors import NodeError
from cortex.core.footprint import is_returned, residue_mib
from cortex.core.ids import ModelId
from cortex.core.listing import NodeInfo, ReportedStatus
from cortex.fleet.loading import model_status
from cortex.fleet.ports import NodeControl
from cortex.fleet.transitions import Freed

UNLOAD_TIMEOUT_S = 30.0
"""Deadline of the unload call; the node answers before the memory is free."""
VERIFY_S = 10.0
"""Longest wait for the memory to come back."""
FIRST_PAUSE_S = 0.05
"""Before the second reading; doubles up to `MAX_PAUSE_S`, for a reading costs the node something."""
MAX_PAUSE_S = 0.5
INFO_TIMEOUT_S = 10.0
"""Deadline of one reading: the node may start a subprocess for it."""


class UnloadFailedError(NodeError):
    """The node did not let go of the model."""

    code = "unload_failed"


async def read_info(node: NodeControl) -> NodeInfo | None:
    """The node's version and memory; None where it will not say."""
    try:
        async with asyncio.timeout(INFO_TIMEOUT_S):
            return await node.system_info()
    except (TimeoutError, NodeError):
        return None


async def take_out(
    node: NodeControl, model: ModelId, *, size_mib: int | None, before_mib: int | None
) -> Freed:
    """Unload `model` and wait until its memory is free again; `before_mib` was free just before.

    1. Unload; only the body's `status` counts. An answer that was lost is settled by a status call.
    2. Read the free memory until enough of the model's size is back, for at most `VERIFY_S`.
       Where the size is unknown, until two readings agree.

    Raises:
        UnloadFailedError: It is still there, or nobody knows.
    """
    await _unload(node, model)
    return await _verify(node, size_mib, before_mib)


async def _unload(node: NodeControl, model: ModelId) -> None:
    try:
        async with asyncio.timeout(UNLOAD_TIMEOUT_S):
            answer = await node.unload(model)
    except (TimeoutError, NodeError) as exc:
        try:
            answer = await model_status(node, model)
        except NodeError as silent:
            raise UnloadFailedError(f"the node fell silent: {silent.message}") from exc
    if answer.status is not ReportedStatus.UNLOADED:
        raise UnloadFailedError(answer.error or f"the node says {answer.status}")


async def _verify(node: NodeControl, size_mib: int | None, before_mib: int | None) -> Freed:
    if before_mib is None:
        return Freed()
    last_mib = before_mib
    pause_s = FIRST_PAUSE_S
    try:
        async with asyncio.timeout(VERIFY_S):
            while True:
                info = await read_info(node)
                if info is None or info.free_mib is None:
                    return Freed()
                steady = info.free_mib == last_mib > before_mib
                last_mib = info.free_mib
                if is_returned(size_mib, before_mib, last_mib) or (size_mib is None and steady):
                    return Freed(mib=last_mib - before_mib, free_mib=last_mib)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
    except TimeoutError:
        freed_mib = last_mib - before_mib
        left_mib = None if size_mib is None else residue_mib(size_mib, before_mib, last_mib)
        return Freed(mib=freed_mib, residue_mib=left_mib, free_mib=last_mib)
