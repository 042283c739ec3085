"""How a node is made to load a model, by the rule of contract §2.4. Knows no state."""

import asyncio
import logging

from cortex.core.errors import NodeError, NodeTimeoutError
from cortex.core.ids import ModelId
from cortex.core.listing import LifecycleAnswer, ReportedStatus
from cortex.fleet.ports import NodeControl

log = logging.getLogger("cortex.lifecycle")

STATUS_TIMEOUT_S = 10.0
"""Deadline of one status call."""
STATUS_INTERVAL_S = 0.5
"""Between two status calls while a load of unknown fate is followed."""
REFUSALS = 3
"""Status calls in a row that may fail before the node counts as lost."""


class LoadFailedError(NodeError):
    """The node ended a load without the model."""

    code = "load_failed"

    def __init__(self, message: str, *, wedged: bool = False) -> None:
        super().__init__(message)
        self.wedged = wedged


async def bring_in(node: NodeControl, model: ModelId) -> bool:
    """Load `model`; True when it was our reload that did it. The caller's deadline bounds it.

    1. Read the status. Loaded: done. Reloading: someone else is at it, follow.
    2. Only `unloaded` is reloaded, once. An answer lost on the way is followed by status
       calls, never by a second reload, which would poison a model that is loaded by then.

    Raises:
        NodeError: It ended without the model.
    """
    before = await model_status(node, model)
    match before.status:
        case ReportedStatus.LOADED:
            return False
        case ReportedStatus.RELOADING:
            await _follow(node, model)
            return False
        case ReportedStatus.UNLOADED:
            pass
        case _:
            raise LoadFailedError(f"cannot load: the node says {before.status}")
    try:
        answer = await node.reload(model)
    except NodeError as exc:
        log.warning(
            "reload answer lost; following by status",
            extra={"fields": {"model": model, "reason": exc.message}},
        )
        await _follow(node, model)
        return True
    match answer.status:
        case ReportedStatus.LOADED:
            return True
        case ReportedStatus.RELOADING:
            await _follow(node, model)
            return False
        case ReportedStatus.NOT_FOUND:
            raise LoadFailedError(
                "reload answered not_found: its reloading flag has leaked", wedged=True
            )
        case _:
            raise LoadFailedError(answer.error or f"the node says {answer.status}")


async def model_status(node: NodeControl, model: ModelId) -> LifecycleAnswer:
    """One status call with its deadline."""
    try:
        async with asyncio.timeout(STATUS_TIMEOUT_S):
            return await node.model_status(model)
    except TimeoutError as exc:
        raise NodeTimeoutError(f"no status within {STATUS_TIMEOUT_S:g} s") from exc


async def _follow(node: NodeControl, model: ModelId) -> None:
    """Ask for the status until the load has ended; bounded by the caller's deadline."""
    refusals = 0
    while True:
        await asyncio.sleep(STATUS_INTERVAL_S)
        try:
            answer = await model_status(node, model)
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
