"""What must hold of every node, whatever happened."""

from collections.abc import Iterable

from cortex.core.snapshot import ModelStatus, NodeView


def check(nodes: Iterable[NodeView]) -> None:
    """Raise an `AssertionError` that names the node and the counts."""
    for node in nodes:
        models = node.models.values()
        running = {m.id: m.in_flight for m in models if m.in_flight}
        assert node.in_flight == sum(running.values()), f"{node.name} counts {running}"
        assert all(count > 0 for count in running.values()), f"{node.name} counts {running}"
        unloading = {m.id for m in models if m.status is ModelStatus.UNLOADING}
        assert not unloading & running.keys(), f"{node.name} unloads {running}"
        ours = [m for m in models if m.status is ModelStatus.LOADING and not m.reported_loading]
        assert len(ours) <= 1, f"{node.name} loads {[m.id for m in ours]}"
