"""One timer looks after all exchanges; it ends those that are overdue, and itself."""

import asyncio
import math

import pytest

from cortex.core.errors import CortexError
from cortex.gateway.gaps import LONGEST_S, LOOKS, Gaps


class Exchange:
    """Ends at the look of a given number."""

    def __init__(self, gaps: Gaps, *, shortest_s: float, looks: float = math.inf) -> None:
        self.shortest_s = shortest_s
        self.looks = looks
        self.looked = asyncio.Event()
        self.ended = asyncio.Event()
        self._gaps = gaps
        gaps.add(self)

    def look(self) -> None:
        self.looks -= 1
        self.looked.set()
        if self.looks <= 0:
            self.cut(CortexError("silent"))

    def cut(self, _error: CortexError) -> None:
        self._gaps.discard(self)
        self.ended.set()


async def test_all_share_one_timer_that_ends_with_the_last() -> None:
    gaps = Gaps()
    async with asyncio.timeout(5):
        one = Exchange(gaps, shortest_s=0.02, looks=2)
        others = [Exchange(gaps, shortest_s=300.0, looks=2 + n) for n in range(3)]
        assert len(gaps) == 4
        for exchange in (one, *others):
            await exchange.ended.wait()
        assert len(gaps) == 0
        # And it begins anew.
        await Exchange(gaps, shortest_s=0.02, looks=1).ended.wait()


async def test_it_looks_often_enough_for_the_shortest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delays: list[float] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def noted(delay: float, call: object, *args: object) -> asyncio.TimerHandle:
        delays.append(delay)
        return call_later(0.001, call, *args)  # type: ignore[arg-type]

    gaps = Gaps()
    with monkeypatch.context() as patched:
        patched.setattr(type(loop), "call_later", lambda _, *args: noted(*args))
        async with asyncio.timeout_at(loop.time() + 5):
            slow = Exchange(gaps, shortest_s=300.0)
            await slow.looked.wait()
            assert set(delays) == {LONGEST_S}
            quick = Exchange(gaps, shortest_s=0.5)
            assert delays[-1] == 0.5 / LOOKS
            for exchange in (slow, quick):
                exchange.looked.clear()
                await exchange.looked.wait()
            for exchange in tuple(gaps):
                exchange.cut(CortexError("over"))
    assert len(gaps) == 0


async def test_all_can_be_cut_while_they_are_walked() -> None:
    gaps = Gaps()
    exchanges = [Exchange(gaps, shortest_s=60.0) for _ in range(3)]
    for exchange in gaps:
        exchange.cut(CortexError("over"))
    assert all(exchange.ended.is_set() for exchange in exchanges)
