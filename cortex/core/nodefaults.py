"""What a node's error answer means. mistral.rs says 500 to a caller's mistake; the words tell.

The eight body shapes and the texts are listed in mistral.rs's sources (server core, error handlers).
"""

import json
import re
from dataclasses import dataclass
from enum import StrEnum


class Blame(StrEnum):
    """Whose failure it is, which decides about retries and the breaker."""

    CALLER = "caller"
    """The request is at fault: no other node would answer otherwise."""
    NODE = "node"
    """The node is at fault: another may do better, and the breaker counts."""
    STALE = "stale"
    """The node does not hold the model after all: choose again, nobody failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFault:
    """A node's error, classified. `status` is what the client is told."""

    blame: Blame
    status: int
    code: str
    message: str
    """The node's words. They may repeat the request, so only its own client may read them."""
    reason: str
    """What may be written down and shown to others: known words, where a rule found some."""


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    blame: Blame
    status: int
    code: str


def _rule(pattern: str, blame: Blame, status: int, code: str) -> _Rule:
    return _Rule(re.compile(pattern, re.IGNORECASE), blame, status, code)


# First match wins. Before 0.9.1 errors were Debug-printed, hence ModelNotFound("x") and the like.
_RULES = (
    _rule(r"is being reloaded|ModelReloading", Blame.STALE, 503, "model_reloading"),
    _rule(
        r"Requested model '.*' is not available|No models are currently loaded|ModelNotFound",
        Blame.STALE,
        503,
        "model_not_held",
    ),
    _rule(
        r"No response received from the model|sender lock is poisoned|EnginePoisoned"
        r"|engine state lock is poisoned",
        Blame.NODE,
        502,
        "node_interrupted",
    ),
    _rule(r"failed to reload model", Blame.NODE, 502, "load_failed"),
    _rule(
        r"out of memory|OUT_OF_MEMORY|CUDA_ERROR[A-Z_]{0,40}|not contiguous",
        Blame.NODE,
        502,
        "node_error",
    ),
    _rule(
        r"prompt.*(too long|exceed|length is greater)|context (length|window)"
        r"|maximum (context|sequence)",
        Blame.CALLER,
        400,
        "context_length_exceeded",
    ),
    _rule(
        r"Role for an image message|max_tokens must be|No content was provided|reasoning[ _]effort"
        r"|enable_thinking|tool_choice|incompatible for this model's category|chat template"
        r"|duplicate field|unknown variant|missing field|invalid type|must be (a|an|the|at|wav)"
        r"|not supported|unsupported|invalid|expected|greater than|less than",
        Blame.CALLER,
        400,
        "invalid_request",
    ),
)


def classify(status: int, body: bytes) -> NodeFault:
    """Read an error answer (HTTP >= 400) of a node.

    4xx keeps its meaning; a 5xx is the caller's where its words say so, else the node's, and
    then nobody reads its text: the node's own log has it.
    """
    said = f"the node answered HTTP {status}"
    message = read_message(body) or said
    for rule in _RULES:
        match = rule.pattern.search(message)
        if match and (status >= 500 or rule.blame is not Blame.NODE):
            # The node's rules are made of words of its own, so what matched is not the request.
            known = f"{said}: {match[0]}" if rule.blame is Blame.NODE else said
            return NodeFault(
                blame=rule.blame,
                status=rule.status,
                code=rule.code,
                message=message,
                reason=known,
            )
    if status == 429:
        return NodeFault(
            blame=Blame.NODE, status=429, code="node_busy", message=message, reason=said
        )
    if 400 <= status < 500 and status not in {401, 403, 405, 408}:
        kept = 400 if status in {415, 422} else status
        code = {404: "not_found", 413: "request_too_large"}.get(kept, "invalid_request")
        return NodeFault(
            blame=Blame.CALLER, status=kept, code=code, message=message, reason=said
        )
    return NodeFault(
        blame=Blame.NODE, status=502, code="node_error", message=message, reason=said
    )


def classify_event(message: str) -> NodeFault:
    """Read an error that came as the first event of a stream: a 500 in other clothes."""
    return classify(500, json.dumps({"message": message}).encode())


_FAILED_LOAD = re.compile(r"failed to reload model: *(.*)", re.DOTALL)


def failed_load(message: str) -> str:
    """Why the load that a request set off failed; "" where `message` tells of something else."""
    found = _FAILED_LOAD.search(message)
    return (found[1] or found[0]) if found else ""


def read_message(body: bytes) -> str:
    """The words of an error body: error.message, message, or the text itself."""
    text = body.decode("utf-8", "replace").strip()
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return text[:1000]
    if isinstance(parsed, dict):
        error = parsed.get("error", parsed)
        if isinstance(error, dict):
            error = error.get("message", "")
        return str(error)[:1000]
    return text[:1000]
