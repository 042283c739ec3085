"""The watch over a passing stream: cutting it anywhere changes nothing."""

from cortex.core.stream import Fault, Watch
from tests.fuzz.cutting import pieces

SEEDS = [
    b'\x07data: {"choices":[{"delta":{"content":"a"},"finish_reason":null}]}\n\ndata: [DONE]\n\n',
    b'\x03: ping\n\ndata: {"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\ndata: [DONE]\n\n',
    b'\x01data: {"error":{"message":"no"}}\n\n',
    b'\x05data: {"a":1}\n\nevent: error\ndata: {"message":"x"}\n\n',
    b"\x02data: oh no\n\n",
    b'\x09event: response.created\ndata: {"response":{"id":"resp_1"}}\n\ndata: {"type":"response.completed"}\n\n',
]


def one(data: bytes) -> None:
    cut, body = data[0] if data else 0, data[1:]
    # A CR of its own ends a line, but not where a node sends JSON, which is not searched for one.
    body = body.replace(b"\r\n", b"\n").replace(b"\r", b"")
    whole, parted = _watched([body]), _watched(pieces(body, cut))
    assert whole == parted, (whole, parted)


def _watched(parts: list[bytes]) -> tuple[object, ...]:
    """What was relayed, whether it broke, and what was learnt of it."""
    watch = Watch(sse=True)
    relayed = b""
    for part in parts:
        seen = watch.see(part)
        if isinstance(seen, Fault):
            return relayed + seen.relayable, True
        relayed += seen
    last = watch.last()
    if isinstance(last, Fault):
        return relayed + last.relayable, True
    return relayed + last, False, watch.finished(), watch.usage(), watch.response_id()
