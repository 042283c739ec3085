"""What a node's error answer means. mistral.rs says 500 to a caller's mistake; the words tell.

The body shapes are those of contract §1.1. A phrase counts only as a whole, and a caller's only at or near
the beginning of the message: single words such as "expected" are everybody's.
"""

import json
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

MAX_RETRY_AFTER_S = 3600.0
SPOKEN_CHARS = 300
"""As much of a node's words as is passed on."""


class Blame(StrEnum):
    """Whose failure it is, which decides about retries and the breaker."""

    CALLER = "caller"
    """The request is at fault: no other node would answer otherwise."""
    NODE = "node"
    """The node is at fault: another may do better, and the breaker counts."""
    STALE = "stale"
    """The node does not hold the model after all: choose again, nobody failed."""
    UNDECIDED = "undecided"
    """Words that nobody knows: what another node says to the same request decides."""


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
    param: str | None = None
    """The field at fault, where the node names one."""
    node_code: str | None = None
    """The node's own code, for a mistake of the caller's."""
    retry_after_s: float | None = None
    """When the node wants to be asked again."""

    def alike(self, other: "NodeFault") -> bool:
        """Both nodes said the same of one request, numbers apart."""
        return _DIGITS.sub("0", self.message) == _DIGITS.sub("0", other.message)

    def of_the_caller(self) -> "NodeFault":
        """The same words, once it is known that the request is at fault."""
        return replace(self, blame=Blame.CALLER, status=400, code="invalid_request")


_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    blame: Blame
    status: int
    code: str


def _starting(
    code: str, *phrases: str, blame: Blame = Blame.CALLER, status: int = 400
) -> _Rule:
    """The message begins with one of these; what follows may be a caller's text, and is not read."""
    return _Rule(
        re.compile(rf"\A\s*(?:{'|'.join(phrases)})", re.IGNORECASE), blame, status, code
    )


def _holding(code: str, *phrases: str) -> _Rule:
    """One of these is somewhere in the node's own words: a failure of the node."""
    return _Rule(re.compile("|".join(phrases), re.IGNORECASE), Blame.NODE, 502, code)


# First match wins. Before 0.9.1 errors were Debug-printed, hence ModelNotFound("x") and the like.
_RULES = (
    _starting(
        "model_reloading",
        r"model [`'\"].*[`'\"] is being reloaded",
        r"ModelReloading\b",
        blame=Blame.STALE,
        status=503,
    ),
    _starting(
        "model_not_held",
        r"Requested model '.*' is not available",
        r"No models are currently loaded",
        r"model [`'\"].*[`'\"] was not found",
        r"ModelNotFound\b",
        blame=Blame.STALE,
        status=503,
    ),
    _starting(
        "context_length_exceeded",
        r"(?:the )?prompt(?: sequence)?(?: length)?\b.{0,60}"
        r"\b(?:too long|exceeds?|(?:greater|longer) than)\b",
        r"(?:this model's )?(?:maximum )?(?:context|sequence) (?:length|window)\b.{0,60}"
        r"\b(?:is|of|exceed(?:s|ed)?)\b",
    ),
    _starting(
        "invalid_request",
        # Messages, templates, roles.
        r"Role for an? (?:image|audio|video|file) message must be\b",
        r"Unknown role\b",
        r"No content was provided, expected tool calls",
        r".{0,200}\(in chat_template:\d+\)",
        r"(?:this model|the model|tokenizer).{0,40}\bchat template\b",
        r"(?:No|Missing|Could not (?:find|apply)(?: the)?) chat template\b",
        r"(?:Text|Image|Audio|Video|File) sub-content\b",
        r"Expected (?:`text` key in input message|array content sub-content)\b",
        r"Received (?:an empty prompt|messages for a model which does not have)\b",
        r"(?:An? )?(?:image|audio|video|text|file|content|message|part)\b.{0,80} must have\b",
        r"The (?:image|audio|video) format could not be determined",
        r"Chat Completions file content does not support\b",
        r"Input file (?:`.{0,200}` was not found|requires|exceeds)\b",
        r"input_file\.\w{1,20} (?:exceeds|must be)\b",
        # Media and where they are.
        r"Remote media (?:URLs?|host) (?:must|`.{0,200}` did not resolve)",
        r"(?:Invalid|Unsupported) (?:local )?(?:image|audio|video)"
        r" (?:source|file URL|URL scheme|redirect target)\b",
        r"(?:image|audio|video) (?:URL exceeded|redirects? (?:may|response is missing))\b",
        r"Server request (?:image|audio|video) sources do not support\b",
        r"(?:Invalid|Unsupported) UI upload\b",
        r"UI upload (?:references may not|resolved outside)\b",
        r"UI uploads do not support\b",
        r"redirect Location header is not\b",
        r"(?:GIF contains no|FFmpeg extracted 0) frames\b",
        r"(?:Failed|Unable) to (?:parse|fetch|decode|download|open (?:the )?(?:image|audio|video|URL))\b",
        # Fields and their values.
        r"[`'\"]?max_(?:completion_|output_)?tokens[`'\"]? must be\b",
        r"(?:invalid|unknown) reasoning[ _]effort\b",
        r"[`'\"]?(?:enable_thinking|reasoning_effort|tool_choice|response_format|n|stop|top_logprobs)[`'\"]?"
        r" (?:must|may|requires|is not|cannot|can only)\b",
        r"Number of choices must be\b",
        r"agent_permission\b",
        r"Invalid grammar\b",
        r"request selected an adapter, but\b",
        r"Completion requests .{0,40}require the pipeline to have\b",
        # Tools and skills.
        r"tools\[\]\.type=",
        r"tool_choice(?:=|\.| references | forcing )",
        r"(?:Invalid|Unsupported) skill version\b",
        r"Skill `.{0,200}` (?:was not found|version)\b",
        r"Tool choice was required but no tools were called",
        r"max_tool_calls is not supported",
        r"Only support wav\b",
        r"Only one\b",
        r"Stop token .{0,80}cannot be used",
        r"Custom embedding dimensions\b",
        r"input must contain\b",
        r".{0,80}\bmay contain at most\b",
        r".{0,120}\bmutually exclusive\b",
        r".{0,120}\bonly supported by the Responses API",
        r"(?:the )?(?:image|audio|video|media|file|request|body|data|URL|grammar|schema|input|tool)\b"
        r".{0,100}\bexceeds the .{1,60}\blimit\b",
        # What the model or the server cannot do at all.
        r"Received a request incompatible for this model's category",
        r"(?:Unsupported )?Anthropic(?:-managed)? ",
        r"(?:model )?[`'\"]?.{0,200} has no dynamic LoRA runtime",
        # The extractor of every route.
        r"(?:Failed to deserialize the JSON body into the target type: )?"
        r"(?:[\w.\[\]]{1,80}: )?"
        r"(?:duplicate field|unknown variant|missing field|invalid type:|data did not match any variant)",
    ),
    _holding("load_failed", r"failed to reload model"),
    _holding(
        "node_interrupted",
        r"No response received from the model",
        r"Unexpected response type",
        r"sender lock is poisoned",
        r"engine state lock is poisoned",
        r"EnginePoisoned\b",
    ),
    _holding(
        "node_error",
        r"out of memory",
        r"OUT_OF_MEMORY",
        r"CUDA_ERROR[A-Z_]{0,40}",
        r"\b(?:CUDA|Metal|cuBLAS|cuDNN|NCCL) (?:error|failure)\b",
        r"\bDriverError\b",
        r"not contiguous",
        r"\bunexpected dtype\b",
        r"\b(?:shape|device|dtype) mismatch\b",
        r"\bpanicked at\b",
        r"\bengine (?:has )?(?:stopped|died|failed|terminated|crashed|panicked)\b",
        r"\bchannel (?:is )?closed\b",
    ),
)
_QUOTED = re.compile(r"`[^`]*`|'[^']*'|\"[^\"]*\"")


def classify(status: int, body: bytes, retry_after: str | None = None) -> NodeFault:
    """Read an error answer (HTTP >= 400) of a node.

    4xx keeps its meaning, save that a node may say by it that it does not hold the model. A 500 is
    whose its words say; without words, as any other 5xx, the node's.

    Args:
        status: HTTP's.
        body: Of any shape.
        retry_after: The header of that name.
    """
    told = _read(body)
    fault = _blamed(status, told.message)
    caller = fault.blame is Blame.CALLER
    return replace(
        fault,
        param=told.param if caller else None,
        node_code=told.code if caller else None,
        retry_after_s=_seconds(retry_after),
    )


def _blamed(status: int, words: str) -> NodeFault:
    said = f"the node answered HTTP {status}"
    rule, known = _find(words)
    if rule is not None and (status >= 500 or rule.blame is not Blame.NODE):
        return NodeFault(
            blame=rule.blame,
            status=rule.status,
            code=rule.code,
            message=words,
            reason=f"{said}: {known}" if known else said,
        )
    if status == 429:
        blame, told, code = Blame.NODE, 429, "node_busy"
    elif 400 <= status < 500 and status not in {401, 403, 405, 408}:
        blame, told = Blame.CALLER, 400 if status in {415, 422} else status
        code = {404: "not_found", 413: "request_too_large"}.get(told, "invalid_request")
    else:
        blame = Blame.UNDECIDED if status == 500 and words else Blame.NODE
        told, code = 502, "node_error"
    return NodeFault(blame=blame, status=told, code=code, message=words or said, reason=said)


def _find(words: str) -> tuple[_Rule | None, str]:
    """The rule for a message, and the words of the node's own that it found, if it is the node's."""
    for rule in _RULES:
        if rule.blame is not Blame.NODE:
            if rule.pattern.match(words):
                return rule, ""
        # What is quoted may be the caller's.
        elif match := rule.pattern.search(_QUOTED.sub("", words)):
            return rule, match[0]
    return None, ""


def classify_event(said: str) -> NodeFault:
    """Read the data of an error event of a stream: a 500 in other clothes."""
    return classify(500, said.encode(errors="replace"))


_FAILED_LOAD = re.compile(r"failed to reload model:? *(.*)", re.DOTALL)


def failed_load(message: str) -> str | None:
    """Why the load that a request set off failed; None where `message` tells of something else."""
    found = _FAILED_LOAD.search(message)
    return (found[1] or found[0]) if found else None


def _seconds(header: str | None) -> float | None:
    """A Retry-After in seconds; one that is a date, or without reason, is as if it were not there."""
    if header is None or not re.fullmatch(r"\d{1,6}(\.\d+)?", header):
        return None
    return min(float(header), MAX_RETRY_AFTER_S)


class _Told(NamedTuple):
    """The fields of an error body."""

    message: str
    code: str | None = None
    param: str | None = None


def read_message(body: bytes) -> str:
    """The words of an error body: error.message, message, or the text itself."""
    return _read(body).message


def _read(body: bytes) -> _Told:
    text = body.decode("utf-8", "replace").strip()
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return _Told(text[:1000])
    if not isinstance(parsed, dict):
        return _Told(text[:1000])
    error = parsed.get("error") or parsed
    if not isinstance(error, dict):
        return _Told(str(error)[:1000])
    # FastAPI's shape, of proxies in front of nodes, is the last of these.
    message = error.get("message") or error.get("detail") or ""
    return _Told(str(message)[:1000], _word(error.get("code")), _word(error.get("param")))


def _word(value: object) -> str | None:
    """A code or the name of a field, of letters that mean nothing elsewhere."""
    fits = isinstance(value, str) and re.fullmatch(r"[\w.\[\]-]{1,100}", value)
    return str(value) if fits else None


_LINK = re.compile(r"\b[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
_ADDRESS = re.compile(
    r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|\[[0-9a-f:.]*:[0-9a-f:.]*\](?::\d+)?"
)
_PATH = re.compile(r"(?<![\w.])(?:~|\.{1,2})?/[\w.@+-]+(?:/[\w.@+-]*)*|\b[A-Za-z]:\\\S+")


def spoken(message: str) -> str:
    """A node's words as others may read them: the first line, without links, addresses and paths."""
    line = next((line.strip() for line in message.splitlines() if line.strip()), "")
    for pattern, instead in ((_LINK, "(link)"), (_ADDRESS, "(address)"), (_PATH, "(path)")):
        line = pattern.sub(instead, line)
    line = "".join(char for char in line if char.isprintable())
    return line if len(line) <= SPOKEN_CHARS else line[: SPOKEN_CHARS - 1] + "…"
