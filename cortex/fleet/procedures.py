"""How a node is made to load a model and to let go of one (contract §2.2 to §2.4). Knows no state.

Before a model is unloaded, its caller has drained it: an unload ends running streams with a clean
end of file.
"""

import asyncio
import logging
from dataclasses import dataclass

from cortex.core.errors import NodeError, NodeTimeoutError
from cortex.core.footprint import NOISE_MIB, is_returned, residue_mib
from cortex.core.ids import ModelId, RequestId
from cortex.core.listing import LifecycleAnswer, NodeInfo, ReportedStatus, Work
from cortex.core.nodefaults import failed_load
from cortex.fleet.ports import NodeControl
from cortex.fleet.waits import Waits

log = logging.getLogger("cortex.lifecycle")

REFUSALS = 3
"""Status calls in a row that may fail before the node counts as lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """What an unload gave back. Each None where it was not measured."""

    mib: int | None = None
    residue_mib: int | None = None
    """What did not come back; negative = more came back than the model held."""
    free_mib: int | None = None
    """What the device has free now."""


class LoadFailedError(NodeError):
    """The node ended a load without the model."""

    code = "load_failed"

    def __init__(self, message: str, *, wedged: bool = False) -> None:
        super().__init__(message)
        self.wedged = wedged


async def bring_in(
    node: NodeControl, model: ModelId, waits: Waits, request_id: RequestId | None = None
) -> bool:
    """Load `model`; True when it was we who did it. The caller's deadline bounds it.

    1. Read the status. Loaded: done. Reloading: someone else is at it, follow.
    2. Ask for one token, which has the node load it: a chat, or an embedding where the model
       does not chat. The node goes on answering meanwhile, which it need not during a `reload`.
    3. Only where neither made it load: `reload`, once, and only of what was just read as
       `unloaded`, for it would poison a model that is loaded by then.

    An answer lost on the way is followed by status calls, never by a second attempt; the log has
    `request_id` with that, of the request that it is loaded for.

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
            _log_lost(model, exc, request_id)
            await _follow(node, model, waits)
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
    return await _reload(node, model, waits, request_id)


async def _reload(
    node: NodeControl, model: ModelId, waits: Waits, request_id: RequestId | None
) -> bool:
    """For what no request brings in: versions that load nothing by themselves, and other kinds."""
    try:
        answer = await node.reload(model)
    except NodeError as exc:
        _log_lost(model, exc, request_id)
        await _follow(node, model, waits)
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


def _log_lost(model: ModelId, lost: NodeError, request_id: RequestId | None) -> None:
    log.warning(
        "the answer to a load was lost; following by status",
        extra={"fields": {"request_id": request_id, "model": model, "reason": lost.message}},
    )


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


class UnloadFailedError(NodeError):
    """The node did not let go of the model."""

    code = "unload_failed"

    def __init__(self, message: str, *, serves: bool = False) -> None:
        super().__init__(message)
        self.serves = serves
        """The node says that the model is loaded as before."""


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

    1. Unload; only the body's `status` counts. Where no answer came, a status call tells whether the
       node has heard; if not it is told once more, for an unload of what is unloaded does nothing.
    2. Read the free memory until all is back that the load took, or enough of the model's size and
       two readings agree, for at most `waits.verify_s`. Where nothing is known, until two agree.

    Raises:
        UnloadFailedError: It is still there, or nobody knows.
    """
    await _unload(node, model, waits)
    return await _verify(node, size_mib, took_mib, before_mib, waits)


async def _unload(node: NodeControl, model: ModelId, waits: Waits) -> None:
    heard, answer = await _told_to_unload(node, model, waits)
    if not heard and answer.status is ReportedStatus.LOADED:
        _, answer = await _told_to_unload(node, model, waits)
    if answer.status is not ReportedStatus.UNLOADED:
        serves = answer.status is ReportedStatus.LOADED
        raise UnloadFailedError(answer.error or f"the node says {answer.status}", serves=serves)


async def _told_to_unload(
    node: NodeControl, model: ModelId, waits: Waits
) -> tuple[bool, LifecycleAnswer]:
    """Whether it answered, and its answer, else what its status says instead."""
    try:
        async with asyncio.timeout(waits.unload_s):
            return True, await node.unload(model)
    except (TimeoutError, NodeError) as exc:
        try:
            return False, await model_status(node, model, waits)
        except NodeError as silent:
            raise UnloadFailedError(f"the node fell silent: {silent.message}") from exc


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
