"""Anthropic tools and the choice among them, as functions of a chat request."""

from typing import Any

from cortex.core.translate.fields import list_of, object_of, required, text_of, wrong

_SERVER_RUN = ("web_search_", "web_fetch_", "code_execution_", "tool_search_", "mcp_")
"""Run by Anthropic's servers: nobody here would; the model simply does not have them."""


def functions_of(tools: object, messages: object) -> list[dict[str, Any]]:
    """The client's own tools. Schemas are left as they are.

    A tool with `defer_loading` is one that the model does not see before a search has named it in
    a tool_reference, so it is left out until then.

    Raises:
        RequestError: A tool that the client runs but whose schema only Anthropic's models know.
    """
    found = []
    found_so_far = _referenced(messages)
    for i, item in enumerate(list_of(tools, "tools")):
        where = f"tools.{i}"
        tool = object_of(item, where)
        kind = tool.get("type") or "custom"
        if tool.get("defer_loading") is True and tool.get("name") not in found_so_far:
            continue
        if kind == "custom":
            found.append({"type": "function", "function": _function(tool, where)})
        elif not str(kind).startswith(_SERVER_RUN):
            raise wrong(
                f"{where}.type", f"tool type {str(kind)[:60]!r} is not known to any node"
            )
    return found


def _referenced(messages: object) -> set[object]:
    """Names in the tool_references of a history, wherever they stand."""
    names: set[object] = set()
    waiting = [messages]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            if item.get("type") == "tool_reference":
                names.add(item.get("tool_name"))
            elif "content" in item:
                waiting.append(item["content"])
    return names


def _function(tool: dict[str, Any], where: str) -> dict[str, Any]:
    function: dict[str, Any] = {"name": text_of(required(tool, "name", where), f"{where}.name")}
    if isinstance(tool.get("description"), str):
        function["description"] = tool["description"]
    schema = required(tool, "input_schema", where)
    function["parameters"] = object_of(schema, f"{where}.input_schema")
    if isinstance(tool.get("strict"), bool):
        function["strict"] = tool["strict"]
    return function


def choice_of(choice: object, functions: list[dict[str, Any]]) -> dict[str, Any]:
    """`tool_choice` and `parallel_tool_calls` of the chat request; empty without tools."""
    if choice is None or not functions:
        return {}
    fields = object_of(choice, "tool_choice")
    found: dict[str, Any] = {}
    if fields.get("disable_parallel_tool_use") is True:
        found["parallel_tool_calls"] = False
    match fields.get("type"):
        case "auto" | "none" as word:
            found["tool_choice"] = word
        case "any":
            found["tool_choice"] = "required"
        case "tool":
            name = text_of(required(fields, "name", "tool_choice"), "tool_choice.name")
            if all(function["function"]["name"] != name for function in functions):
                raise wrong("tool_choice.name", f"there is no tool {name[:80]!r}")
            found["tool_choice"] = {"type": "function", "function": {"name": name}}
        case _:
            raise wrong("tool_choice.type", "auto, any, tool or none is wanted")
    return found
