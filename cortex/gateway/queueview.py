"""Who waits for which model, and why, as the admin API shows it."""

from collections import Counter
from collections.abc import Iterator

from cortex.adminapi import QueueBody
from cortex.core.decisions import Wait, Want
from cortex.core.ids import ModelId
from cortex.gateway.services import Services

MAX_EXPLAINED = 20
"""Queues whose reason is worked out at every look."""


def queues_of(svc: Services) -> Iterator[QueueBody]:
    """One for each model that somebody waits for."""
    depths = svc.fleet.depths()
    if not depths:
        return
    clients: dict[ModelId, Counter[str]] = {model: Counter() for model in depths}
    oldest: dict[ModelId, int] = {}
    for line in svc.recent.running.lines.values():
        model = line.record.model
        if model in clients and line.state == "waiting":
            clients[model][line.record.client or ""] += 1
            oldest.setdefault(model, line.record.started_at_ms)
    for index, (model, waiting) in enumerate(depths.items()):
        yield QueueBody(
            model=model,
            waiting=waiting,
            oldest_at_ms=oldest.get(model),
            clients=dict(clients[model]),
            **(_why(svc, model) if index < MAX_EXPLAINED else {}),
        )


def _why(svc: Services, model: ModelId) -> dict[str, object]:
    decision = svc.fleet.explain(Want(model=model))
    return {
        "decision": type(decision).__name__.lower(),
        "reason": decision.reason,
        "load_eta_s": decision.load_eta_s if isinstance(decision, Wait) else None,
    }
