"""Loads, each owned here and not by the request that asked for it: single-flight, with a deadline."""

import asyncio
import logging
from collections.abc import Callable

from cortex.core.decisions import Load
from cortex.core.errors import NodeError, NodeTimeoutError, StoreError
from cortex.core.ids import ModelId, NodeName
from cortex.core.listing import LifecycleAnswer, ReportedStatus
from cortex.fleet.ports import Clock, FleetMemory, NodeControl
from cortex.fleet.recollection import residency_record
from cortex.fleet.state import FleetState

log = logging.getLogger("cortex.lifecycle")

STATUS_TIMEOUT_S = 10.0
"""Deadline of one status call."""
STATUS_INTERVAL_S = 0.5
"""Between two status calls while a load of unknown fate is followed."""


class LoadFailedError(NodeError):
    """The node ended a load without the model."""

    code = "load_failed"

    def __init__(self, message: str, *, wedged: bool = False) -> None:
        super().__init__(message)
        self.wedged = wedged


class Lifecycle:
    """Begins loads and sees them through."""

    def __init__(
        self,
        state: FleetState,
        *,
        memory: FleetMemory,
        clock: Clock,
        load_timeout_s: float,
        client_of: Callable[[NodeName], NodeControl],
        loaded: Callable[[NodeName, ModelId, float], None] = lambda *_: None,
    ) -> None:
        self._state = state
        self._memory = memory
        self._clock = clock
        self.load_timeout_s = load_timeout_s
        self._client_of = client_of
        self._loaded = loaded
        #: After a restart of a node, its old load may still be ending beside its new one.
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, group: asyncio.TaskGroup, decision: Load) -> None:
        """Start the load that was just decided; no await since the snapshot it was made on.

        The state refuses a second one: the model is LOADING from this moment.
        """
        key = (decision.node, decision.model)
        generation = self._state.begin_load(*key, reason=decision.reason)
        task = group.create_task(
            self._load(*key, generation), name=f"load {decision.model} on {decision.node}"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """Stop following loads; the nodes finish them, and the next start sees the result."""
        for task in self._tasks:
            task.cancel()

    async def _load(self, name: NodeName, model: ModelId, generation: int) -> None:
        """Bring the model in and tell the state; a failure is told, never raised."""
        node = self._client_of(name)
        began_s = self._clock.now_s()
        try:
            async with asyncio.timeout(self.load_timeout_s):
                ours = await self._bring_in(node, model)
        except TimeoutError:
            reason = f"not loaded within {self.load_timeout_s:g} s"
            self._state.fail_load(name, model, generation, reason=reason)
        except NodeError as exc:
            wedged = isinstance(exc, LoadFailedError) and exc.wedged
            self._state.fail_load(name, model, generation, reason=exc.message, wedged=wedged)
        else:
            took_s = self._clock.now_s() - began_s
            self._state.end_load(name, model, generation, load_s=took_s if ours else None)
            if ours:
                self._loaded(name, model, took_s)
            await self._aftermath(name, node, model)

    async def _bring_in(self, node: NodeControl, model: ModelId) -> bool:
        """Load by the rule of contract §2.4; True when it was our reload that did it.

        1. Read the status. Loaded: done. Reloading: someone else is at it, follow.
        2. Only `unloaded` is reloaded, once. An answer lost on the way is followed by status
           calls, never by a second reload, which would poison a model that is loaded by then.
        """
        before = await self._status(node, model)
        match before.status:
            case ReportedStatus.LOADED:
                return False
            case ReportedStatus.RELOADING:
                await self._follow(node, model)
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
            await self._follow(node, model)
            return True
        match answer.status:
            case ReportedStatus.LOADED:
                return True
            case ReportedStatus.RELOADING:
                await self._follow(node, model)
                return False
            case ReportedStatus.NOT_FOUND:
                raise LoadFailedError(
                    "reload answered not_found: its reloading flag has leaked", wedged=True
                )
            case _:
                raise LoadFailedError(answer.error or f"the node says {answer.status}")

    async def _follow(self, node: NodeControl, model: ModelId) -> None:
        """Ask for the status until the load has ended; bounded by the caller's deadline."""
        refusals = 0
        while True:
            await asyncio.sleep(STATUS_INTERVAL_S)
            try:
                answer = await self._status(node, model)
            except NodeTimeoutError:
                continue  # a node may stall while it loads (contract §2.2)
            except NodeError:
                refusals += 1
                if refusals >= 3:
                    raise
                continue
            refusals = 0
            if answer.status is ReportedStatus.LOADED:
                return
            if answer.status is not ReportedStatus.RELOADING:
                raise LoadFailedError(
                    answer.error or f"the load ended with the model {answer.status}"
                )

    async def _status(self, node: NodeControl, model: ModelId) -> LifecycleAnswer:
        try:
            async with asyncio.timeout(STATUS_TIMEOUT_S):
                return await node.model_status(model)
        except TimeoutError as exc:
            raise NodeTimeoutError(f"no status within {STATUS_TIMEOUT_S:g} s") from exc

    async def _aftermath(self, name: NodeName, node: NodeControl, model: ModelId) -> None:
        """Keep what the load taught, and read the memory that is left."""
        try:
            async with asyncio.timeout(STATUS_TIMEOUT_S):
                self._state.learn(name, await node.system_info())
        except (TimeoutError, NodeError):
            pass  # the figure stays as old as it was; the next discovery reads it
        view = self._state.node(name)
        if view is None or model not in view.models:
            return
        try:
            await self._memory.save_residency(residency_record(name, view.models[model]))
        except StoreError as exc:
            log.warning(
                "load not saved", extra={"fields": {"model": model, "reason": exc.message}}
            )
