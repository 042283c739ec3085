"""Reports of the agents beside the nodes."""

import hmac

from aiohttp import web

from cortex.agentapi import AgentCommand, AgentReply, AgentReport, CommandAck, WeightsReading
from cortex.core.errors import RequestError
from cortex.core.ids import ModelId, NodeName
from cortex.core.snapshot import Weights
from cortex.core.traits import Kind, Traits
from cortex.gateway.jsonio import body_of, json_of
from cortex.gateway.services import SERVICES, Services

PATH = "/cortex/v1/agents/report"


async def report(request: web.Request) -> web.Response:
    """POST: what an agent saw; the reply carries what it is to do."""
    svc = request.app[SERVICES]
    _check_token(request, svc)
    body = await body_of(request, AgentReport)
    name = NodeName(body.node)
    if svc.fleet.node(name) is None:
        raise RequestError(
            f"there is no node {body.node[:80]!r}", code="not_found", param="node"
        )
    weights = {
        ModelId(found.model): Weights(found.size_mib, found.cached_mib, _traits(found))
        for found in body.weights
    }
    svc.fleet.agents.found(name, weights, ram_total_mib=body.ram_total_mib)
    commands = svc.fleet.agents.reported(
        name,
        can_restart=body.can_restart,
        free_mib=sum(gpu.free_mib for gpu in body.gpus) if body.gpus else None,
        total_mib=sum(gpu.total_mib for gpu in body.gpus) if body.gpus else None,
        acks=[(ack.id, _failure(ack)) for ack in body.acks],
    )
    now_s = svc.fleet.clock.now_s()
    return json_of(
        AgentReply(
            commands=[
                AgentCommand(
                    id=command.id,
                    action=command.action,
                    issued_at_ms=command.issued_at_ms,
                    max_age_s=svc.fleet.waits.command_s,
                    age_s=now_s - command.issued_s,
                )
                for command in commands
            ]
        )
    )


def _traits(found: WeightsReading) -> Traits:
    kinds = None
    if found.kinds is not None:
        kinds = frozenset(kind for kind in Kind if kind in found.kinds)
    return Traits(found.context_tokens, kinds or None, quantization=found.quantization)


def _failure(ack: CommandAck) -> str | None:
    return None if ack.ok else ack.detail or "the agent does not say why"


def _check_token(request: web.Request, svc: Services) -> None:
    if svc.agent_token is None:
        raise RequestError(
            "agents are not welcome: [agent] token_file is not set", code="permission_denied"
        )
    presented = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
    if not hmac.compare_digest(
        presented.encode("utf-8", "surrogateescape"), svc.agent_token.encode()
    ):
        raise RequestError("wrong agent token", code="invalid_api_key")
