"""Admission: from a wanted model to a lease, through a bounded queue per model with a deadline."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from cortex.core.decisions import Decision, Load, Reject, Serve, Wait, Want
from cortex.core.errors import CapacityError
from cortex.core.ids import ModelId
from cortex.core.plan import RETRY_AFTER_S, plan
from cortex.fleet.ports import Clock
from cortex.fleet.state import FleetState, Lease


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePolicy:
    max_queue: int
    timeout_s: float


@dataclass(slots=True)
class Admitted:
    """A lease, and what was paid for it."""

    lease: Lease
    queue_s: float = 0.0
    load_wait_s: float = 0.0


class _Waiter:
    """One request in the queue. Its turn comes when it is at the head and something changed."""

    __slots__ = ("turn",)

    def __init__(self) -> None:
        self.turn = asyncio.Event()


class _Queue(deque[_Waiter]):
    """Who waits for one model, and how long it has been for a load rather than for a slot."""

    def __init__(self) -> None:
        super().__init__()
        self._loading_s = 0.0
        self._since_s: float | None = None

    def loading_s(self, now_s: float) -> float:
        """Time spent on loads so far, whoever was at the head."""
        under_way_s = 0.0 if self._since_s is None else now_s - self._since_s
        return self._loading_s + under_way_s

    def head_waits(self, now_s: float, *, for_load: bool) -> None:
        """The head has decided anew."""
        self._loading_s = self.loading_s(now_s)
        self._since_s = now_s if for_load else None


class Admission:
    """Queues per model, first come first served; the head alone decides, so none is overtaken."""

    def __init__(
        self,
        state: FleetState,
        *,
        clock: Clock,
        policy: QueuePolicy,
        begin_load: Callable[[Load], None],
    ) -> None:
        self._state = state
        self._clock = clock
        self.policy = policy
        self._begin_load = begin_load
        self._queues: dict[ModelId, _Queue] = {}
        self._closed: str | None = None
        state.on_change = self._wake_heads

    def depth(self, model: ModelId | None = None) -> int:
        """Requests waiting, for one model or in all."""
        if model is not None:
            return len(self._queues.get(model, ()))
        return sum(len(queue) for queue in self._queues.values())

    def depths(self) -> dict[ModelId, int]:
        return {model: len(queue) for model, queue in self._queues.items()}

    def close(self, reason: str) -> None:
        """Refuse what waits and what comes: the process is draining."""
        self._closed = reason
        for queue in self._queues.values():
            for waiter in queue:
                waiter.turn.set()

    async def acquire(self, want: Want) -> Admitted:
        """Lease the model, loading it first where that is possible.

        1. Nobody waits for the model, and a copy is free: lease it, without any await.
        2. Otherwise queue (429 when the queue is full) and, at the head, decide anew after
           every change: serve, begin a load, wait on, or reject.
        3. Past the deadline: 503 with the learned load time as Retry-After.

        Raises:
            CapacityError: Rejected, queue full, deadline passed, or draining.
        """
        if want.model not in self._queues:
            decision = self._decide(want)
            if isinstance(decision, Serve):
                return Admitted(self._state.lease(decision.node, decision.model))
        return await self._wait_in_line(want)

    def _decide(self, want: Want) -> Decision:
        if self._closed is not None:
            raise CapacityError(self._closed, code="draining", retry_after_s=RETRY_AFTER_S)
        decision = plan(self._state.snapshot(), want, now_s=self._clock.now_s())
        if isinstance(decision, Reject):
            raise CapacityError(
                decision.reason, code=decision.code, retry_after_s=decision.retry_after_s
            )
        return decision

    async def _wait_in_line(self, want: Want) -> Admitted:
        queue = self._queues.setdefault(want.model, _Queue())
        if queue and len(queue) >= self.policy.max_queue:
            raise CapacityError(
                f"{len(queue)} requests are waiting for {want.model}",
                code="queue_full",
                retry_after_s=self._expected_wait_s(want),
            )
        waiter = _Waiter()
        queue.append(waiter)
        began_s = self._clock.now_s()
        loading_before_s = queue.loading_s(began_s)
        try:
            async with asyncio.timeout(self.policy.timeout_s):
                lease = await self._take_turns(want, waiter, queue)
        except TimeoutError as exc:
            raise CapacityError(
                f"no slot for {want.model} within {self.policy.timeout_s:g} s",
                code="queue_timeout",
                retry_after_s=self._expected_wait_s(want),
            ) from exc
        finally:
            queue.remove(waiter)
            if queue:
                queue[0].turn.set()
            elif self._queues.get(want.model) is queue:
                del self._queues[want.model]
        ended_s = self._clock.now_s()
        load_wait_s = queue.loading_s(ended_s) - loading_before_s
        return Admitted(lease, queue_s=ended_s - began_s - load_wait_s, load_wait_s=load_wait_s)

    async def _take_turns(self, want: Want, waiter: _Waiter, queue: _Queue) -> Lease:
        while True:
            if queue[0] is waiter or self._closed is not None:
                waiter.turn.clear()
                decision = self._decide(want)
                loading = isinstance(decision, Load) or (
                    isinstance(decision, Wait) and decision.loading
                )
                queue.head_waits(self._clock.now_s(), for_load=loading)
                match decision:
                    case Serve(node=node, model=model):
                        return self._state.lease(node, model)
                    case Load():
                        self._begin_load(decision)
                    case Wait():
                        pass
                    case Reject():
                        raise AssertionError("_decide raises it")
            await waiter.turn.wait()

    def _expected_wait_s(self, want: Want) -> float:
        decision = plan(
            self._state.snapshot(),
            replace(want, excluded=frozenset()),
            now_s=self._clock.now_s(),
        )
        if isinstance(decision, Wait) and decision.load_eta_s is not None:
            return decision.load_eta_s
        return RETRY_AFTER_S

    def _wake_heads(self) -> None:
        for queue in self._queues.values():
            if queue:
                queue[0].turn.set()
