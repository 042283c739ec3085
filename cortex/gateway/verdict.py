"""What is to be thought of a node after it was asked: pure."""

from cortex.core.errors import NodeError, NodeUntriedError
from cortex.core.health import NodeHealth
from cortex.core.nodefaults import Blame
from cortex.core.snapshot import ModelStatus, NodeView
from cortex.core.traits import refused
from cortex.fleet.verdict import Verdict
from cortex.gateway.errors import NodeFaultError


def judged(node: NodeView | None, error: NodeError, route: str) -> Verdict:
    """What a failure before the first byte says of `node`, as it is known by now.

    Args:
        node: It.
        error: The failure.
        route: What was asked for.
    """
    if isinstance(error, NodeFaultError):
        fault = error.fault
        contradicts = None
        if fault.blame is Blame.STALE:
            loading = fault.code == "model_reloading"
            contradicts = ModelStatus.LOADING if loading else ModelStatus.UNLOADED
        if fault.blame is Blame.NODE:
            return Verdict(failure=fault.reason)
        return Verdict(
            count=False,
            used=fault.blame is Blame.CALLER,
            declined=refused(fault.code, fault.message, route),
            contradicts=contradicts,
            ask_node=contradicts is not None,
        )
    down = node is not None and node.liveness.health is NodeHealth.DOWN
    if isinstance(error, NodeUntriedError) or down:
        # Not its doing; or known by now, which says it all.
        return Verdict(count=False)
    unreachable = error.message if error.code == "node_unreachable" else None
    return Verdict(
        failure=error.message,
        unreachable=unreachable,
        ask_node=unreachable is not None,
    )
