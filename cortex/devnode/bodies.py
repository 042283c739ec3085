"""Reads request bodies as mistral.rs's extractor and request parser do, refusals included."""

import json
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from cortex.devnode.engine import Json
from cortex.devnode.errors import AskRefusedError, InvalidError, PlainRefusalError
from cortex.devnode.residency import DEFAULT

ROLES: Final = frozenset({"system", "user", "assistant", "tool", "developer"})
KIND_NAMES: Final[Mapping[type, str]] = {str: "a string", list: "a sequence", bool: "a boolean"}


def wrong(what: str) -> str:
    """The extractor's sentence for a body that is JSON but of the wrong form."""
    return f"Failed to deserialize the JSON body into the target type: {what}"


async def read(request: web.Request, **required: type) -> Json:
    """The decoded body; `required` names keys and the types of their values.

    Raises:
        PlainRefusalError: Not JSON, too large, or a required key is absent or of another type.
    """
    kind = request.content_type
    if kind != "application/json" and not kind.endswith("+json"):
        raise PlainRefusalError(415, "Expected request with `Content-Type: application/json`")
    try:
        raw = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise PlainRefusalError(413, "request body too large") from None
    try:
        body = json.loads(raw)
    except ValueError as error:
        text = f"Failed to parse the request body as JSON: {error}"
        raise PlainRefusalError(400, text) from None
    return _checked(body, required)


def _checked(body: object, required: Mapping[str, type]) -> Json:
    if not isinstance(body, dict):
        raise PlainRefusalError(422, wrong("invalid type, expected struct"))
    for key in required:
        if key not in body:
            raise PlainRefusalError(422, wrong(f"missing field `{key}`"))
    for key, of in {"model": str, "stream": bool, **required}.items():
        # An optional key may be null, a required one may not.
        if not isinstance(body.get(key), of if key in required else of | None):
            raise PlainRefusalError(422, wrong(f"{key}: expected {KIND_NAMES.get(of, of)}"))
    return body


def model_of(body: Json) -> str:
    """The model as the client named it."""
    return str(body.get("model") or DEFAULT)


def max_tokens(body: Json) -> int | None:
    """The limit under either name.

    Raises:
        PlainRefusalError: Not a whole number.
        InvalidError: Zero.
    """
    value = body.get("max_tokens")
    if value is None:
        value = body.get("max_completion_tokens")
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise PlainRefusalError(422, wrong("max_tokens: invalid value, expected usize"))
    if value == 0:
        raise InvalidError("`max_tokens` must be greater than 0.")
    return value


def chat(body: Json) -> Json:
    """Check a chat request.

    Raises:
        PlainRefusalError: A field of the wrong form.
        InvalidError: A message the node does not take.
    """
    messages = body.get("messages")
    if messages is None:
        raise PlainRefusalError(422, wrong("missing field `messages`"))
    if isinstance(messages, str):
        return body
    if not isinstance(messages, list):
        raise PlainRefusalError(422, wrong("messages: data did not match any variant"))
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise PlainRefusalError(422, wrong("messages: missing field `role`"))
        _check_content(message)
    for tool in body.get("tools") or ():
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise PlainRefusalError(422, wrong("tools: missing field `function`"))
    return body


def _check_content(message: Json) -> None:
    content, role = message.get("content"), message["role"]
    if isinstance(content, list):
        if not all(isinstance(part, dict) and _is_part(part) for part in content):
            raise PlainRefusalError(422, wrong("content: data did not match any variant"))
        if role != "user":
            raise InvalidError(f"Role for an image message must be `user`, but it is {role}")
    elif content is not None and not isinstance(content, str):
        raise PlainRefusalError(422, wrong("content: data did not match any variant"))
    if role not in ROLES:
        raise InvalidError(f"Unknown role `{role}`")
    if content is None and not message.get("tool_calls"):
        raise InvalidError("No content was provided in the message.")


def _is_part(part: Mapping[str, Any]) -> bool:
    def is_leaf(value: object) -> bool:
        return isinstance(value, str) or (
            isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
        )

    return all(is_leaf(value) for value in part.values())


def completion(body: Json) -> Json:
    """Check a completion request: the prompt is one string. Raises `PlainRefusalError`."""
    if "prompt" not in body:
        raise PlainRefusalError(422, wrong("missing field `prompt`"))
    if not isinstance(body["prompt"], str):
        raise PlainRefusalError(422, wrong("prompt: invalid type, expected a string"))
    return body


def embedding_inputs(body: Json) -> list[str]:
    """One text per vector wanted; token lists become their numbers as text.

    Raises:
        PlainRefusalError: `input` is absent or of no form it may have.
        AskRefusedError: Set with `dimensions`, which no model takes.
    """
    if "input" not in body:
        raise PlainRefusalError(422, wrong("missing field `input`"))
    if body.get("dimensions") is not None:
        raise AskRefusedError("Custom embedding dimensions are not supported.")
    value = body["input"]
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(item, int) for item in value):
            return [" ".join(map(str, value))]
        if all(isinstance(item, str) for item in value):
            return list(value)
        if all(isinstance(item, list) for item in value):
            return [" ".join(map(str, item)) for item in value]
    raise PlainRefusalError(422, wrong("input: data did not match any variant"))
