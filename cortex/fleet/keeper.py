"""Keeps house once a second: unloads what is idle for too long, brings back absent pins."""

import asyncio
from dataclasses import replace

from cortex.core.decisions import Cause, Load
from cortex.core.housekeeping import absent_pins, idle_for_too_long
from cortex.fleet.admission import Admission
from cortex.fleet.lifecycle import Lifecycle
from cortex.fleet.state import FleetState


class Keeper:
    def __init__(self, state: FleetState, admission: Admission, lifecycle: Lifecycle) -> None:
        self._state = state
        self._admission = admission
        self._lifecycle = lifecycle

    async def run(self) -> None:
        """For ever. What it begins belongs to the lifecycle, and fails there."""
        while True:
            self._unload_idle()
            self._load_pinned()
            await asyncio.sleep(self._state.waits.house_s)

    def _unload_idle(self) -> None:
        clock = self._state.clock
        found = idle_for_too_long(
            self._state.snapshot(), now_s=clock.now_s(), now_ms=clock.now_ms()
        )
        for name, model, idle_s in found:
            node = self._state.node(name)
            # One at a time a node: the first of them makes it busy.
            if node is not None and node.moving is None and not self._admission.depth(model):
                _ = self._lifecycle.unload(name, model, f"idle for {idle_s:.0f} s")

    def _load_pinned(self) -> None:
        for want in absent_pins(self._state.snapshot()):
            # Decided anew each: an earlier one of this round may have taken the room.
            decision = self._admission.explain(want)
            if not isinstance(decision, Load):
                continue
            node = self._state.node(decision.node)
            if node is not None and (not node.in_flight or not decision.evict):
                _ = self._lifecycle.load(replace(decision, cause=Cause("pin")))
