"""Reads request bodies as mistral.rs's extractor and request parser do, refusals included."""

import base64
import binascii
import ipaddress
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from cortex.devnode.engine import Json
from cortex.devnode.errors import (
    AskRefusedError,
    InputRefusedError,
    InvalidError,
    PlainRefusalError,
)
from cortex.devnode.metrics import METRICS
from cortex.devnode.residency import DEFAULT

KIND_NAMES: Final[Mapping[type, str]] = {str: "a string", list: "a sequence", bool: "a boolean"}
NUMBERS: Final = (
    "temperature",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)
EFFORTS: Final = ("off", "none", "low", "medium", "high", "xhigh", "max")
MEDIA: Final = ("image", "audio", "video")
PICTURES: Final = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM")
"""How the formats begin that can be read."""


def wrong(what: str) -> str:
    """The extractor's sentence for a body that is JSON but of the wrong form.

    `what` begins with the field's path. The place is always the same one here: who reads it
    must not rely on it.
    """
    return (
        f"Failed to deserialize the JSON body into the target type: {what} at line 1 column 40"
    )


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
    checked = _checked(body, required)
    if "model" not in request:
        request.app[METRICS].began(request, model_of(checked))
    return checked


def _checked(body: object, required: Mapping[str, type]) -> Json:
    if not isinstance(body, dict):
        raise PlainRefusalError(422, wrong("invalid type: expected a map"))
    for key in required:
        if key not in body:
            raise PlainRefusalError(422, wrong(f"missing field `{key}`"))
    # Where there is a value for an absent key, null is none all the same.
    strict = {"model": str, **required} if "model" in body else required
    for key, of in {"stream": bool, **strict}.items():
        value = body.get(key)
        if not isinstance(value, of if key in strict else of | None):
            found = "null" if value is None else json.dumps(value)[:40]
            raise PlainRefusalError(
                422, wrong(f"{key}: invalid type: {found}, expected {KIND_NAMES.get(of, of)}")
            )
    return body


def sampling(body: Json) -> Json:
    """Check what chat and completion requests have in common.

    Raises:
        PlainRefusalError: A field of the wrong form, or one limit under both its names.
        InvalidError: A field has a value the node does not take.
    """
    if "max_tokens" in body and "max_completion_tokens" in body:
        raise PlainRefusalError(422, wrong("duplicate field `max_tokens`"))
    for key in NUMBERS:
        value = body.get(key)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float)
        ):
            found = json.dumps(value)[:40]
            raise PlainRefusalError(422, wrong(f"{key}: invalid type: {found}, expected f64"))
    _one_of(
        body.get("response_format"), "response_format", ("text", "json_object", "json_schema")
    )
    effort = body.get("reasoning_effort")
    if effort is not None and effort not in EFFORTS:
        known = ", ".join(EFFORTS)
        raise InvalidError(f"invalid reasoning effort `{effort}`; expected one of: {known}")
    if body.get("grammar") is not None and body.get("response_format") is not None:
        raise InvalidError(
            "Request `grammar` and `response_format` were both provided but are mutually exclusive."
        )
    return body


def _one_of(value: object, key: str, known: tuple[str, ...]) -> None:
    kind = value.get("type") if isinstance(value, dict) else value
    if value is not None and kind not in known:
        names = ", ".join(f"`{name}`" for name in known)
        text = f"{key}: unknown variant `{kind}`, expected one of {names}"
        raise PlainRefusalError(422, wrong(text))


def model_of(body: Json) -> str:
    """The model as the client named it."""
    return str(body.get("model") or DEFAULT)


def max_tokens(body: Json) -> int | None:
    """The limit, under whichever of its names it was given.

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
        raise InvalidError("max_tokens must be at least 1.")
    return value


def chat(body: Json, *, plain_template: bool = False) -> Json:
    """Check a chat request. A `plain_template` takes text alone, no list of parts.

    Raises:
        PlainRefusalError: A field of the wrong form.
        InvalidError: A message the node does not take.
    """
    messages = sampling(body).get("messages")
    if messages is None:
        raise PlainRefusalError(422, wrong("missing field `messages`"))
    if isinstance(messages, str):
        return body
    if not isinstance(messages, list):
        raise PlainRefusalError(422, wrong("messages: data did not match any variant"))
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise PlainRefusalError(422, wrong(f"messages[{index}]: missing field `role`"))
        _check_content(message, plain_template=plain_template)
    if body.get("agent_permission") == "ask" and not body.get("stream"):
        raise AskRefusedError('agent_permission "ask" requires stream=true over HTTP')
    _check_tools(body.get("tools") or ())
    return body


def _check_tools(tools: Sequence[object]) -> None:
    for tool in tools:
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind in ("web_search", "shell", "namespace"):
            raise InvalidError(f'tools[].type="{kind}" is only supported by the Responses API.')
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise PlainRefusalError(422, wrong("tools: missing field `function`"))


def _check_content(message: Json, *, plain_template: bool) -> None:
    content, role = message.get("content"), message["role"]
    if isinstance(content, list):
        if not all(isinstance(part, dict) and _is_part(part) for part in content):
            raise PlainRefusalError(422, wrong("content: data did not match any variant"))
        if role != "user":
            raise InvalidError(f"Role for an image message must be `user`, but it is {role}")
        for part in content:
            _check_part(part)
        if plain_template:
            raise InvalidError(
                "invalid operation: tried to use + operator on unsupported types string and"
                " sequence (in chat_template:4)"
            )
    elif content is not None and not isinstance(content, str):
        raise PlainRefusalError(422, wrong("content: data did not match any variant"))
    if content is None and not message.get("tool_calls"):
        raise InvalidError("No content was provided, expected tool calls to be provided.")


def _is_part(part: Mapping[str, Any]) -> bool:
    def is_leaf(value: object) -> bool:
        return isinstance(value, str) or (
            isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
        )

    return all(is_leaf(value) for value in part.values())


def _check_part(part: Json) -> None:
    """One part of a user's message; one without a type is taken for text."""
    kind = str(part.get("type", "text"))
    if kind == "text" and "text" not in part:
        raise InvalidError("Text sub-content must have `text` key.")
    for medium in MEDIA:
        if kind != f"{medium}_url":
            continue
        held = part.get(kind)
        url = held.get("url") if isinstance(held, dict) else held
        if not isinstance(url, str):
            raise InvalidError(
                f"{medium.capitalize()} sub-content `{kind}` object must have a `url` key."
            )
        _check_medium(medium, url)


def _check_medium(medium: str, url: str) -> None:
    """What is given with the request must be readable; what is elsewhere, at a public address.

    Nothing is fetched: anything at a public address counts as found.
    """
    if url.startswith("data:"):
        try:
            content = base64.b64decode(url[url.find(",") + 1 :][:16], validate=True)
        except binascii.Error:
            raise InvalidError(f"Failed to decode {medium} data") from None
        if medium == "image" and not content.startswith(PICTURES):
            raise InvalidError("The image format could not be determined")
        return
    host = urlsplit(url).hostname or ""
    try:
        public = ipaddress.ip_address(host).is_global
    except ValueError:
        public = "." in host
    if not public:
        raise InvalidError("Remote media URLs must not target private or local IP addresses.")


def completion(body: Json) -> Json:
    """Check a completion request: the prompt is one string. Raises as `sampling` does."""
    if "prompt" not in sampling(body):
        raise PlainRefusalError(422, wrong("missing field `prompt`"))
    if not isinstance(body["prompt"], str):
        raise PlainRefusalError(422, wrong("prompt: invalid type, expected a string"))
    return body


def embedding_inputs(body: Json) -> list[str]:
    """One text per vector wanted; token lists become their numbers as text.

    Raises:
        PlainRefusalError: `input` is absent or of no form it may have.
        InputRefusedError: No input, or `dimensions`, which no model takes.
    """
    if "input" not in body:
        raise PlainRefusalError(422, wrong("missing field `input`"))
    _one_of(body.get("encoding_format"), "encoding_format", ("float", "base64"))
    if body.get("dimensions") is not None:
        raise InputRefusedError(
            f"Custom embedding dimensions ({body['dimensions']}) are not supported."
        )
    value = body["input"]
    if value == []:
        raise InputRefusedError("input must contain at least one entry.")
    return _texts(value)


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        if all(isinstance(item, int) for item in value):
            return [" ".join(map(str, value))]
        if all(isinstance(item, str) for item in value):
            return list(value)
        if all(isinstance(item, list) for item in value):
            return [" ".join(map(str, item)) for item in value]
    raise PlainRefusalError(422, wrong("input: data did not match any variant"))
