"""Anthropic turns as chat messages: adjacency of tool results holds for any input that is accepted."""

import json
from dataclasses import dataclass, field
from typing import Any

from cortex.core.translate.blocks import Part, blocks_of, joined, parts_of, result_of
from cortex.core.translate.fields import object_of, required, text_of, wrong
from cortex.core.translate.ids import ToolIds

BILLING = "x-anthropic-billing-header"
"""A system block that changes with every request; left in, no prompt is ever found in a cache."""
_SILENT = frozenset({"redacted_thinking", "server_tool_use"})
"""Blocks of an assistant turn that mean nothing to a node."""

Message = dict[str, Any]


@dataclass(slots=True)
class _Turn:
    role: str
    blocks: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """(where in the request, block)."""


def system_text(system: object) -> str:
    """The top-level system prompt as one string, which every chat template takes."""
    if system is None:
        return ""
    texts = []
    for i, block in enumerate(blocks_of(system, "system")):
        text = text_of(required(block, "text", f"system.{i}"), f"system.{i}.text")
        if not text.startswith(BILLING):
            texts.append(text)
    return "\n".join(texts)


def messages_of(system: object, messages: list[Any]) -> list[Message]:
    """The chat messages.

    1. Leading system turns join the system prompt. Later ones become text of the user turn beside
       them: moved to the front they would change the head of the prompt with every turn, and most
       chat templates refuse them where they are.
    2. Consecutive turns of one role are one turn, so that results in two of them stay together.
    3. An assistant turn is one message. A user turn is its tool results first, each a message,
       then one message with all the rest.

    Raises:
        RequestError: What Anthropic's API would refuse too, naming the place.
    """
    head, turns = _turns(system_text(system), messages)
    found: list[Message] = [{"role": "system", "content": head}] if head else []
    ids = ToolIds()
    pending: dict[str, str] = {}
    last_words = _last_words(turns)
    for index, turn in enumerate(turns):
        if turn.role == "assistant":
            _all_answered(pending, turn.blocks[0][0] if turn.blocks else "messages")
            message, pending = _assistant(turn, ids, thinks=index > last_words)
            found.append(message)
        else:
            found += _user(turn, ids, pending)
            pending = {}
    if not turns:
        raise wrong("messages", "at least one user turn is required")
    if turns[-1].role == "assistant":
        raise wrong(
            "messages", "the last turn must be the user's: a node cannot continue an answer"
        )
    return found


def _turns(head: str, messages: list[Any]) -> tuple[str, list[_Turn]]:
    turns: list[_Turn] = []
    for i, item in enumerate(messages):
        where = f"messages.{i}"
        fields = object_of(item, where)
        role = required(fields, "role", where)
        if role not in ("user", "assistant", "system"):
            raise wrong(f"{where}.role", "user, assistant or system is wanted")
        content = blocks_of(required(fields, "content", where), f"{where}.content")
        if role == "system":
            text = system_text(content)
            if not turns:
                head = f"{head}\n{text}" if head and text else head or text
                continue
            role, content = "user", [{"type": "text", "text": text}] if text else []
        if not turns or turns[-1].role != role:
            turns.append(_Turn(role))
        turns[-1].blocks += [(f"{where}.content.{j}", block) for j, block in enumerate(content)]
    return head, turns


def _last_words(turns: list[_Turn]) -> int:
    """Index of the last user turn that says more than tool results: the tool loop began after it."""
    for index in range(len(turns) - 1, -1, -1):
        kinds = {block.get("type") for _, block in turns[index].blocks}
        if turns[index].role == "user" and kinds - {"tool_result"}:
            return index
    return -1


def _assistant(turn: _Turn, ids: ToolIds, *, thinks: bool) -> tuple[Message, dict[str, str]]:
    """One message, and the calls (original id to where) that want a result."""
    said: dict[str, list[str]] = {"text": [], "thinking": []}
    calls: list[dict[str, Any]] = []
    wanted: dict[str, str] = {}
    for where, block in turn.blocks:
        kind = str(required(block, "type", where))
        if kind == "tool_use":
            calls.append(_call(block, ids, wanted, where))
        elif kind in said:
            said[kind].append(text_of(required(block, kind, where), f"{where}.{kind}"))
        elif kind not in _SILENT and not kind.endswith("_tool_result"):
            raise wrong(where, f"content block type {kind[:60]!r} is not supported here")
    message: Message = {"role": "assistant", "content": "".join(said["text"])}
    if calls:
        message["tool_calls"] = calls
    if thinks and any(said["thinking"]):
        message["reasoning_content"] = "".join(said["thinking"])
    return message, wanted


def _call(
    block: dict[str, Any], ids: ToolIds, wanted: dict[str, str], where: str
) -> dict[str, Any]:
    """One tool call; its original id is noted in `wanted`."""
    original = text_of(required(block, "id", where), f"{where}.id")
    if original in wanted:
        raise wrong(f"{where}.id", f"{original[:80]!r} is the id of another tool_use too")
    wanted[original] = where
    given = block.get("input")
    arguments = json.dumps({} if given is None else given, ensure_ascii=False)
    name = text_of(required(block, "name", where), f"{where}.name")
    function = {"name": name, "arguments": arguments}
    return {"id": ids.of(original), "type": "function", "function": function}


def _user(turn: _Turn, ids: ToolIds, pending: dict[str, str]) -> list[Message]:
    results: list[Message] = []
    images: list[Part] = []
    parts: list[Part] = []
    for where, block in turn.blocks:
        if block.get("type") != "tool_result":
            parts += parts_of(block, where)
            continue
        original = text_of(required(block, "tool_use_id", where), f"{where}.tool_use_id")
        if pending.pop(original, None) is None:
            raise wrong(
                where, f"tool_use_id {original[:80]!r} has no tool_use in the turn before"
            )
        text, seen = result_of(block, where)
        results.append({"role": "tool", "tool_call_id": ids.of(original), "content": text})
        images += seen
    _all_answered(pending, turn.blocks[0][0] if turn.blocks else "messages")
    rest = images + parts
    if rest or not results:
        results.append({"role": "user", "content": joined(rest)})
    return results


def _all_answered(pending: dict[str, str], where: str) -> None:
    if pending:
        missing = ", ".join(sorted(pending))[:200]
        raise wrong(where, f"tool_use without a tool_result in the turn after it: {missing}")
