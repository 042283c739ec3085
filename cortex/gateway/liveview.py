"""From the services to the live feed's entries, as JSON; what has not changed is not written anew."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

from cortex import __version__
from cortex.adminapi import HealthBody, NodeStatus
from cortex.core.ids import ModelId, NodeName
from cortex.core.snapshot import FleetSnapshot, ModelStatus, ModelView, NodeView
from cortex.gateway.fleetview import health_of, model_on_node, node_status
from cortex.gateway.line import Line
from cortex.gateway.queueview import queues_of
from cortex.gateway.services import Services
from cortex.liveapi import LiveFleet, LiveNode, LiveRequest

MAX_REQUESTS = 200
HEALTH_S = 1.0
"""Health is asked of every model of the fleet, so not at every look."""
_AGES = {"models", "agent_age_s", "last_poll_age_s"}


@dataclass(slots=True)
class _Written:
    """A model's entry and what it was made from."""

    view: ModelView
    in_flight: int
    last_used_at_ms: int
    tokens_per_s: float | None
    breaker_open: bool
    data: bytes


@dataclass(slots=True)
class _NodeWritten:
    view: NodeView
    uses: int
    done: int
    """Requests it had answered by then: their pace is in the models' entries."""
    models: dict[ModelId, _Written] = field(default_factory=dict)
    breakers_open: bool = False


class LiveView:
    """What the feed shows of the fleet; keeps what it wrote, to write only what changed."""

    def __init__(self, svc: Services) -> None:
        self._svc = svc
        self._nodes: dict[NodeName, _NodeWritten] = {}
        self._aliases: Mapping[str, ModelId] | None = None
        self._models: dict[str, bytes] = {}
        #: Use beyond the residents of every node, as it was when nothing was being loaded.
        self._beyond: dict[str, int] = {}
        self._health: HealthBody | None = None
        self._health_until_s = 0.0

    def sections(self) -> dict[str, Mapping[str, bytes]]:
        """Everything that consists of entries."""
        snapshot = self._svc.fleet.snapshot()
        nodes: dict[str, bytes] = {
            name: self._node(view) for name, view in snapshot.nodes.items()
        }
        return {
            "nodes": nodes,
            "models": self._all_models(snapshot),
            "requests": self._requests(),
            "queues": {queue.model: _json(queue) for queue in queues_of(self._svc)},
        }

    def single(self) -> dict[str, bytes]:
        """What is sent as a whole."""
        svc = self._svc
        return {
            "fleet": _json(
                LiveFleet(
                    version=__version__,
                    health=self._health_now(),
                    started_at_ms=svc.started_at_ms,
                    draining=svc.draining,
                    in_flight=svc.recent.in_flight,
                    queued=svc.fleet.depth(),
                    requests_total=svc.recent.requests_total,
                    store_ok=svc.ledger.status().ok,
                )
            )
        }

    def _health_now(self) -> HealthBody:
        now_s = self._svc.fleet.clock.now_s()
        if self._health is None or now_s >= self._health_until_s:
            self._health = health_of(self._svc)
            self._health_until_s = now_s + HEALTH_S
        return self._health

    def _node(self, view: NodeView) -> bytes:
        held = [
            model
            for model in view.models.values()
            if model.occupies and model.status is not ModelStatus.LOADING
        ]
        known = sum(model.size_mib or 0 for model in held)
        status = node_status(self._svc, view)
        outside = self._outside(status, known)
        live = LiveNode(
            **status.model_dump(exclude=_AGES),
            vram_known_mib=known,
            vram_outside_mib=outside,
            sizes_known=all(model.size_mib is not None for model in held),
            has_agent=status.agent_age_s is not None,
        )
        return live.model_dump_json(exclude=_AGES).encode()

    def _outside(self, status: NodeStatus, known: int) -> int | None:
        if status.vram_used_mib is None:
            return None
        beyond = max(0, status.vram_used_mib - known)
        if not status.vram_reserved_mib:
            self._beyond[status.name] = beyond
            return beyond
        # How far a load has come shows in no figure of its own: no more than before it.
        before = self._beyond.get(status.name, beyond - status.vram_reserved_mib)
        return max(0, min(beyond, before))

    def _all_models(self, snapshot: FleetSnapshot) -> Mapping[str, bytes]:
        if snapshot.aliases is not self._aliases:
            self._aliases = snapshot.aliases
            self._nodes.clear()
        stale = [view for view in snapshot.nodes.values() if not self._fresh(view)]
        gone = [name for name in self._nodes if name not in snapshot.nodes]
        if stale or gone:
            for name in gone:
                del self._nodes[name]
            for view in stale:
                self._write_models(view, snapshot)
            # A new mapping: who compares it with the one before must see that it changed.
            self._models = {
                f"{name}/{model}": written.data
                for name, node in self._nodes.items()
                for model, written in node.models.items()
            }
        return self._models

    def _fresh(self, view: NodeView) -> bool:
        written = self._nodes.get(view.name)
        return (
            written is not None
            and written.view is view
            and written.uses == view.uses
            and written.done == self._svc.recent.answered(view.name)
            and not written.breakers_open
        )

    def _write_models(self, view: NodeView, snapshot: FleetSnapshot) -> None:
        svc = self._svc
        before = self._nodes.get(view.name)
        node = _NodeWritten(view, view.uses, svc.recent.answered(view.name))
        now_s = svc.fleet.clock.now_s()
        for model in view.models.values():
            pace = svc.recent.tokens_per_s(view.name, model.id)
            is_open = model.breaker.open_until_s > now_s
            node.breakers_open = node.breakers_open or is_open
            old = before.models.get(model.id) if before is not None else None
            if (
                old is None
                or old.view is not model
                or old.in_flight != model.in_flight
                or old.last_used_at_ms != model.last_used_at_ms
                or old.tokens_per_s != pace
                or old.breaker_open != is_open
            ):
                data = _json(model_on_node(svc, view, model, snapshot))
                old = _Written(
                    model, model.in_flight, model.last_used_at_ms, pace, is_open, data
                )
            node.models[model.id] = old
        self._nodes[view.name] = node

    def _requests(self) -> dict[str, bytes]:
        lines = self._svc.recent.running.lines
        oldest = [serial for serial, _ in zip(lines, range(MAX_REQUESTS), strict=False)]
        return {str(serial): _json(_request(lines[serial])) for serial in oldest}


def _request(line: Line) -> LiveRequest:
    record = line.record
    pace = line.events_per_s
    return LiveRequest(
        request_id=record.request_id,
        route=record.route,
        dialect=record.dialect,
        state=line.state,
        model=record.model,
        node=record.node,
        client=record.client,
        stream=record.stream,
        started_at_ms=record.started_at_ms,
        ttft_ms=record.ttft_ms,
        events=line.events,
        events_per_s=None if pace is None else round(pace, 1),
        attempts=record.attempts,
        cold_start=record.cold_start,
    )


def _json(body: BaseModel) -> bytes:
    return body.model_dump_json().encode()
