"""How long a reading of a device's free memory keeps a model out."""

from cortex.core.decisions import Load, Reject
from cortex.core.plan import plan
from cortex.core.snapshot import FRESH_S
from tests.core.fleets import absent, fleet, node, want


def test_memory_that_nobody_accounts_for_keeps_a_model_out_while_the_reading_is_fresh() -> None:
    read_s = 1000.0
    snapshot = fleet(node("n", absent(6), total_mib=8, free_mib=2, free_read_s=read_s))
    refused = plan(snapshot, want(), now_s=read_s + FRESH_S)
    assert isinstance(refused, Reject)
    assert refused.code == "no_room"
    assert "needs 6 MiB, free 2 MiB, total 8 MiB" in refused.reason
    # Later it is tried: a load reads the memory anew before it begins.
    tried = plan(snapshot, want(), now_s=read_s + FRESH_S + 0.1)
    assert isinstance(tried, Load)
    assert tried.evict == ()
