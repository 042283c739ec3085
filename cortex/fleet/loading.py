"""How a node is made to load a model (contract §2.2, §2.4). Knows no state."""

import asyncio
import logging

from cortex.core.errors import NodeError, NodeTimeoutError
from cortex.core.ids import ModelId
from cortex.core.listing import LifecycleAnswer, ReportedStatus, Work
from cortex.core.nodefaults import failed_load
from cortex.fleet.ports import NodeControl
from cortex.fleet.waits import Waits

log = logging.getLogger("cortex.lifecycle")

REFUSALS = 3
"""Status calls in a row that may fail before the node counts as lost."""


class LoadFailedError(NodeError):
    """The node ended a load without the model."""

    code = "load_failed"

    def __init__(self, message: str, *, wedged: bool = False) -> None:
        super().__init__(message)
        self.wedged = wedged


async def bring_in(node: NodeControl, model: ModelId, waits: Waits) -> bool:
    """Load `model`; True when it was we who did it. The caller's deadline bounds it.

    1. Read the status. Loaded: done. Reloading: someone else is at it, follow.
    2. Ask for one token, which has the node load it: a chat, or an embedding where the model
       does not chat. The node goes on answering meanwhile, which it need not during a `reload`.
    3. Only where neither made it load: `reload`, once, and only of what was just read as
       `unloaded`, for it would poison a model that is loaded by then.

    An answer lost on the way is followed by status calls, never by a second attempt.

    Raises:
        NodeError: It ended without the model.
    """
    status = (await model_status(node, model, waits)).status
    if status is not ReportedStatus.UNLOADED:
        await _await_other(node, model, status, waits)
        return False
    for work in Work:
        try:
            refusal = await node.wake(model, work)
        except NodeError as exc:
            await _follow_lost(node, model, exc, waits)
            return True
        if refusal is not None and (why := failed_load(refusal)) is not None:
            raise LoadFailedError(why)
        status = (await model_status(node, model, waits)).status
        if status is ReportedStatus.LOADED:
            # Refused or not: a node looks at what is asked of a model once the model is there.
            return True
        if status is not ReportedStatus.UNLOADED:
            await _await_other(node, model, status, waits)
            return False
    return await _reload(node, model, waits)


async def _reload(node: NodeControl, model: ModelId, waits: Waits) -> bool:
    """For what no request brings in: versions that load nothing by themselves, and other kinds."""
    try:
        answer = await node.reload(model)
    except NodeError as exc:
        await _follow_lost(node, model, exc, waits)
        return True
    match answer.status:
        case ReportedStatus.LOADED:
            return True
        case ReportedStatus.RELOADING:
            await _follow(node, model, waits)
            return False
        case ReportedStatus.NOT_FOUND:
            raise LoadFailedError(
                "reload answered not_found: its reloading flag has leaked", wedged=True
            )
        case _:
            raise LoadFailedError(answer.error or f"the node says {answer.status}")


async def _await_other(
    node: NodeControl, model: ModelId, status: ReportedStatus, waits: Waits
) -> None:
    """The model is not ours to load, by its status: it is there, or someone else is at it."""
    if status is ReportedStatus.RELOADING:
        await _follow(node, model, waits)
    elif status is not ReportedStatus.LOADED:
        raise LoadFailedError(f"cannot load: the node says {status}")


async def _follow_lost(
    node: NodeControl, model: ModelId, lost: NodeError, waits: Waits
) -> None:
    log.warning(
        "the answer to a load was lost; following by status",
        extra={"fields": {"model": model, "reason": lost.message}},
    )
    await _follow(node, model, waits)


async def model_status(node: NodeControl, model: ModelId, waits: Waits) -> LifecycleAnswer:
    """One status call with its deadline."""
    try:
        async with asyncio.timeout(waits.status_s):
            return await node.model_status(model)
    except TimeoutError as exc:
        raise NodeTimeoutError(f"no status within {waits.status_s:g} s") from exc


async def _follow(node: NodeControl, model: ModelId, waits: Waits) -> None:
    """Ask for the status until the load has ended; bounded by the caller's deadline."""
    refusals = 0
    while True:
        await asyncio.sleep(waits.status_interval_s)
        try:
            answer = await model_status(node, model, waits)
        except NodeTimeoutError:
            continue  # a node may stall while it loads (contract §2.2)
        except NodeError:
            refusals += 1
            if refusals >= REFUSALS:
                raise
            continue
        refusals = 0
        if answer.status is ReportedStatus.LOADED:
            return
        if answer.status is not ReportedStatus.RELOADING:
            raise LoadFailedError(
                answer.error or f"the load ended with the model {answer.status}"
            )
