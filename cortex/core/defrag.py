"""When a node wants a restart to get its memory back in one piece: pure."""

from cortex.core.snapshot import NodeView

RESIDUE_SHARE = 0.1
"""Share of the device that unloads may leave behind before a restart is due."""


def why_due(node: NodeView, *, after_cycles: int) -> str:
    """Why a restart is due; "" = it is not, or `after_cycles` is 0, which means never."""
    if not after_cycles:
        return ""
    if node.cycles >= after_cycles:
        return f"{node.cycles} unload cycles since its restart, due after {after_cycles}"
    wedged = sorted(model.id for model in node.models.values() if model.wedged)
    if wedged:
        return f"{', '.join(wedged)} wedged: only a restart clears it"
    total = node.vram_total_mib
    if total is not None and node.residue_mib > RESIDUE_SHARE * total:
        return f"unloads left {node.residue_mib} MiB of {total} MiB behind"
    return ""
