"""The shapes of `/openapi.json` that no pydantic model has."""

from typing import Any

from pydantic import BaseModel

from cortex.core.traits import Kind
from cortex.liveapi import LiveFrame

Json = dict[str, Any]
Shape = type[BaseModel] | str | Json

ERRORS = {"openai": "OpenAIError", "anthropic": "AnthropicError", "either": "EitherError"}


TEXT: Json = {"type": "string"}
OBJECT: Json = {"type": "object"}
_OPTIONAL_TEXT: Json = {"type": ["string", "null"]}


def _object(required: list[str], **properties: Json) -> Json:
    return {"type": "object", "required": required, "properties": properties}


_LOCATION = _object(
    ["node", "status"],
    node=TEXT,
    status=TEXT,
    pinned={"type": "boolean"},
    in_flight={"type": "integer"},
)
EVENT: Json = _object([], event=TEXT, data=TEXT, id=TEXT)
"""One event of a stream; comments are none."""
LIVE_EVENT = _object(
    [],
    event={"enum": ["state", "change"]},
    data={
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": "#/components/schemas/LiveFrame"},
    },
)
ALSO: tuple[type[BaseModel], ...] = (LiveFrame,)
"""Models that only an event's text holds."""
_NAMED: Json = {"type": "string", "minLength": 1}
_INFERENCE: dict[str, Json] = {
    "model": _NAMED,
    "stream": {"type": ["boolean", "null"]},
    "previous_response_id": _OPTIONAL_TEXT,
    "prompt_cache_key": _OPTIONAL_TEXT,
}

SHAPES: dict[str, Json] = {
    "OpenAIError": _object(
        ["error"],
        error=_object(
            ["message", "type", "param", "code"],
            message=TEXT,
            type=TEXT,
            param=_OPTIONAL_TEXT,
            code=TEXT,
        ),
    ),
    "AnthropicError": _object(
        ["type", "error", "request_id"],
        type={"const": "error"},
        error=_object(["type", "message"], type=TEXT, message=TEXT),
        request_id=TEXT,
    ),
    "EitherError": {
        "anyOf": [
            {"$ref": "#/components/schemas/OpenAIError"},
            {"$ref": "#/components/schemas/AnthropicError"},
        ]
    },
    "Inference": _object(["model"], **_INFERENCE),
    "Messages": _object(
        ["model", "messages", "max_tokens"],
        model=_NAMED,
        stream={"type": ["boolean", "null"]},
        max_tokens={"type": "integer", "minimum": 0},
        messages={"type": "array", "items": OBJECT},
    ),
    "CountTokens": _object(
        ["model", "messages"], model=_NAMED, messages={"type": "array", "items": OBJECT}
    ),
    "TokenCount": _object(["input_tokens"], input_tokens={"type": "integer", "minimum": 0}),
    "Model": _object(
        ["id", "object", "created", "owned_by", "status", "locations"],
        id=TEXT,
        object={"const": "model"},
        created={"type": "integer"},
        owned_by=TEXT,
        status=TEXT,
        parent=TEXT,
        locations={"type": "array", "items": _LOCATION},
        context_length={"type": "integer", "minimum": 1},
        modalities={"type": "array", "items": {"enum": [kind.value for kind in Kind]}},
        quantization=TEXT,
        size_mib={"type": "integer", "minimum": 0},
        sources={"type": "object", "additionalProperties": TEXT},
    ),
    "ModelList": _object(
        ["object", "data"],
        object={"const": "list"},
        data={"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
    ),
    "AnthropicModel": _object(
        ["type", "id", "display_name", "created_at"],
        type={"const": "model"},
        id=TEXT,
        display_name=TEXT,
        created_at=TEXT,
    ),
    "AnthropicModelList": _object(
        ["data", "has_more", "first_id", "last_id"],
        data={"type": "array", "items": {"$ref": "#/components/schemas/AnthropicModel"}},
        has_more={"type": "boolean"},
        first_id=_OPTIONAL_TEXT,
        last_id=_OPTIONAL_TEXT,
    ),
    "ModelPage": _object(
        [],
        limit={"type": "integer", "minimum": 1, "maximum": 1000},
        after_id=TEXT,
        before_id=TEXT,
    ),
    "ModelOrder": _object(["model_id"], model_id=TEXT, node=_OPTIONAL_TEXT),
    "ModelState": _object(
        ["model_id", "status", "nodes"],
        model_id=TEXT,
        status=TEXT,
        nodes={"type": "array", "items": _object(["node", "status"], node=TEXT, status=TEXT)},
    ),
    "Explain": _object(["model"], model=_NAMED, node=TEXT),
    "Ready": _object(["ready"], ready={"type": "boolean"}, reason=TEXT),
}
