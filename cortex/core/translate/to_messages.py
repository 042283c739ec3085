"""A chat completions request as an Anthropic Messages request, for a node that speaks only that."""

import re
from collections.abc import Mapping
from typing import Any

from cortex.core.translate.answer import arguments_of
from cortex.core.translate.fields import list_of, object_of, required, text_of, wrong
from cortex.core.translate.ids import ToolIds

DEFAULT_MAX_TOKENS = 4096
"""Anthropic wants a limit; OpenAI's clients need not give one."""
NO_OUTPUT = "(no output)"
_DATA_URL = re.compile(
    r"data:([\w.+-]+/[\w.+-]+)(?:;[^;,]*)*?;base64,(.*)", re.DOTALL | re.IGNORECASE
)
_MEDIA_TYPES = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-png": "image/png",
}
"""What clients call formats, and what Anthropic does."""
_CHOICES = {"auto": "auto", "none": "none", "required": "any"}

Block = dict[str, Any]


def messages_body(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a chat completions body; always streamed, as our side of the answer is.

    Raises:
        RequestError: 400 naming the field that cannot be honoured.
    """
    if fields.get("n") not in (None, 1):
        raise wrong("n", "this model gives one answer at a time")
    system, turns = _turns(list(list_of(required(fields, "messages", ""), "messages")))
    limits = (fields.get("max_completion_tokens"), fields.get("max_tokens"))
    limit = next((limit for limit in limits if limit is not None), DEFAULT_MAX_TOKENS)
    body: dict[str, Any] = {
        "model": text_of(required(fields, "model", ""), "model"),
        "messages": turns,
        "max_tokens": limit,
        "stream": True,
        **_sampling(fields),
        **_tools(fields),
        **_thinking(fields),
    }
    if system:
        body["system"] = system
    if isinstance(fields.get("user"), str):
        body["metadata"] = {"user_id": fields["user"]}
    return body


def _turns(messages: list[Any]) -> tuple[str, list[dict[str, Any]]]:
    """The system prompt, and turns that alternate: results first in theirs, the user's first of all."""
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    ids = ToolIds()
    for i, item in enumerate(messages):
        where = f"messages.{i}"
        message = object_of(item, where)
        role = required(message, "role", where)
        if role in ("system", "developer") and not turns:
            system.append(_plain(message.get("content"), where))
            continue
        whose = "assistant" if role == "assistant" else "user"
        blocks = _blocks(role, message, ids, where)
        if not blocks:
            continue
        if not turns or turns[-1]["role"] != whose:
            turns.append({"role": whose, "content": []})
        turns[-1]["content"] += blocks
    if not turns or turns[0]["role"] != "user":
        turns.insert(0, {"role": "user", "content": [{"type": "text", "text": "."}]})
    for turn in turns:
        # The sort is stable: everything else keeps its order.
        turn["content"].sort(key=lambda block: block["type"] != "tool_result")
    return "\n".join(filter(None, system)), turns


def _blocks(role: object, message: dict[str, Any], ids: ToolIds, where: str) -> list[Block]:
    content = message.get("content")
    match role:
        case "user" | "system" | "developer":
            return _content(content, where)
        case "tool":
            call_id = text_of(required(message, "tool_call_id", where), f"{where}.tool_call_id")
            said = _content(content, where) or [{"type": "text", "text": NO_OUTPUT}]
            return [{"type": "tool_result", "tool_use_id": ids.of(call_id), "content": said}]
        case "assistant":
            calls = [
                _use(object_of(call, f"{where}.tool_calls.{i}"), ids, f"{where}.tool_calls.{i}")
                for i, call in enumerate(message.get("tool_calls") or [])
            ]
            return _content(content, where) + calls
        case _:
            raise wrong(f"{where}.role", "system, developer, user, assistant or tool is wanted")


def _use(call: dict[str, Any], ids: ToolIds, where: str) -> Block:
    function = object_of(required(call, "function", where), f"{where}.function")
    given = arguments_of(function.get("arguments"))
    return {
        "type": "tool_use",
        "id": ids.of(text_of(required(call, "id", where), f"{where}.id")),
        "name": text_of(required(function, "name", where), f"{where}.function.name"),
        "input": {} if "_raw" in given else given,
    }


def _content(content: object, where: str) -> list[Block]:
    """A message's content as blocks; an empty text is none, since it would be refused."""
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    blocks = []
    for i, item in enumerate(list_of(content, f"{where}.content")):
        place = f"{where}.content.{i}"
        block = _part(object_of(item, place), place)
        if block != {"type": "text", "text": ""}:
            blocks.append(block)
    return blocks


def _part(part: dict[str, Any], where: str) -> Block:
    match part.get("type"):
        case "text" | "refusal" as kind:
            return {"type": "text", "text": text_of(required(part, kind, where), where)}
        case "image_url":
            source = part.get("image_url")
            url = source.get("url") if isinstance(source, dict) else source
            return {"type": "image", "source": _source(text_of(url, f"{where}.image_url.url"))}
        case "file":
            file = object_of(required(part, "file", where), f"{where}.file")
            data = text_of(required(file, "file_data", where), f"{where}.file.file_data")
            return {"type": "document", "source": _source(data)}
        case other:
            raise wrong(where, f"content part type {str(other)[:40]!r} is not supported here")


def _source(url: str) -> dict[str, str]:
    found = _DATA_URL.fullmatch(url)
    if found is None:
        return {"type": "url", "url": url}
    kind = found[1].lower()
    return {"type": "base64", "media_type": _MEDIA_TYPES.get(kind, kind), "data": found[2]}


def _plain(content: object, where: str) -> str:
    return "\n".join(str(block.get("text", "")) for block in _content(content, where))


def _sampling(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Temperature is clamped to 1 and goes before top_p, since newer models refuse both."""
    found: dict[str, Any] = {}
    temperature = fields.get("temperature")
    if isinstance(temperature, int | float) and not isinstance(temperature, bool):
        found["temperature"] = min(1, temperature)
    elif fields.get("top_p") is not None:
        found["top_p"] = fields["top_p"]
    stops = fields.get("stop")
    stops = [stops] if isinstance(stops, str) else stops or []
    kept = [stop for stop in stops if isinstance(stop, str) and stop.strip()]
    return found | ({"stop_sequences": kept} if kept else {})


def _tools(fields: Mapping[str, Any]) -> dict[str, Any]:
    tools = []
    for i, item in enumerate(fields.get("tools") or []):
        where = f"tools.{i}"
        function = object_of(required(object_of(item, where), "function", where), where)
        tool = {
            "name": text_of(required(function, "name", where), f"{where}.function.name"),
            "input_schema": function.get("parameters") or {"type": "object"},
        }
        if function.get("description"):
            tool["description"] = function["description"]
        tools.append(tool)
    if not tools:
        return {}
    return {"tools": tools, **_choice(fields)}


def _choice(fields: Mapping[str, Any]) -> dict[str, Any]:
    choice = fields.get("tool_choice")
    found: dict[str, Any] = {}
    if isinstance(choice, str) and choice in _CHOICES:
        found = {"type": _CHOICES[choice]}
    elif isinstance(choice, dict):
        function = object_of(choice.get("function"), "tool_choice.function")
        found = {"type": "tool", "name": function.get("name")}
    elif choice is not None:
        raise wrong("tool_choice", "auto, none, required or a function is wanted")
    if fields.get("parallel_tool_calls") is False:
        found = {"type": "auto", **found, "disable_parallel_tool_use": True}
    return {"tool_choice": found} if found else {}


def _thinking(fields: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    output: dict[str, Any] = {}
    effort = fields.get("reasoning_effort")
    if effort == "none":
        found["thinking"] = {"type": "disabled"}
    elif isinstance(effort, str):
        output["effort"] = "low" if effort == "minimal" else effort
    wanted = fields.get("response_format")
    if isinstance(wanted, dict) and wanted.get("type") == "json_schema":
        schema = object_of(wanted.get("json_schema"), "response_format.json_schema")
        output["format"] = {"type": "json_schema", "schema": schema.get("schema")}
    return found | ({"output_config": output} if output else {})
