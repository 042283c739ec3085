"""Anthropic content blocks as the text and the parts that a chat message takes."""

import json
from typing import Any

from cortex.core.translate.fields import Json, list_of, object_of, required, text_of, wrong

Part = dict[str, Any]
"""A content part of a chat message. mistral.rs takes strings and maps of strings as values only."""


def blocks_of(content: object, where: str) -> list[dict[str, Any]]:
    """A message's content as blocks; a string is one text block."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    blocks = list_of(content, where)
    return [object_of(block, f"{where}.{i}") for i, block in enumerate(blocks)]


def parts_of(block: Json, where: str) -> list[Part]:
    """One block of a user turn as parts, in order.

    Raises:
        RequestError: Unknown, or nothing that a node could resolve; nothing is dropped silently.
    """
    match required(block, "type", where):
        case "text":
            return [_text(text_of(required(block, "text", where), f"{where}.text"))]
        case "image":
            return [_image(object_of(required(block, "source", where), where), where)]
        case "document":
            return _document(block, where)
        case "search_result":
            return [_text(_search_result(block, where))]
        case other:
            raise wrong(
                where, f"content block type {str(other)[:60]!r} is not supported in a user turn"
            )


def joined(parts: list[Part]) -> str | list[Part]:
    """A message's content: one string where all is text, since every node takes that."""
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def result_of(block: Json, where: str) -> tuple[str, list[Part]]:
    """A tool_result as the string that a tool message must have, and the images it carried.

    Images follow in the user message after the run of tool messages: a tool message has no place
    for them, and a data URL pasted as text would drown the prompt.
    """
    content = block.get("content")
    texts: list[str] = []
    images: list[Part] = []
    if isinstance(content, str):
        texts.append(content)
    elif content is not None:
        for i, item in enumerate(list_of(content, f"{where}.content")):
            place = f"{where}.content.{i}"
            fields = object_of(item, place)
            if fields.get("type") == "image":
                images.append(
                    _image(object_of(required(fields, "source", place), place), place)
                )
                texts.append("[image]")
            else:
                texts.append(_result_text(fields, place))
    text = "\n".join(texts)
    if block.get("is_error") is True and not text.lower().startswith("error"):
        text = f"Error: {text}"
    return text, images


def _result_text(block: Json, where: str) -> str:
    match block.get("type"):
        case "text" | "document" | "search_result":
            parts = parts_of(block, where)
            return "\n".join(part.get("text", "[document]") for part in parts)
        case "tool_reference":
            return str(block.get("tool_name", ""))
        case _:
            return json.dumps(block, ensure_ascii=False)


def _text(text: str) -> Part:
    return {"type": "text", "text": text}


def _image(source: Json, where: str) -> Part:
    match source.get("type"):
        case "base64":
            kind = text_of(required(source, "media_type", where), f"{where}.source.media_type")
            data = text_of(required(source, "data", where), f"{where}.source.data")
            url = f"data:{kind};base64,{data}"
        case "url":
            url = text_of(required(source, "url", where), f"{where}.source.url")
        case other:
            raise wrong(
                where, f"an image source of type {str(other)[:40]!r} cannot be resolved here"
            )
    return {"type": "image_url", "image_url": {"url": url}}


def _document(block: Json, where: str) -> list[Part]:
    source = object_of(required(block, "source", where), f"{where}.source")
    head = "\n".join(str(block[key]) for key in ("title", "context") if block.get(key))
    match source.get("type"):
        case "text":
            body = text_of(required(source, "data", where), f"{where}.source.data")
            return [_text(f"{head}\n{body}" if head else body)]
        case "content":
            inner = blocks_of(required(source, "content", where), f"{where}.source.content")
            parts = [p for i, b in enumerate(inner) for p in parts_of(b, f"{where}.source.{i}")]
            return [_text(head), *parts] if head else parts
        case "base64":
            kind = str(source.get("media_type", "application/pdf"))
            data = text_of(required(source, "data", where), f"{where}.source.data")
            name = str(block.get("title") or "document.pdf")
            file = {"filename": name, "file_data": f"data:{kind};base64,{data}"}
            return [{"type": "file", "file": file}]
        case other:
            raise wrong(
                where, f"a document source of type {str(other)[:40]!r} cannot be resolved here"
            )


def _search_result(block: Json, where: str) -> str:
    inner = blocks_of(block.get("content", []), f"{where}.content")
    texts = [str(item.get("text", "")) for item in inner]
    heads = [str(block[key]) for key in ("title", "source") if block.get(key)]
    return "\n".join([*heads, *texts])
