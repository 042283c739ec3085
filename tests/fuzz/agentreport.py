"""Reports of agents, and the gateway's replies: a body, or pydantic's own complaint."""

from pydantic import ValidationError

from cortex.agentapi import AgentReply, AgentReport
from cortex.core.jsontext import loads_exactly

SEEDS = [
    b'{"node":"n0","agent_version":"1","can_restart":true,"node_ok":true,"gpus":[{"index":0,"total_mib":10,"used_mib":3}]}',
    b'{"node":"n0","gpus":[{"index":0,"total_mib":1e9,"used_mib":-1}],"acks":[{"id":"a","ok":false,"detail":"x"}]}',
    b'{"node":"n0","weights":[{"model":"a","size_mib":7,"cached_mib":null},{"model":"b","size_mib":1e9,"cached_mib":3}]}',
    b'{"commands":[{"id":"a","action":"restart","issued_at_ms":1}],"interval_s":2.0}',
]


def one(data: bytes) -> None:
    try:
        fields = loads_exactly(data)
    except (ValueError, RecursionError):
        return
    for shape in (AgentReport, AgentReply):
        try:
            body = shape.model_validate(fields)
        except ValidationError:
            continue
        body.model_dump_json()
        if isinstance(body, AgentReport):
            assert isinstance(sum(gpu.free_mib for gpu in body.gpus), int)
