"""What is to be thought of a node after it was asked."""

from dataclasses import dataclass

from cortex.core.errors import NodeError, NodeUntriedError
from cortex.core.health import NodeHealth
from cortex.core.nodefaults import Blame
from cortex.core.snapshot import ModelStatus
from cortex.fleet.state import Lease
from cortex.gateway.errors import NodeFaultError
from cortex.gateway.services import Services


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be thought of a node; see `FleetState.release`."""

    failure: str | None = None
    client: str | None = None
    count: bool = True
    used: bool = False


UNHEARD = Verdict(count=False, used=True)
"""The client went away, or cortex has a bug."""
SERVED = Verdict(used=True)


def judged(svc: Services, lease: Lease, error: NodeError) -> Verdict:
    """What a failure before the first byte says of the node; tells the fleet what it must know."""
    name = lease.node
    if isinstance(error, NodeFaultError):
        fault = error.fault
        if fault.blame is Blame.STALE:
            loading = fault.code == "model_reloading"
            status = ModelStatus.LOADING if loading else ModelStatus.UNLOADED
            svc.observations.contradicted(name, lease.model, status)
            svc.poller.kick(name)
        if fault.blame is Blame.NODE:
            return Verdict(fault.reason)
        return Verdict(count=False, used=fault.blame is Blame.CALLER)
    view = svc.state.node(name)
    down = view is not None and view.liveness.health is NodeHealth.DOWN
    if isinstance(error, NodeUntriedError) or down:
        # Not its doing; or known by now, which says it all.
        return Verdict(count=False)
    if error.code == "node_unreachable":
        svc.observations.refused(name, error.message)
        svc.poller.kick(name)
    return Verdict(error.message)
