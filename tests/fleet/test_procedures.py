"""How a node's memory is seen to come back, and what counts as left behind."""

import logging
from collections.abc import Sequence

import pytest

from cortex.core.errors import NodeProtocolError, NodeTimeoutError
from cortex.core.ids import ModelId, RequestId
from cortex.core.listing import LifecycleAnswer, NodeInfo, ReportedStatus, Work
from cortex.fleet.procedures import Freed, UnloadFailedError, bring_in, take_out
from cortex.fleet.waits import Waits
from tests.fleet.fakes import Node

HASTY = Waits(verify_s=0.05, verify_first_s=0.0001, verify_longest_s=0.001)
A = ModelId("a")


class Releasing(Node):
    """Frees what it is told to, reading by reading; the last goes on. None = it fails to tell."""

    def __init__(self, readings: Sequence[int | None]) -> None:
        super().__init__(loaded=("a",))
        self.readings = list(readings)

    async def system_info(self) -> NodeInfo:
        free = self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]
        if free is None:
            raise NodeProtocolError("HTTP 503")
        return NodeInfo(version="0.9.2", vram_total_mib=24_000, free_mib=free)


@pytest.mark.parametrize(
    ("size_mib", "took_mib", "readings", "freed"),
    [
        # All back at once, or a little later; the noise of two readings is no leak.
        (8000, 8000, [10_000], Freed(mib=8000, residue_mib=0, free_mib=10_000)),
        (8000, 8000, [3000, 9000, 9980], Freed(mib=7980, residue_mib=0, free_mib=9980)),
        # Enough is back, but the rest does not come: a leak, though the unload is verified.
        (8000, 8000, [9200, 9200], Freed(mib=7200, residue_mib=800, free_mib=9200)),
        # A reading that moves still is waited for.
        (8000, 8000, [9200, 9700, 10_000], Freed(mib=8000, residue_mib=0, free_mib=10_000)),
        # A configured size may be a careful one: what it took counts, where that was measured.
        (10_000, 8000, [10_000], Freed(mib=8000, residue_mib=0, free_mib=10_000)),
        (10_000, None, [10_000], Freed(mib=8000, residue_mib=None, free_mib=10_000)),
        # Not enough in time.
        (8000, None, [6000], Freed(mib=4000, residue_mib=4000, free_mib=6000)),
        # More came back than it had taken: others on the card gave back too.
        (8000, 8000, [10_100], Freed(mib=8100, residue_mib=-100, free_mib=10_100)),
        # Nothing is known of its size: until two readings agree.
        (None, None, [2000, 7000, 7010], Freed(mib=5010, residue_mib=None, free_mib=7010)),
        # One reading that fails is not the end of it.
        (8000, 8000, [None, 10_000], Freed(mib=8000, residue_mib=0, free_mib=10_000)),
    ],
)
async def test_memory_comes_back(
    size_mib: int | None, took_mib: int | None, readings: list[int | None], freed: Freed
) -> None:
    node = Releasing(readings)
    told = await take_out(
        node, A, size_mib=size_mib, took_mib=took_mib, before_mib=2000, waits=HASTY
    )
    assert told == freed
    assert node.calls == ["unload a"]


class HardOfHearing(Node):
    """Misses the first calls to unload, or lets go without an answer."""

    def __init__(self, missed: int, *, heard: bool) -> None:
        super().__init__(loaded=("a",))
        self.missed, self.heard = missed, heard

    async def unload(self, model: ModelId) -> LifecycleAnswer:
        if self.missed:
            self.missed -= 1
            self.calls.append("missed")
            if self.heard:
                self.models[model] = ReportedStatus.UNLOADED
            raise NodeTimeoutError("no answer")
        return await super().unload(model)


@pytest.mark.parametrize(
    ("missed", "heard", "calls"),
    [(0, False, ["unload a"]), (1, False, ["missed", "unload a"]), (1, True, ["missed"])],
)
async def test_a_node_that_did_not_hear_is_told_once_more(
    missed: int, heard: bool, calls: list[str]
) -> None:
    node = HardOfHearing(missed, heard=heard)
    await take_out(node, A, size_mib=None, took_mib=None, before_mib=None, waits=HASTY)
    assert node.calls == calls


async def test_what_a_node_keeps_serves_on() -> None:
    node = HardOfHearing(2, heard=False)
    with pytest.raises(UnloadFailedError, match="the node says loaded") as caught:
        await take_out(node, A, size_mib=None, took_mib=None, before_mib=None, waits=HASTY)
    assert caught.value.serves
    assert node.calls == ["missed", "missed"]


class Lossy(Node):
    """Loads what it is asked for, and its answer never comes."""

    async def wake(self, model: ModelId, work: Work) -> str | None:
        self.models[model] = ReportedStatus.LOADED
        raise NodeTimeoutError("no answer")


async def test_a_lost_answer_is_told_with_the_request_it_was_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    request_id, node = RequestId("req-1"), Lossy(loaded=())
    node.models[A] = ReportedStatus.UNLOADED
    with caplog.at_level(logging.WARNING, "cortex.lifecycle"):
        assert await bring_in(node, A, Waits(status_interval_s=0.001), request_id)
    [told] = [getattr(record, "fields", {}) for record in caplog.records]
    assert told == {"request_id": request_id, "model": A, "reason": "no answer"}
