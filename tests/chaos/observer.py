"""Watches a gateway's state after every step, and its events; tells what must never be."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from cortex.core.records import EventKind, FleetEvent
from cortex.core.snapshot import ModelStatus
from tests.running import Running

LIFECYCLE = frozenset(
    {
        EventKind.LOAD,
        EventKind.LOADED,
        EventKind.LOAD_FAILED,
        EventKind.LOAD_ABANDONED,
        EventKind.EVICT,
        EventKind.REVIVED,
        EventKind.UNLOAD,
        EventKind.UNLOADED,
        EventKind.UNLOAD_FAILED,
        EventKind.LEAK,
    }
)
_ENDS_LOAD = {EventKind.LOADED, EventKind.LOAD_FAILED, EventKind.LOAD_ABANDONED}
_ENDS_UNLOAD = {EventKind.UNLOADED, EventKind.UNLOAD_FAILED}


class Observer:
    """`violations` stays empty, or the gateway is wrong."""

    def __init__(self, gateway: Running) -> None:
        self._state = gateway.services.fleet._state
        self.violations: list[str] = []
        self.events: Counter[str] = Counter()
        self._loading: set[tuple[Any, Any]] = set()
        self._unloading: set[tuple[Any, Any]] = set()
        self._state.listeners.append(self._step)
        self._state.when_renamed.append(self._renamed)
        journal = gateway.daemon._journal
        self._record = journal.record
        journal.record = self._event

    def violated(self, what: str) -> None:
        if what not in self.violations:
            self.violations.append(what)

    def _renamed(self, renames: Mapping[Any, Any]) -> None:
        for pairs in (self._loading, self._unloading):
            called = {(renames.get(node, node), model) for node, model in pairs}
            pairs.clear()
            pairs |= called

    def _step(self) -> None:
        """After every change of the state."""
        try:
            self._state.check_invariants()
        except AssertionError as error:
            self.violated(f"invariant: {error}")
        for node in self._state.snapshot().nodes.values():
            for model in node.models.values():
                # Nobody else loads anything here, so it was our reload of a loaded model. One that
                # only loads for longer than the deadline is stuck, and comes about in the end.
                if model.wedged and not model.stuck:
                    self.violated(f"{model.id} was wedged on {node.name}")
            ours = [m for m in node.models.values() if m.moved_by_us]
            loads = [m.id for m in ours if m.status is ModelStatus.LOADING]
            if len(loads) > 1:
                self.violated(f"{node.name} loads {loads} at a time")
            reserved = sum(m.size_mib or 0 for m in ours if m.status is ModelStatus.LOADING)
            if node.vram_total_mib is not None and reserved > node.vram_total_mib:
                self.violated(f"{node.name} has {reserved} MiB reserved")

    def _event(self, event: FleetEvent) -> None:
        """Before it is recorded: the state is as the event found it."""
        self.events[event.kind.value] += 1
        pair = (event.node, event.model)
        match event.kind:
            case EventKind.LOAD:
                if pair in self._loading:
                    self.violated(f"a second load of {pair}")
                self._loading.add(pair)
            case kind if kind in _ENDS_LOAD:
                if pair not in self._loading:
                    self.violated(f"{kind} without a load of {pair}")
                self._loading.discard(pair)
            case EventKind.EVICT:
                view = self._state.model(event.node, event.model)
                if view is None or view.pinned:
                    self.violated(f"{pair} is pinned and evicted")
            case EventKind.UNLOAD:
                if pair in self._unloading:
                    self.violated(f"a second unload of {pair}")
                self._unloading.add(pair)
            case kind if kind in _ENDS_UNLOAD:
                if pair not in self._unloading:
                    self.violated(f"{kind} without an unload of {pair}")
                self._unloading.discard(pair)
            case EventKind.NODE_RESTARTED:
                # Whatever was under way there has ended, and its late answer finds nothing.
                self._loading = {p for p in self._loading if p[0] != event.node}
                self._unloading = {p for p in self._unloading if p[0] != event.node}
            case _:
                pass
        self._record(event)
