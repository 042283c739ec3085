"""One request's way through the fleet, whatever its dialect: admit, choose, ready, relay, account."""

import math
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Protocol

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
from cortex.gateway.recent import Failing
from cortex.gateway.relay import Dialect, cut
from cortex.gateway.relayed import Relayed
from cortex.gateway.services import Services
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
        headers: Mapping[str, str],
        answered: Callable[[], None],
    ) -> Relayed: ...


class Outbound(NamedTuple):
    """What a node is sent, and how its answer comes back."""

    path: str
    body: Body
    relay: Relay
    in_one_piece: bool = False
    """The node says nothing until its answer is whole."""
    brief: bool = False
    """That takes it no longer than a stream may be silent."""


OutboundFor = Callable[[NodeName], Outbound | Awaitable[Outbound]]
"""For one node: at once, or where that is much to do, beside the loop."""


class _Tries:
    """What a request has met on its way through the nodes, and what it may still want."""

    __slots__ = ("_loads_s", "_queued_s", "_stale", "failed_on", "failure", "want")

    def __init__(self, want: Want) -> None:
        self.want = want
        #: What it has waited so far, for slots and for loads: all tries share one deadline.
        self._queued_s = 0.0
        self._loads_s = 0.0
        #: The first, and where it was.
        self.failure: NodeError | None = None
        self.failed_on: NodeName | None = None
        self._stale: set[NodeName] = set()

    def wanted(self, now_s: float) -> Want:
        """What to ask for now."""
        waited_s = self._queued_s + self._loads_s
        if not waited_s:
            return self.want
        return self.want._replace(since_s=now_s - waited_s, load_waited_s=self._loads_s)

    def admitted(self, admitted: Admitted) -> None:
        self._queued_s += admitted.queue_s
        self._loads_s += admitted.load_wait_s

    def failed(self, node: NodeName, failure: NodeError) -> None:
        """Leave `node` out from now on; not yet where it only did not hold the model."""
        stale = isinstance(failure, NodeFaultError) and failure.fault.blame is Blame.STALE
        if stale and node not in self._stale:
            self._stale.add(node)
            return
        if self.failure is None:
            self.failure, self.failed_on = failure, node
        excluded = self.want.excluded | {node}
        self.want = self.want._replace(excluded=excluded, preferred=None)


class Exchange:
    """One request on its way to an answer: admit, send, relay, and on failure another node."""

    __slots__ = ("_call", "_caller", "_dialect", "_kept", "_line", "_outbound_for", "_svc")

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
        #: The body that is being answered, if it is small.
        self._kept: bytes | None = None

    async def run(self, want: Want, sticky: str | int) -> None:
        """Serve; once something was said, a failure is told in the stream.

        Raises:
            CortexError: Nothing has been sent yet.
        """
        try:
            await self._serve(want, sticky)
        except CortexError as exc:
            if not self._call.reply.begun:
                raise
            self._line.failed(exc)
            cut(self._call, exc, self._dialect)

    async def _serve(self, want: Want, sticky: str | int) -> None:
        """Try nodes until one has sent its first byte.

        1. Lease. 2. Relay. 3. A node that failed before the first byte is excluded and another is
        chosen. 4. A node that turned out not to hold the model is believed and asked by a poll;
        the choice begins anew, and may be to wait for it. 5. A failure that may be the request's
        own is settled by a second opinion. 6. What a node refused for its form alone is sent to it
        again in the form it takes. 7. When no node is left, the first failure is the answer: it
        says more than "no node left".
        """
        line = self._line
        beat = None
        if line.record.stream:
            opening = Opening(self._call.reply, line, self._dialect.waiting)
            beat = Beat(opening.beat, COMMENT_S)
        self._svc.fleet.asked(want)
        tries = _Tries(want)
        try:
            while True:
                admitted = self._admit_at_once(tries) or await self._admit(tries, beat)
                known = self._svc.wishes.of(admitted.lease.node, want.model)
                try:
                    node = await self._served_by(tries.want, admitted)
                except NodeError as exc:
                    if self._learned(admitted.lease, known, exc):
                        tries.want = tries.want._replace(preferred=admitted.lease.node)
                        continue
                    if self._settled(exc):
                        raise
                    tries.failed(admitted.lease.node, exc)
                    if line.record.attempts >= MAX_ATTEMPTS:
                        # With itself as its cause it would never be freed.
                        raise tries.failure or exc from None
                    # While it waits for another, it is on no node.
                    line.record.node = None
                else:
                    self._svc.fleet.affinity.served(want.model, sticky, node)
                    return
        finally:
            # It refers to this frame, and this frame to it and to the body: nobody would free them.
            tries.failure = None

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

    def _learned(self, lease: Lease, known: Collection[Amendment], failure: NodeError) -> bool:
        """Whether the node has said by this refusal what form it takes, and was not `known` to."""
        if not isinstance(failure, NodeFaultError) or failure.node != lease.node:
            return False
        wanted = wish(failure.fault.message) if failure.fault.blame is Blame.CALLER else None
        if wanted is None or wanted in known:
            return False
        self._svc.wishes.learn(lease.node, lease.model, wanted)
        return True

    def _admit_at_once(self, tries: "_Tries") -> Admitted | None:
        """What nearly every request gets, without a wait."""
        fleet = self._svc.fleet
        lease = fleet.lease_at_once(tries.wanted(fleet.clock.now_s()))
        if lease is None:
            return None
        admitted = Admitted(lease)
        self._line.admitted(admitted)
        return admitted

    async def _admit(self, tries: "_Tries", beat: Beat | None) -> Admitted:
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

    async def _served_by(self, want: Want, admitted: Admitted) -> NodeName:
        """Attempt it there, and where it then takes a second opinion, elsewhere; returns where."""
        first = admitted.lease.node
        try:
            await self._attempt(admitted)
        except NodeFaultError as exc:
            if exc.fault.blame is not Blame.UNDECIDED:
                raise
            other = await self._second_opinion(want, first, exc.fault)
            if other is None:
                raise
            return other
        return first

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
        lease, node = admitted.lease, admitted.lease.node
        verdict = UNHEARD
        outbound: Outbound | None = None
        sending: Sending | None = None
        unanswered = svc.recent.unanswered(node)
        line.attempt()
        try:
            made = self._outbound_for(node)
            outbound = made if isinstance(made, Outbound) else await made
            sending = svc.nodes[node].send(
                "POST",
                outbound.path,
                call.facts.forwarded,
                outbound.body,
                own=line.own_headers(node),
            )
            unanswered.add(sending)
            relayed = await outbound.relay(
                call,
                sending,
                line,
                timer=self._timer(outbound),
                headers=_response_headers(line),
                answered=partial(self._let_go, outbound.body, unanswered, sending),
            )
            verdict = self._told(lease, relayed)
            return relayed
        except NodeError as exc:
            if isinstance(exc, NodeFaultError) and outbound is not None:
                exc.compared(outbound.body.chunks)
            verdict = judged(svc.fleet.node(lease.node), exc, line.record.route)
            raise
        finally:
            if sending is not None:
                unanswered.discard(sending)
            # By the name that it has now.
            line.record.node = lease.node
            svc.fleet.ended(lease, verdict)

    def _timer(self, outbound: Outbound) -> GapTimer:
        line, limits = self._line, self._svc.config.limits
        gap_s, bound_s = limits.idle_timeout_s, math.inf
        if self._generates_whole:
            bound_s = limits.answer_timeout_s
            gap_s = bound_s if outbound.in_one_piece and not outbound.brief else gap_s
        return GapTimer(
            gap_s,
            self._svc.recent.relays,
            line,
            self._call.reply,
            bound_s=bound_s,
            at_work=outbound.in_one_piece,
        )

    @property
    def _generates_whole(self) -> bool:
        record = self._line.record
        return not record.stream and record.route in GENERATING

    def _told(self, lease: Lease, relayed: Relayed) -> Verdict:
        """What an answer that was begun says of its node."""
        error = relayed.failure
        if isinstance(error, NodeFaultError) and self._kept is not None:
            error.compared([self._kept])
        self._line.relayed(relayed)
        if error is None:
            return SERVED
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

    def _let_go(self, body: Body, unanswered: set[Failing], sending: Sending) -> None:
        """A stream may last for minutes, and a conversation may be megabytes."""
        unanswered.discard(sending)
        self._kept = b"".join(body.chunks) if body.size <= KEPT_BYTES else None
        body.release()
        self._svc.room.leave(self._call.source)


def _response_headers(line: Line) -> dict[str, str]:
    record = line.record
    return {
        "x-cortex-node": record.node or "",
        "x-cortex-model": record.model or "",
        "x-cortex-cold-start": "true" if record.cold_start else "false",
    }
