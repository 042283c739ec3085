"""Admission: from a wanted model to a lease, through a bounded queue per model with a deadline."""

import asyncio
import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from cortex.core.decisions import Cause, Decision, Load, Reject, Serve, Wait, Want
from cortex.core.errors import CapacityError
from cortex.core.ids import ModelId
from cortex.core.pace import Pace
from cortex.core.plan import RETRY_AFTER_S, plan
from cortex.core.routing import pick
from cortex.fleet.lanes import (
    Lane,
    Lanes,
    Queue,
    Waiter,
    may_pass,
    unwanted,
    waits_since,
)
from cortex.fleet.lease import Beat, Lease
from cortex.fleet.state import FleetState


@dataclass(slots=True)
class Admitted:
    """A lease, and what was paid for it."""

    lease: Lease
    queue_s: float = 0.0
    load_wait_s: float = 0.0


class Admission:
    """Queues per model, fair to clients; the head alone decides, so none is overtaken.

    Those who want a given node, or not a node that failed them, wait in a lane of their own: they
    hold up nobody whom they leave nothing to.
    """

    def __init__(
        self,
        state: FleetState,
        *,
        begin_load: Callable[[Load], object],
        nobody_waits: Callable[[ModelId], None] = lambda _: None,
    ) -> None:
        self._state = state
        self._begin_load = begin_load
        #: Told when the last request that waited for a model went away unserved.
        self._nobody_waits = nobody_waits
        self._lanes: dict[ModelId, Lanes] = {}
        self._paces: dict[ModelId, Pace] = {}
        self._closed: str | None = None
        state.listeners.append(self._wake_heads)

    def depth(self, model: ModelId | None = None) -> int:
        """Requests waiting, for one model or in all."""
        if model is not None:
            return sum(map(len, self._lanes.get(model, {}).values()))
        return sum(map(self.depth, self._lanes))

    def depths(self) -> dict[ModelId, int]:
        return {model: self.depth(model) for model in self._lanes}

    def oldest_s(self) -> dict[ModelId, float]:
        """For how long the request has waited that has waited longest, by model; 0 = none waits."""
        now_s = self._state.clock.now_s()
        return {
            model: now_s
            - min((lane.oldest_s for lane in lanes.values() if lane), default=now_s)
            for model, lanes in self._lanes.items()
        }

    def close(self, reason: str) -> None:
        """Refuse what waits and what comes: the process is draining."""
        self._closed = reason
        self._wake_heads()

    async def acquire(self, want: Want, client: str = "", beat: Beat | None = None) -> Admitted:
        """Lease the model, loading it first where that is possible.

        1. A copy is free that nobody waits for: lease it, without any await.
        2. Otherwise queue (429 when the queue is full) and, at the head, decide anew after
           every change: serve, begin a load, wait on, or reject.
        3. Past the deadline: 503 with the expected wait as Retry-After. The time of a load, or
           of the drain before it, does not count, up to `load_timeout_s`.

        Args:
            want: `since_s` None = now; the deadline counts from it.
            client: Whom it waits for; clients are served in turn.
            beat: Done while it waits.

        Raises:
            CapacityError: Rejected, queue full, deadline passed, or draining.
        """
        lease = self.at_once(want)
        if lease is not None:
            return Admitted(lease)
        lanes = self._lanes.get(want.model)
        if lanes is None or may_pass(want, lanes):
            self._decide(want)  # which raises where a wait would be in vain
        return await self._wait_in_line(want, client, beat)

    def at_once(self, want: Want) -> Lease | None:
        """A lease that can be had without a load, a wait or passing those who wait; else None."""
        lanes = self._lanes.get(want.model)
        if self._closed is not None or (lanes and not may_pass(want, lanes)):
            return None
        picked = pick(self._state.snapshot(), want, now_s=self._state.clock.now_s())
        if picked is None or (lanes and not unwanted(picked[0].name, lanes)):
            return None
        return self._state.lease(picked[0].name, want.model)

    def explain(self, want: Want) -> Decision:
        """What `acquire` would decide for a request that came now."""
        return plan(
            self._state.snapshot(),
            want._replace(seniors=frozenset(self._lanes) - {want.model}),
            now_s=self._state.clock.now_s(),
        )

    def _decide(self, want: Want) -> Decision:
        if self._closed is not None:
            raise CapacityError(self._closed, code="draining", retry_after_s=RETRY_AFTER_S)
        decision = plan(self._state.snapshot(), want, now_s=self._state.clock.now_s())
        if isinstance(decision, Reject):
            raise CapacityError(
                decision.reason, code=decision.code, retry_after_s=decision.retry_after_s
            )
        return decision

    async def _wait_in_line(self, want: Want, client: str, beat: Beat | None) -> Admitted:
        lane = Lane(want.only, want.excluded)
        queue = self._lanes.setdefault(want.model, {}).setdefault(lane, Queue())
        waiting = self.depth(want.model)
        if waiting and waiting >= self._state.policy.max_queue:
            self._make_place(want, queue, client)
        began_s = self._state.clock.now_s()
        since_s = began_s if want.since_s is None else want.since_s
        loading_before_s = queue.loading_s(began_s) - want.load_waited_s
        waiter = Waiter(client, since_s, beat, loading_before_s)
        queue.add(waiter)
        served = False
        try:
            lease = await self._take_turns(want, waiter, queue)
            served = True
        finally:
            self._leave(want.model, lane, waiter, served=served)
        ended_s = self._state.clock.now_s()
        load_wait_s = queue.loading_s(ended_s) - waiter.loading_before_s - want.load_waited_s
        return Admitted(lease, queue_s=ended_s - began_s - load_wait_s, load_wait_s=load_wait_s)

    def _make_place(self, want: Want, queue: Queue, client: str) -> None:
        """Have the client with the most requests in a full queue give up its newest.

        Raises:
            CapacityError: `client` has its share already.
        """
        displaced = queue.to_displace(client)
        if displaced is None:
            if not queue:
                self._close_lane(want.model, Lane(want.only, want.excluded))
            raise self._queue_full(want, self.depth(want.model))
        # Now, not at its turn: many may come before that.
        queue.leave(displaced, served=False)
        displaced.displaced = True
        displaced.turn.set()

    def _queue_full(self, want: Want, waiting: int) -> CapacityError:
        return CapacityError(
            f"{waiting} requests are waiting for {want.model}",
            code="queue_full",
            retry_after_s=self._expected_wait_s(want),
        )

    async def _take_turns(self, want: Want, waiter: Waiter, queue: Queue) -> Lease:
        while True:
            waiter.turn.clear()
            if waiter.displaced:
                raise self._queue_full(want, self.depth(want.model))
            until_s = math.inf
            if queue.head is waiter or self._closed is not None:
                turn = self._take_turn(want, waiter, queue)
                if isinstance(turn, Lease):
                    return turn
                until_s = turn
            deadline_s = self._deadline_s(waiter, queue)
            if deadline_s <= self._state.clock.now_s():
                raise self._late(want, queue)
            await self._pause(waiter, min(until_s, deadline_s))

    def _take_turn(self, want: Want, waiter: Waiter, queue: Queue) -> Lease | float:
        """Decide for the queue; where nothing can be leased, until when (monotonic) that holds."""
        decision = self._decide(self._with_seniority(want, queue))
        waits = decision if isinstance(decision, Wait) else None
        loading = (isinstance(decision, Load) and not decision.another) or (
            waits is not None and waits.loading
        )
        if isinstance(decision, Serve) and queue.loads:
            queue.loaded()
        if queue.head_waits(self._state.clock.now_s(), for_load=loading):
            queue.wake_all_but(waiter)
        if isinstance(decision, Serve):
            return self._state.lease(decision.node, decision.model)
        if isinstance(decision, Load):
            waited_s = self._state.clock.now_s() - waiter.since_s
            by = "operator" if want.insists else "request"
            cause = Cause(by, want.request_id, waited_s)
            self._begin_load(replace(decision, cause=cause))
        return math.inf if waits is None or waits.recheck_s is None else waits.recheck_s

    def _deadline_s(self, waiter: Waiter, queue: Queue) -> float:
        """When `waiter` has waited long enough, as things are; a load that goes on defers it."""
        policy = self._state.policy
        patience_s, load_s = policy.queue_timeout_s, policy.load_timeout_s
        if not queue.loads:
            now_s = self._state.clock.now_s()
            load_s = min(load_s, queue.loading_s(now_s) - waiter.loading_before_s)
        return waiter.since_s + patience_s + load_s

    def _late(self, want: Want, queue: Queue) -> CapacityError:
        policy = self._state.policy
        slot = f"no slot for {want.model} within {policy.queue_timeout_s:g} s"
        load = f"{want.model} is still loading; a load may take {policy.load_timeout_s:g} s"
        return CapacityError(
            load if queue.loads else slot,
            code="queue_timeout",
            retry_after_s=self._expected_wait_s(want),
        )

    def _with_seniority(self, want: Want, queue: Queue) -> Want:
        """The want as the queue's oldest request has it, and what is left to others' requests."""
        since_s = queue.oldest_s
        mine = since_s, want.model
        seniors = (
            frozenset(
                model
                for model, lanes in self._lanes.items()
                if model != want.model
                and any(
                    other.has_a_claim or (other.oldest_s, model) < mine
                    for other in lanes.values()
                )
            )
            if len(self._lanes) > 1
            else frozenset()
        )
        deadline_s = since_s + self._state.policy.queue_timeout_s
        return want._replace(since_s=since_s, deadline_s=deadline_s, seniors=seniors)

    def _leave(self, model: ModelId, lane: Lane, waiter: Waiter, *, served: bool) -> None:
        if waiter.displaced:
            # It has left already, and another has its place; it may have been the head.
            self._wake_heads()
            return
        queue = self._lanes[model][lane]
        queue.leave(waiter, served=served)
        pace = self._paces.get(model, Pace())
        if served:
            pace = pace.served(self._state.clock.now_s())
        if not queue:
            pace = pace.emptied()
            if self._close_lane(model, lane) and not served:
                self._nobody_waits(model)
        self._paces[model] = pace
        # The next in line, and whoever the seniority of this one held back.
        self._wake_heads()

    def _close_lane(self, model: ModelId, lane: Lane) -> bool:
        """Take an empty lane away; True where it was the last of the model."""
        lanes = self._lanes[model]
        del lanes[lane]
        if not lanes:
            del self._lanes[model]
        return not lanes

    def _expected_wait_s(self, want: Want) -> float:
        """The load that is under way, then the queue at its measured pace."""
        decision = plan(
            self._state.snapshot(),
            want._replace(excluded=frozenset()),
            now_s=self._state.clock.now_s(),
        )
        load_s = decision.load_eta_s if isinstance(decision, Wait) else None
        queue_s = self._paces.get(want.model, Pace()).wait_s(self.depth(want.model))
        known = [seconds for seconds in (load_s, queue_s) if seconds is not None]
        return max(1.0, sum(known)) if known else RETRY_AFTER_S

    async def _pause(self, waiter: Waiter, recheck_s: float) -> None:
        """Wait for the turn, but not beyond `recheck_s`; beat meanwhile."""
        clock = self._state.clock
        until_s = min(recheck_s, waiter.beat_s)
        after_s = None if until_s == math.inf else max(0.0, until_s - clock.now_s())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(after_s):
                await waiter.turn.wait()
        if waiter.beat is not None and clock.now_s() >= waiter.beat_s:
            waiter.beat_s = clock.now_s() + waiter.beat.every_s
            waiter.beat.act()

    def _wake_heads(self) -> None:
        for lanes in self._lanes.values():
            # Whoever has waited longest chooses first where two lanes want the same slot.
            heads = [queue.head for queue in lanes.values() if queue]
            for head in sorted(heads, key=waits_since) if len(heads) > 1 else heads:
                head.turn.set()
