"""Loads and unloads, each owned here and not by the request that asked for it.

One transition at a time a node. A load reserves its memory and drains its victims before the
first await; then: victims idle → unloaded → memory back → still fits → loaded. Every step has a
deadline, and a step that does not come about leaves things as they were and lets the requests
that wait decide anew.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from cortex.core.decisions import Load
from cortex.core.errors import NodeError, StoreError
from cortex.core.footprint import taken_mib
from cortex.core.ids import ModelId, NodeName
from cortex.core.snapshot import needed_mib
from cortex.fleet.guard import Guard
from cortex.fleet.keeping import node_record, residency_record
from cortex.fleet.observations import Observations
from cortex.fleet.ports import FleetStore, NodeControl, Watcher
from cortex.fleet.procedures import (
    LoadFailedError,
    UnloadFailedError,
    bring_in,
    read_info,
    take_out,
)
from cortex.fleet.state import FleetState
from cortex.fleet.transitions import Transition, Transitions

log = logging.getLogger("cortex.lifecycle")


class _WithdrawnError(Exception):
    """A load ends before its node is asked, and nobody is to blame."""


class _Job:
    """A load or an unload under way."""

    def __init__(self, transition: Transition, *, awaited: bool = False) -> None:
        self.transition = transition
        #: Requests wait for it, and withdraw it when they give up.
        self.awaited = awaited
        #: The deadline of its drain, while it drains: moved to now, it ends the drain.
        self.drain: asyncio.Timeout | None = None
        self.unwanted = False


class Lifecycle:
    """Begins loads and unloads and sees them through."""

    def __init__(
        self,
        state: FleetState,
        *,
        store: FleetStore,
        client_of: Callable[[NodeName], NodeControl],
        watcher: Watcher,
        guard: Guard,
    ) -> None:
        self._state = state
        self._transitions = Transitions(state)
        self._observations = Observations(state)
        self._store = store
        self._client_of = client_of
        self._watcher = watcher
        self._guard = guard
        self._group: asyncio.TaskGroup
        self._tasks: dict[asyncio.Task[str | None], _Job] = {}

    def start(self, group: asyncio.TaskGroup) -> None:
        """Run the jobs in `group`."""
        self._group = group

    def stop(self) -> None:
        """Stop following what is under way; the nodes finish it, and the next start sees the result."""
        for task in self._tasks:
            task.cancel()

    def load(self, decision: Load, *, awaited: bool = False) -> asyncio.Future[str | None]:
        """Start the load that was just decided; no await since the snapshot it was made on.

        `awaited`: by requests, so what has to go is drained until it is idle or nobody waits any
        more. To give up and begin anew would cost those who use it twice.

        Returns:
            None once the model is loaded; else why it is not.
        """
        transition, victims = self._transitions.begin_load(decision)
        job = _Job(transition, awaited=awaited)
        work = partial(self._load, job, victims)
        return self._run(job, work, f"load {transition}", victims)

    def unload(self, node: NodeName, model: ModelId, reason: str) -> asyncio.Future[str | None]:
        """Drain and unload a resident model of a node where nothing else moves.

        Returns:
            None once its memory is back; else why it is still there.
        """
        transition = self._transitions.begin_drain(node, model, reason)
        job = _Job(transition)
        work = partial(self._unload, transition)
        return self._run(job, work, f"unload {transition}")

    def withdraw(self, model: ModelId) -> None:
        """Nobody waits for `model` any more: end loads of it that still drain their victims.

        A load that its node is at cannot be called back, and goes on.
        """
        for job in self._tasks.values():
            drain = job.drain
            if job.transition.model == model and drain is not None and not drain.expired():
                job.unwanted = True
                drain.reschedule(asyncio.get_running_loop().time())

    def _run(
        self,
        job: _Job,
        work: Callable[[], Awaitable[str | None]],
        name: str,
        victims: Sequence[Transition] = (),
    ) -> asyncio.Future[str | None]:
        """Own the job until it has ended; its result outlives whoever waits for it."""
        result: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

        def ended(task: asyncio.Task[str | None]) -> None:
            del self._tasks[task]
            if not result.done():
                stopping = task.cancelled()
                result.set_result("the gateway is stopping" if stopping else task.result())

        task = self._group.create_task(
            self._survive(work, (job.transition, *victims)), name=name
        )
        self._tasks[task] = job
        task.add_done_callback(ended)
        return result

    async def _survive(
        self, work: Callable[[], Awaitable[str | None]], moved: Sequence[Transition]
    ) -> str | None:
        """See to it that a bug leaves no model in the middle of a transition."""
        try:
            return await work()
        except Exception as exc:  # noqa: BLE001 - it would end the process
            self._guard.met("job", exc)
            failure = f"internal error: {type(exc).__name__}"
            for transition in moved:
                self._transitions.give_up(
                    transition, failure, spared_s=self._state.waits.cannot_unload_s
                )
            return failure

    async def _load(self, job: _Job, victims: Sequence[Transition]) -> str | None:
        """Bring the model in and tell the state; a failure is told, never raised."""
        transition = job.transition
        node = self._client_of(transition.node)
        free_mib: int | None = None
        failure: str | None = None
        try:
            await self._make_room(job, victims, node)
            free_mib = await self._measure(transition, node)
            self._check_room(transition)
            took_s = await self._bring_in(transition, node)
        except _WithdrawnError as exc:
            failure = str(exc)
            self._transitions.withdraw_load(transition, failure)
        except TimeoutError:
            failure = f"not loaded within {self._state.policy.load_timeout_s:g} s"
            self._transitions.fail_load(transition, reason=failure)
        except NodeError as exc:
            failure = exc.message
            wedged = isinstance(exc, LoadFailedError) and exc.wedged
            self._transitions.fail_load(
                transition, reason=failure, wedged=wedged, free_mib=free_mib
            )
        else:
            self._transitions.end_load(transition, load_s=took_s)
            await self._learn(transition, node, None if took_s is None else free_mib)
        finally:
            for victim in victims:
                self._transitions.revive(victim, f"{transition.model} no longer needs the room")
        await self._keep(transition)
        return failure

    async def _bring_in(self, transition: Transition, node: NodeControl) -> float | None:
        """Have the node load the model.

        Returns:
            How long that took in seconds; None = someone else had it loaded.

        Raises:
            NodeError: It was not loaded.
            TimeoutError: Nor was that said in time.
        """
        clock = self._state.clock
        began_s = clock.now_s()
        ours, ok = True, False
        try:
            async with asyncio.timeout(self._state.policy.load_timeout_s):
                ours = await bring_in(
                    node, transition.model, self._state.waits, transition.request_id
                )
            ok = True
        finally:
            spent_s = clock.now_s() - began_s
            if ours:
                self._watcher.load_ended(transition.node, transition.model, spent_s, ok=ok)
        return spent_s if ours else None

    async def _make_room(
        self, job: _Job, victims: Sequence[Transition], node: NodeControl
    ) -> None:
        """Wait until no victim is in use, then unload them one by one."""
        policy = self._state.policy
        drain_s = policy.load_timeout_s if job.awaited else policy.drain_timeout_s
        try:
            async with asyncio.timeout(drain_s) as job.drain:
                for victim in victims:
                    await self._state.idle(victim.ref, victim.model)
        except TimeoutError:
            if job.unwanted:
                raise _WithdrawnError("nobody waits for it any more") from None
            why = f"still in use after {drain_s:g} s"
            for victim in victims:
                view = self._state.model(victim.node, victim.model)
                if view is not None and view.in_flight:
                    self._transitions.revive(victim, why, spared_s=self._state.waits.spared_s)
            raise _WithdrawnError(f"what had to go is {why}") from None
        finally:
            job.drain = None
        for victim in victims:
            if not await self._take_out(victim, node):
                raise _WithdrawnError(f"{victim.model} could not be unloaded")

    async def _unload(self, transition: Transition) -> str | None:
        try:
            async with asyncio.timeout(self._state.policy.drain_timeout_s):
                await self._state.idle(transition.ref, transition.model)
        except TimeoutError:
            why = f"still in use after {self._state.policy.drain_timeout_s:g} s"
            self._transitions.revive(transition, why, spared_s=self._state.waits.spared_s)
            return why
        gone = await self._take_out(transition, self._client_of(transition.node))
        return None if gone else "the node did not let go of it"

    async def _take_out(self, victim: Transition, node: NodeControl) -> bool:
        """Unload one drained model; the cycle is kept before it counts as done."""
        view = self._state.model(victim.node, victim.model)
        if view is None or not self._transitions.begin_unload(victim):
            return False
        before_mib = await self._measure(victim, node)
        if not self._transitions.is_current(victim):
            # A new process, which may be using the model by now: not ours to unload.
            return False
        try:
            freed = await take_out(
                node,
                victim.model,
                size_mib=view.size_mib,
                took_mib=view.took_mib,
                before_mib=before_mib,
                waits=self._state.waits,
            )
        except UnloadFailedError as exc:
            spared_s = self._state.waits.cannot_unload_s
            self._transitions.fail_unload(
                victim, exc.message, serves=exc.serves, spared_s=spared_s
            )
            return False
        self._transitions.end_unload(victim, freed)
        await self._keep(victim)
        return True

    def _check_room(self, transition: Transition) -> None:
        """What was free when the load was decided may be gone, or not have come back."""
        view = self._state.node(transition.node)
        if view is None or not self._transitions.is_current(transition):
            raise _WithdrawnError("the node restarted or was removed")
        model = view.models[transition.model]
        need = model.size_mib
        available = view.available_mib(self._state.clock.now_s())
        if need is None or available is None or view.occupancy.count == 1:
            # Nothing else is there: sizes are estimates, and the node decides.
            return
        if need + available < needed_mib(model):
            raise _WithdrawnError(
                f"needs {need} MiB, {need + available} MiB are free after all"
            )

    async def _learn(
        self, transition: Transition, node: NodeControl, before_mib: int | None
    ) -> None:
        """Read what is left, and what the load took where nothing else moved meanwhile."""
        after_mib = await self._measure(transition, node)
        view = self._state.node(transition.node)
        if view is not None and view.moving is None:
            self._transitions.learn_size(transition, taken_mib(before_mib, after_mib))

    async def _measure(self, transition: Transition, node: NodeControl) -> int | None:
        info = await read_info(node, self._state.waits)
        if info is None:
            return None
        self._observations.informed(transition.node, info)
        return info.free_mib

    async def _keep(self, transition: Transition) -> None:
        """Write down what the transition changed."""
        view = self._state.node(transition.node)
        if view is None or transition.model not in view.models:
            return
        try:
            model = view.models[transition.model]
            await self._store.save(node_record(view), residency_record(view.name, model))
        except StoreError as exc:
            fields = {
                "transition": str(transition),
                "request_id": transition.request_id,
                "reason": exc.message,
            }
            log.warning("not saved", extra={"fields": fields})
