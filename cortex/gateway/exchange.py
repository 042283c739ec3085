"""One request's way through the fleet, whatever its dialect: admit, choose, ready, relay, account."""

import math
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from cortex.core.amend import Amendment, wish
from cortex.core.decisions import Want
from cortex.core.errors import (
    CapacityError,
    CortexError,
    NodeError,
    NodeSilentError,
    NodeUntriedError,
)
from cortex.core.ids import NodeName
from cortex.core.nodefaults import Blame, NodeFault
from cortex.fleet.admission import Admitted
from cortex.fleet.lease import Beat, Lease
from cortex.fleet.verdict import SERVED, UNHEARD, Verdict
from cortex.gateway.auth import Caller
from cortex.gateway.body import Body
from cortex.gateway.call import Call
from cortex.gateway.errors import NodeFaultError
from cortex.gateway.gaps import GapTimer
from cortex.gateway.line import Line
from cortex.gateway.opening import COMMENT_S, Opening
from cortex.gateway.ports import Sending
from cortex.gateway.relay import Dialect, cut
from cortex.gateway.relayed import Relayed
from cortex.gateway.services import Services
from cortex.gateway.tries import Tries
from cortex.gateway.verdict import judged

KEPT_BYTES = 16 * 1024
"""A request of no more is kept while it is answered, for a node's words to be compared with."""
GENERATING = frozenset({"chat", "completions", "messages", "responses"})
"""Routes whose whole answers take a node as long as it likes."""
MAX_ATTEMPTS = 3
"""Nodes tried for one request before its first byte."""


class Relay(Protocol):
    """Sends the request on and puts the answer before the client; see `relay.Passing`."""

    async def __call__(
        self,
        call: Call,
        sending: Sending,
        line: Line,
        *,
        timer: GapTimer,
        lines: str,
        answered: Callable[[], None],
    ) -> Relayed: ...


@dataclass(slots=True)
class Outbound:
    """What a node is sent, and how its answer comes back."""

    path: str
    body: Body
    relay: Relay
    in_one_piece: bool = False
    """The node says nothing until its answer is whole."""
    brief: bool = False
    """That takes it no longer than a stream may be silent."""


Wishes = Collection[Amendment]
OutboundFor = Callable[[NodeName, Wishes], Outbound | Awaitable[Outbound]]
"""For one node, in the form that it wishes: at once, or where that is much to do, beside the loop."""


class Exchange:
    """One request on its way to an answer: admit, send, relay, and on failure another node."""

    __slots__ = (
        "_call",
        "_caller",
        "_dialect",
        "_generates_whole",
        "_kept",
        "_line",
        "_outbound_for",
        "_svc",
        "_wishes",
    )

    def __init__(
        self,
        call: Call,
        caller: Caller,
        svc: Services,
        line: Line,
        outbound_for: OutboundFor,
        dialect: Dialect,
    ) -> None:
        self._call = call
        self._caller = caller
        self._svc = svc
        self._line = line
        self._outbound_for = outbound_for
        self._dialect = dialect
        record = line.record
        self._generates_whole = not record.stream and record.route in GENERATING
        #: Of the node that is asked, as far as they were known then.
        self._wishes: Wishes = ()
        #: The body that is being answered, if it is small.
        self._kept: bytes | None = None

    async def run(self, want: Want, sticky: str | int) -> None:
        """Serve, within the limits of the caller; once something was said, a failure is told in the stream.

        Raises:
            CortexError: Nothing has been sent yet.
        """
        svc, line, caller = self._svc, self._line, self._caller
        beat = None
        if line.record.stream:
            opening = Opening(self._call.reply, line, self._dialect.waiting)
            beat = Beat(opening.beat, COMMENT_S)
        tries = Tries(want)
        if caller.limits is not None:
            svc.quotas.enter(caller, caller.limits)
        try:
            svc.fleet.asked(want)
            while (node := await self._served_by(tries, beat)) is None:
                pass
        except CortexError as exc:
            if not self._call.reply.begun:
                raise
            line.failed(exc)
            cut(self._call, exc, self._dialect)
        else:
            svc.fleet.affinity.served(want.model, sticky, node)
        finally:
            # It refers to this frame, and this frame to it and to the body: nobody would free them.
            tries.failure = None
            if caller.limits is not None:
                svc.quotas.leave(caller)

    async def _served_by(self, tries: Tries, beat: Beat | None) -> NodeName | None:
        """Try one node; returns who has sent its first byte, None = another is to be tried.

        1. Lease. 2. Relay. 3. A node that failed before the first byte is excluded and another is
        chosen. 4. A node that turned out not to hold the model is believed and asked by a poll;
        the choice begins anew, and may be to wait for it. 5. A failure that may be the request's
        own is settled by a second opinion. 6. What a node refused for its form alone is sent to it
        again in the form it takes. 7. When no node is left, the first failure is the answer: it
        says more than "no node left".
        """
        admitted = self._admit_at_once(tries) or await self._admit(tries, beat)
        lease = admitted.lease
        try:
            try:
                await self._attempt(admitted)
            except NodeFaultError as exc:
                undecided = exc.fault.blame is Blame.UNDECIDED
                other = (
                    await self._second_opinion(tries.want, lease.node, exc.fault)
                    if undecided
                    else None
                )
                if other is None:
                    raise
                return other
        except NodeError as exc:
            if self._learned(lease, exc):
                tries.want = tries.want._replace(preferred=lease.node)
                return None
            if self._settled(exc):
                raise
            tries.failed(lease.node, exc)
            if self._line.record.attempts >= MAX_ATTEMPTS:
                # With itself as its cause it would never be freed.
                raise tries.failure or exc from None
            # While it waits for another, it is on no node.
            self._line.record.node = None
            return None
        return lease.node

    def _settled(self, failure: NodeError) -> bool:
        """No other node would help: the request is at fault, or one has been asked already.

        Or the node may be at work on a whole answer, and another would be at work beside it.
        """
        if isinstance(failure, NodeSilentError):
            return failure.at_work and self._generates_whole
        return isinstance(failure, NodeFaultError) and failure.fault.blame in (
            Blame.CALLER,
            Blame.UNDECIDED,
        )

    def _learned(self, lease: Lease, failure: NodeError) -> bool:
        """Whether the node has said by this refusal what form it takes, and was not asked in it."""
        if not isinstance(failure, NodeFaultError) or failure.node != lease.node:
            return False
        wanted = wish(failure.fault.message) if failure.fault.blame is Blame.CALLER else None
        if wanted is None or wanted in self._wishes:
            return False
        self._svc.wishes.learn(lease.node, lease.model, wanted)
        return True

    def _admit_at_once(self, tries: Tries) -> Admitted | None:
        """What nearly every request gets, without a wait."""
        fleet = self._svc.fleet
        lease = fleet.lease_at_once(tries.wanted(fleet.clock.now_s()))
        if lease is None:
            return None
        admitted = Admitted(lease)
        self._line.admitted(admitted)
        return admitted

    async def _admit(self, tries: Tries, beat: Beat | None) -> Admitted:
        svc, line = self._svc, self._line
        clock = svc.fleet.clock
        began_s = clock.now_s()
        try:
            wanted = tries.wanted(began_s)
            admitted = await svc.fleet.lease(wanted, self._caller.share, beat)
        except CapacityError as exc:
            line.record.queue_ms += (clock.now_s() - began_s) * 1000
            line.record.node = tries.failed_on
            raise tries.failure or exc from None
        tries.admitted(admitted)
        line.admitted(admitted)
        return admitted

    async def _second_opinion(
        self, want: Want, first: NodeName, doubt: NodeFault
    ) -> NodeName | None:
        """Settle whose failure `doubt` of `first` was, by one more node that holds the model now.

        1. It serves: the first node's. 2. It says the same: the request's own, and nobody's
        failure. 3. There is no such node, or it fails otherwise: the first node's as far as anyone
        can tell, but only once for this client.

        Returns:
            The node that served; None in the third case.

        Raises:
            NodeFaultError: The request is at fault.
        """
        svc, model, who = self._svc, want.model, self._caller.who
        others = want._replace(excluded=want.excluded | {first}, preferred=None)
        lease = svc.fleet.lease_at_once(others)
        if lease is not None:
            admitted = Admitted(lease)
            self._line.admitted(admitted)
            try:
                relayed = await self._attempt(admitted)
            except NodeFaultError as exc:
                second = exc.fault
                if second.blame is Blame.CALLER:
                    raise
                if second.blame is Blame.UNDECIDED:
                    if second.alike(doubt):
                        raise NodeFaultError(first, doubt.of_the_caller()) from exc
                    svc.fleet.blame(lease.node, model, second.reason, client=who)
            except NodeError:
                pass  # counted there already
            else:
                served = relayed.failure is None
                svc.fleet.blame(first, model, doubt.reason, client=None if served else who)
                return lease.node
        self._line.record.node = first
        svc.fleet.blame(first, model, doubt.reason, client=who)
        return None

    async def _attempt(self, admitted: Admitted) -> Relayed:
        """One node: send, relay, and give the lease back with what is to be thought of the node."""
        svc, line, call = self._svc, self._line, self._call
        lease, node, relays = admitted.lease, admitted.lease.node, svc.recent.relays
        verdict = UNHEARD
        outbound: Outbound | None = None
        timer: GapTimer | None = None
        self._wishes = wishes = svc.wishes.of(node, lease.model)
        try:
            made = self._outbound_for(node, wishes)
            outbound = made if isinstance(made, Outbound) else await made
            sending = svc.nodes[node].send(
                "POST",
                outbound.path,
                call.facts.forwarded,
                outbound.body,
                own=line.own_lines(node),
            )
            timer = self._timer(outbound, sending)
            timer.asks = lease
            relays.add(timer)
            relayed = await outbound.relay(
                call,
                sending,
                line,
                timer=timer,
                lines=_response_lines(line),
                answered=partial(self._let_go, outbound.body, timer),
            )
            if isinstance(relayed.failure, NodeFaultError) and self._kept is not None:
                relayed.failure.compared([self._kept])
            line.relayed(relayed)
            verdict = SERVED if relayed.failure is None else self._told(lease, relayed.failure)
            return relayed
        except NodeError as exc:
            if isinstance(exc, NodeFaultError) and outbound is not None:
                exc.compared(outbound.body.chunks)
            verdict = judged(svc.fleet.node(lease.node), exc, line.record.route)
            raise
        finally:
            if timer is not None:
                relays.discard(timer)
            # By the name that it has now.
            line.record.node = lease.node
            svc.fleet.ended(lease, verdict)

    def _timer(self, outbound: Outbound, sending: Sending) -> GapTimer:
        limits = self._svc.config.limits
        gap_s, bound_s, at_once = limits.idle_timeout_s, math.inf, outbound.in_one_piece
        if self._generates_whole:
            bound_s = limits.answer_timeout_s
            gap_s = bound_s if at_once and not outbound.brief else gap_s
        return GapTimer(gap_s, bound_s, sending, self._line, self._call.reply, at_work=at_once)

    def _told(self, lease: Lease, error: CortexError) -> Verdict:
        """What an answer that failed after it was begun says of its node."""
        if isinstance(error, NodeUntriedError) or not isinstance(error, NodeError):
            verdict = SERVED  # the client's doing, or the gateway's
        elif not isinstance(error, NodeFaultError):
            verdict = Verdict(failure=error.message)
        elif error.fault.blame is Blame.UNDECIDED:
            # Nobody can be asked for a second opinion any more.
            verdict = Verdict(failure=error.fault.reason, client=self._caller.who)
        else:
            node = self._svc.fleet.node(lease.node)
            verdict = replace(judged(node, error, self._line.record.route), count=True)
        return replace(verdict, ask_node=True)

    def _let_go(self, body: Body, timer: GapTimer) -> None:
        """A stream may last for minutes, and a conversation may be megabytes."""
        timer.asks = None
        self._kept = b"".join(body.chunks) if body.size <= KEPT_BYTES else None
        body.release()
        self._svc.room.leave(self._call.source)


def _response_lines(line: Line) -> str:
    """Header lines of every answer: where it comes from."""
    record = line.record
    cold = "true" if record.cold_start else "false"
    return (
        f"x-cortex-node: {record.node or ''}\r\n"
        f"x-cortex-model: {record.model or ''}\r\n"
        f"x-cortex-cold-start: {cold}\r\n"
    )
