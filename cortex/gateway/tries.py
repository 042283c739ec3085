"""What one request has met on its way through the nodes."""

from cortex.core.decisions import Want
from cortex.core.errors import NodeError
from cortex.core.ids import NodeName
from cortex.core.nodefaults import Blame
from cortex.fleet.admission import Admitted
from cortex.gateway.errors import NodeFaultError


class Tries:
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
