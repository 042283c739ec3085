"""One mistral.rs engine in a process of its own, spoken to in lines of JSON.

Run by path, not imported: it needs only the standard library and the `mistralrs` wheel, so it
may run under another interpreter than the node. The process ending is how a model leaves
memory: within a process the wheel can neither unload a model nor give its memory back.

In, one object a line: `{"id", "op": "generate", "kind", "body", "max_tokens"}`,
`{"id", "op": "count", "text"}`, `{"id", "op": "embed"}`, `{"id", "op": "cancel"}`.
Out: `{"ready": true}` or `{"failed": text}` first; then per request any number of
`{"id", "text"}` and `{"id", "reasoning"}`, and last one of `{"id", "end": {…}}`,
`{"id", "count"}`, `{"id", "refused": text}`, `{"id", "failed": text}`.
"""

import ctypes
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Json = dict[str, Any]

PR_SET_PDEATHSIG = 1
END_OF_TEXT = "<|endoftext|>"
"""This GGUF names another end token, so after a finished grammar the engine would go on."""
REFUSALS = (
    "Prompt sequence length",
    "incompatible",
    "grammar",
    "template",
    "must be",
    "missing field",
)
"""Openings of the texts with which the engine declines a request it has looked at."""
SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "truncate_sequence",
    "ignore_eos",
)
CHAT_ONLY = ("enable_thinking", "reasoning_effort")


class Child:
    """Owns the engine; works on one request at a time, as the CPU engine can do no more."""

    def __init__(self, out_fd: int) -> None:
        self._out_fd = out_fd
        self._work: queue.Queue[Json] = queue.Queue()
        self._cancelled: set[int] = set()
        self._runner: Any = None
        self._lib: Any = None

    def say(self, **fields: object) -> None:
        """One line to the node. A node that is gone ends this process."""
        line = json.dumps(fields, separators=(",", ":")).encode() + b"\n"
        try:
            os.write(self._out_fd, line)
        except OSError:
            os._exit(0)

    def load(self, gguf: str) -> None:
        """Bring the model in. Raises whatever the wheel does."""
        import mistralrs

        path = Path(gguf)
        which = mistralrs.Which.GGUF(
            quantized_model_id=str(path.parent), quantized_filename=path.name
        )
        # Q8 decodes several times faster on a CPU than the four bits of the file itself.
        self._runner = mistralrs.Runner(which=which, in_situ_quant="8", max_seqs=1)
        self._lib = mistralrs

    def listen(self) -> None:
        """Take lines from the node until it closes the pipe; on a thread, so a cancel overtakes."""
        for line in sys.stdin.buffer:
            order = json.loads(line)
            if order["op"] == "cancel":
                self._cancelled.add(order["id"])
            else:
                self._work.put(order)
        os._exit(0)

    def serve(self) -> None:
        """Do what is asked, in order, for ever."""
        while True:
            order = self._work.get()
            number = order["id"]
            try:
                self._do(number, order)
            except Exception as error:  # noqa: BLE001 (the wheel raises all sorts, ours to report)
                text = str(error).split("\n   0:", 1)[0]
                refused = any(word in text for word in REFUSALS)
                self.say(id=number, **{"refused" if refused else "failed": text})
            self._cancelled.discard(number)

    def _do(self, number: int, order: Json) -> None:
        if order["op"] == "count":
            tokens = self._runner.tokenize_text(order["text"], True, None)  # noqa: FBT003
            self.say(id=number, count=len(tokens))
        elif order["op"] == "embed":
            vectors = self._runner.send_embedding_request(self._lib.EmbeddingRequest(input="x"))
            self.say(id=number, failed=f"unexpected embedding of {len(vectors)} rows")
        elif order["kind"] == "text":
            self._complete(number, order)
        else:
            self._chat(number, order)

    def _chat(self, number: int, order: Json) -> None:
        request = self._lib.ChatCompletionRequest(
            messages=messages_of(order["body"]["messages"]),
            model="default",
            stream=True,
            **common(order),
            **self._tools(order["body"]),
            **chosen(order["body"], CHAT_ONLY),
        )
        chunks: Iterator[Any] = self._runner.send_chat_completion_request(request)
        for chunk in chunks:
            if number in self._cancelled:
                break
            for choice in chunk.choices:
                self._chunk(number, choice, chunk.usage)
        # Dropping the iterator is what stops the engine.
        del chunks

    def _chunk(self, number: int, choice: Any, usage: Any) -> None:
        delta = choice.delta
        if delta.reasoning_content:
            self.say(id=number, reasoning=delta.reasoning_content)
        if choice.finish_reason is None:
            if delta.content:
                self.say(id=number, text=delta.content)
            return
        calls = [
            {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
            for call in delta.tool_calls or ()
        ]
        self._end(number, choice.finish_reason, delta.content, usage, calls)

    def _complete(self, number: int, order: Json) -> None:
        """The wheel has no streamed completion, so the text comes in one piece, at the end."""
        request = self._lib.CompletionRequest(
            prompt=order["body"]["prompt"], model="default", **common(order)
        )
        answer = self._runner.send_completion_request(request)
        choice = answer.choices[0]
        self._end(number, choice.finish_reason, choice.text, answer.usage, [])

    def _end(
        self, number: int, reason: str, text: str | None, usage: Any, calls: list[Json]
    ) -> None:
        self.say(
            id=number,
            end={
                "finish_reason": reason,
                "text": text,
                "tool_calls": calls,
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "prompt_s": usage.total_prompt_time_sec,
                "completion_s": usage.total_completion_time_sec,
            },
        )

    def _tools(self, body: Json) -> Json:
        tools = body.get("tools") or []
        choice = body.get("tool_choice")
        if not tools:
            return {}
        kinds = self._lib.ToolChoice
        settings: Json = {
            "tool_schemas": [json.dumps(tool) for tool in tools],
            "tool_choice": kinds.NoTools if choice == "none" else kinds.Auto,
        }
        forced = forced_tools(tools, choice)
        if forced:
            schema = {"anyOf": [call_schema(tool["function"]) for tool in forced]}
            settings["grammar_type"] = "json_schema"
            settings["grammar"] = json.dumps(schema if len(forced) > 1 else schema["anyOf"][0])
        return settings


def forced_tools(tools: list[Json], choice: object) -> list[Json]:
    """The tools one of which must be called; the wheel itself knows only auto and none."""
    if isinstance(choice, dict):
        name = choice.get("function", {}).get("name")
        return [tool for tool in tools if tool["function"]["name"] == name]
    return tools if choice == "required" else []


def call_schema(function: Json) -> Json:
    """The schema of the bare JSON object that the engine reads as a call of `function`."""
    arguments = function.get("parameters") or {"type": "object"}
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def messages_of(messages: str | list[Json]) -> str | list[Json]:
    """Messages as the wheel takes them: contents are strings, never null or parts of text."""
    if isinstance(messages, str):
        return messages
    return [message_of(message) for message in messages]


def message_of(message: Json) -> Json:
    """Every value a string or a map of strings: an `index` that a client sends back is none."""
    kept = {key: value for key, value in message.items() if value is not None}
    calls = [
        {
            "id": str(call.get("id", "")),
            "type": "function",
            "function": {key: str(value) for key, value in call.get("function", {}).items()},
        }
        for call in kept.pop("tool_calls", ())
    ]
    return (
        kept | {"content": flat(kept.get("content"))} | ({"tool_calls": calls} if calls else {})
    )


def flat(content: object) -> str:
    """The text of a content; other kinds of part mean nothing to a text model."""
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content)
    return "" if content is None else str(content)


def chosen(body: Json, keys: tuple[str, ...]) -> Json:
    """Those of `keys` that the body sets."""
    return {key: body[key] for key in keys if body.get(key) is not None}


def common(order: Json) -> Json:
    """Arguments that chat and completion requests share."""
    body = order["body"]
    settings = chosen(body, SAMPLING)
    settings["max_tokens"] = order["max_tokens"]
    stop = body.get("stop") or []
    stops = [stop] if isinstance(stop, str) else list(stop)
    wanted = body.get("response_format") or {}
    grammar = body.get("grammar")
    if isinstance(grammar, dict):
        settings["grammar_type"] = grammar["type"]
        value = grammar["value"]
        settings["grammar"] = value if isinstance(value, str) else json.dumps(value)
    elif wanted.get("type") == "json_schema":
        settings["grammar_type"] = "json_schema"
        settings["grammar"] = json.dumps(wanted["json_schema"]["schema"])
    elif wanted.get("type") == "json_object":
        settings["grammar_type"] = "json_schema"
        settings["grammar"] = json.dumps({"type": "object"})
    settings["stop_seqs"] = [*stops, END_OF_TEXT]
    return settings


def main() -> None:
    """`python -P engine_child.py FILE.gguf`."""
    # Should the node be killed, the kernel ends this process too.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The engine logs to file descriptor 1, so the lines travel on a copy of it.
    out_fd = os.dup(1)
    os.dup2(2, 1)
    child = Child(out_fd)
    try:
        child.load(sys.argv[1])
    except Exception as error:  # noqa: BLE001 (becomes the node's answer to `reload`)
        child.say(failed=str(error).split("\n   0:", 1)[0] or type(error).__name__)
        return
    child.say(ready=True)
    threading.Thread(target=child.listen, name="orders", daemon=True).start()
    child.serve()


if __name__ == "__main__":
    main()
