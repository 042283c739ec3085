"""The Responses routes; their resources live in this process's memory only (contract §1.4)."""

from typing import TYPE_CHECKING, Any

from aiohttp import web

from cortex.devnode import bodies, errors
from cortex.devnode.engine import Ask, Collected, End, Json, ToolCall
from cortex.devnode.errors import EngineFailedError, EngineGoneError, InvalidError, RefusalError
from cortex.devnode.inference import Inference
from cortex.devnode.messages import event
from cortex.devnode.replies import DONE, Head, answer_json, escape, now_s
from cortex.devnode.streams import Stream

if TYPE_CHECKING:
    from cortex.devnode.node import Node


def _text_part(text: str) -> Json:
    return {"type": "output_text", "text": text}


def _message_item(response_id: str, text: str, status: str) -> Json:
    return {
        "id": f"msg_{response_id[5:]}",
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": [_text_part(text)] if text else [],
    }


def _call_item(call: ToolCall) -> Json:
    return {
        "id": f"fc_{call.id[5:]}",
        "type": "function_call",
        "status": "completed",
        "call_id": call.id,
        "name": call.name,
        "arguments": call.arguments,
    }


def resource(head: Head, response_id: str, status: str, **fields: object) -> Json:
    """A `response` object: of the request it repeats its limit alone, though OpenAI's repeats it all."""
    limit = head.request.get("max_output_tokens")
    return {
        "id": response_id,
        "object": "response",
        "created_at": head.created,
        "model": head.requested,
        "status": status,
        "output": [],
        **({"max_output_tokens": limit} if limit is not None else {}),
        **fields,
    }


def completed(head: Head, response_id: str, answer: Collected) -> Json:
    """The resource of a finished answer; one cut by its length says completed all the same."""
    end = answer.end
    assert end is not None
    text = "".join(answer.text)
    output: list[Json] = []
    if answer.reasoning:
        summary = [{"type": "reasoning_text", "text": "".join(answer.reasoning)}]
        output.append({"id": f"rs_{response_id[5:]}", "type": "reasoning", "content": summary})
    if text or not end.tool_calls:
        output.append(_message_item(response_id, text, "completed"))
    output += [_call_item(call) for call in end.tool_calls]
    prompt, completion = end.usage.prompt_tokens, end.usage.completion_tokens
    usage = {
        "input_tokens": prompt,
        "output_tokens": completion,
        "total_tokens": prompt + completion,
    }
    return resource(
        head,
        response_id,
        "completed",
        output=output,
        output_text=text,
        usage=usage,
        completed_at=now_s(),
    )


class ResponseFrames:
    """response.created … response.completed, then `[DONE]`."""

    done = DONE

    def __init__(self, head: Head, response_id: str) -> None:
        self._head = head
        self._id = response_id
        self._sequence = 0
        self._answer = Collected()
        self._item = f"msg_{response_id[5:]}"
        self._open = False

    def _event(self, kind: str, **fields: object) -> bytes:
        self._sequence += 1
        return event(kind, sequence_number=self._sequence - 1, **fields)

    def open(self) -> bytes:
        queued = resource(self._head, self._id, "queued")
        begun = resource(self._head, self._id, "in_progress")
        created = self._event("response.created", response=queued)
        return created + self._event("response.in_progress", response=begun)

    def text(self, text: str) -> bytes:
        begin = b"" if self._open else self._begin()
        self._answer.add(text)
        self._sequence += 1
        return (
            begin
            + (
                "event: response.output_text.delta\n"
                'data: {"type":"response.output_text.delta",'
                f'"sequence_number":{self._sequence - 1},"output_index":0,'
                f'"content_index":0,"delta":{escape(text)}}}\n\n'
            ).encode()
        )

    def _begin(self) -> bytes:
        self._open = True
        item = _message_item(self._id, "", "in_progress")
        added = self._event("response.output_item.added", output_index=0, item=item)
        return added + self._event(
            "response.content_part.added", **self._at(part=_text_part(""))
        )

    def _at(self, **fields: Any) -> Json:
        return {"item_id": self._item, "output_index": 0, "content_index": 0, **fields}

    def reasoning(self, text: str) -> bytes:
        at = {"output_index": 0, "content_index": 0}
        return self._event("response.reasoning_text.delta", **at, delta=text)

    def end(self, end: End) -> bytes:
        parts: list[bytes] = []
        if end.text is not None:
            parts.append(self.text(end.text))
        text = "".join(self._answer.text)
        if self._open:
            item = _message_item(self._id, text, "completed")
            parts += (
                self._event("response.output_text.done", **self._at(text=text)),
                self._event("response.content_part.done", **self._at(part=_text_part(text))),
                self._event("response.output_item.done", output_index=0, item=item),
            )
        for index, call in enumerate(end.tool_calls, start=int(self._open)):
            item, where = (
                _call_item(call),
                {"item_id": f"fc_{call.id[5:]}", "output_index": index},
            )
            arguments = call.arguments
            parts += (
                self._event("response.output_item.added", output_index=index, item=item),
                self._event(
                    "response.function_call_arguments.delta",
                    delta=arguments,
                    output_index=index,
                ),
                self._event(
                    "response.function_call_arguments.done", arguments=arguments, **where
                ),
                self._event("response.output_item.done", output_index=index, item=item),
            )
        self._answer.end = end
        whole = completed(self._head, self._id, self._answer)
        parts.append(self._event("response.completed", response=whole))
        return b"".join(parts)

    def error(self, error: RefusalError) -> bytes | None:
        text = str(error)
        problem = {"code": "server_error", "message": text}
        failed = resource(self._head, self._id, "failed", error=problem)
        return (
            self._event("error", code="server_error", message=text, param=None)
            + self._event("response.failed", response=failed)
            + DONE
        )


class Responses:
    """Handlers."""

    def __init__(self, node: "Node", inference: Inference) -> None:
        self._node = node
        self._inference = inference
        self._background_ids: set[str] = set()
        """Those that run in the background: the only ones that can be cancelled."""

    async def create(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/responses: streamed, whole or in the background."""
        body = await bodies.read(request)
        if "input" not in body:
            raise errors.PlainRefusalError(422, bodies.wrong("missing field `input`"))
        if body.get("max_tool_calls") is not None:
            raise InvalidError(
                "max_tool_calls is not supported. mistral.rs does not currently support"
                " limiting the number of tool calls."
            )
        chat = to_chat(body, self._node.histories.get(str(body.get("previous_response_id"))))
        ask = Ask(kind="chat", model="", body=chat, max_tokens=_limit(body))
        response_id = self._node.new_id("resp_")
        async with self._inference.admitted():
            if body.get("stream"):
                return await self._streamed(request, ask, response_id)
            if body.get("background"):
                return await self._background(ask, response_id)
            return await self._whole(ask, response_id)

    async def _streamed(
        self, request: web.Request, ask: Ask, response_id: str
    ) -> web.StreamResponse:
        stream = Stream(self._node, request)
        response = await self._inference.stream(
            stream, ask, lambda head: ResponseFrames(head, response_id), collect=True
        )
        if stream.failed is None:
            # Of a streamed response only the history is kept: GET does not find it.
            self._remember(ask, response_id, stream.collected)
        return response

    async def _whole(self, ask: Ask, response_id: str) -> web.StreamResponse:
        head, answer, error = await self._inference.whole(ask)
        if isinstance(error, EngineGoneError):
            raise EngineGoneError("Unexpected response type") from error
        if isinstance(error, EngineFailedError):
            partial = resource(head, response_id, "failed", output_text="".join(answer.text))
            return errors.partial(500, str(error), partial)
        if error is not None:
            raise error
        whole = completed(head, response_id, answer)
        self._remember(ask, response_id, answer)
        if ask.body.get("store", True) is not False:
            self._node.responses[response_id] = whole
        return answer_json(whole)

    async def _background(self, ask: Ask, response_id: str) -> web.StreamResponse:
        seat = await self._node.seat_for(bodies.model_of(ask.body))
        head = self._inference.head(seat, "", ask)
        queued = resource(head, response_id, "queued", metadata=None)
        self._node.responses[response_id] = queued
        self._background_ids.add(response_id)

        async def run() -> None:
            self._node.responses[response_id] = queued | {"status": "in_progress"}
            _head, answer, error = await self._inference.collect(seat, ask)
            self._background_ids.discard(response_id)
            if self._node.responses.get(response_id, queued)["status"] == "cancelled":
                return
            if error is None:
                done = completed(head, response_id, answer) | {"metadata": None}
                self._remember(ask, response_id, answer)
            else:
                kind = "unknown_error" if isinstance(error, EngineGoneError) else "server_error"
                problem = {"type": kind, "message": str(error)}
                done = queued | {"status": "failed", "error": problem}
            self._node.responses[response_id] = done

        self._node.leave(run())
        return answer_json(queued)

    def _remember(self, ask: Ask, response_id: str, answer: Collected) -> None:
        said = {"role": "assistant", "content": "".join(answer.text)}
        self._node.histories[response_id] = [*ask.body["messages"], said]

    async def get(self, request: web.Request) -> web.Response:
        """GET /v1/responses/{id}."""
        found = self._node.responses.get(request.match_info["id"])
        return _missing(request) if found is None else answer_json(found)

    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /v1/responses/{id}."""
        response_id = request.match_info["id"]
        self._node.histories.pop(response_id, None)
        if self._node.responses.pop(response_id, None) is None:
            return _missing(request)
        return answer_json({"id": response_id, "object": "response.deleted", "deleted": True})

    async def cancel(self, request: web.Request) -> web.Response:
        """POST /v1/responses/{id}/cancel: marks what runs in the background; the engine goes on."""
        response_id = request.match_info["id"]
        found = self._node.responses.get(response_id)
        if found is None or response_id not in self._background_ids:
            text = f"Response with ID '{response_id}' not found or cannot be cancelled"
            return errors.message(404, text)
        found = found | {"status": "cancelled"}
        self._node.responses[response_id] = found
        return answer_json(found)


def _limit(body: Json) -> int | None:
    if body.get("max_output_tokens") == 0:
        raise InvalidError("max_output_tokens must be at least 1.")
    return bodies.max_tokens({"max_tokens": body.get("max_output_tokens")})


def _missing(request: web.Request) -> web.Response:
    return errors.message(404, f"Response with ID '{request.match_info['id']}' not found")


def to_chat(body: Json, history: list[Json] | None) -> Json:
    """The chat request behind a response; an unknown previous response is an empty history."""
    messages = list(history or ())
    if body.get("instructions"):
        messages.insert(0, {"role": "system", "content": body["instructions"]})
    given = body["input"]
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    for item in items:
        messages += _turn(item)
    tools = [
        {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
        for tool in body.get("tools") or ()
        if tool.get("type") == "function"
    ]
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    wanted = (body.get("text") or {}).get("format") or {}
    chat = {**body, "messages": messages, "tools": tools, "tool_choice": choice}
    if wanted.get("type") == "json_schema":
        chat["response_format"] = {"type": "json_schema", "json_schema": wanted}
    return chat


def _turn(item: Json) -> list[Json]:
    match item.get("type", "message"):
        case "message":
            content = item.get("content")
            if isinstance(content, list):
                content = "\n".join(str(part.get("text", "")) for part in content)
            role = "system" if item.get("role") == "developer" else item.get("role", "user")
            return [{"role": role, "content": content}]
        case "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            return [{"role": "assistant", "content": None, "tool_calls": [call]}]
        case "function_call_output":
            output = item.get("output")
            text = output if isinstance(output, str) else str(output)
            return [{"role": "tool", "content": text, "tool_call_id": item.get("call_id")}]
        case _:
            return []
