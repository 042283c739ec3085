"""An engine without a model: deterministic words, made-up memory, failures on request."""

import asyncio
import hashlib
import json
import zlib
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any, Final

from cortex.devnode.engine import (
    Ask,
    Device,
    End,
    Json,
    LoadFailedError,
    Piece,
    Reasoning,
    ToolCall,
    Usage,
)
from cortex.devnode.errors import AskRefusedError, EngineFailedError, WrongCategoryError
from cortex.devnode.knobs import Knobs

MIB: Final = 1 << 20
WORDS: Final = (
    " amber", " basin", " cedar", " delta", " ember", " fjord", " grove", " harbor",
    " island", " juniper", " kelp", " lagoon", " meadow", " north", " orchard", " pebble",
    " quarry", " river", " summit", " thicket", " upland", " valley", " willow", " yarrow",
)  # fmt: skip
DEFAULT_TOKENS: Final = 8
MOST_TOKENS: Final = 256


class ScriptedEngine:
    """Satisfies `engine.Engine`. Owns the device's memory as this node tells it."""

    def __init__(self, knobs: Knobs) -> None:
        self._knobs = knobs
        self._held_mib: dict[str, float] = {}
        self._leaked_mib = 0.0
        self._boot = 0
        self._loads = 0
        """Loads under way, which slow the other models down."""

    async def start(self, resident: Sequence[str]) -> None:
        self._boot += 1
        self._held_mib = {model: self._knobs.size_mib_of(model) for model in resident}
        self._leaked_mib = 0.0
        await asyncio.sleep(self._knobs.boot_s)

    async def close(self) -> None:
        self._held_mib.clear()

    async def load(self, model: str) -> None:
        size_mib = self._knobs.size_mib_of(model)
        fail = self._knobs.take_load_failure(model)
        if fail is None and size_mib > self.available_mib:
            fail = 'DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")'
        if fail is not None:
            await asyncio.sleep(self._knobs.load_s_of(model) / 2)
            raise LoadFailedError(fail)
        self._held_mib[model] = size_mib
        self._loads += 1
        try:
            await asyncio.sleep(self._knobs.load_s_of(model))
        finally:
            self._loads -= 1

    def unload(self, model: str) -> None:
        held_mib = self._held_mib.pop(model, 0.0)
        leak_mib = held_mib * self._knobs.leak_pct / 100
        self._leaked_mib += held_mib
        boot = self._boot

        def release() -> None:
            if boot == self._boot:
                self._leaked_mib -= held_mib - leak_mib

        asyncio.get_running_loop().call_later(self._knobs.release_delay_s, release)

    @property
    def available_mib(self) -> float:
        """What is left on the device, unreleased and leaked memory counted as used."""
        used_mib = sum(self._held_mib.values()) + self._leaked_mib
        return max(0.0, self._knobs.vram_total_mib - used_mib)

    def devices(self) -> Sequence[Device]:
        host = Device(
            kind="cpu",
            name="Scripted CPU",
            total_bytes=65_536 * MIB,
            available_bytes=32_768 * MIB,
        )
        if self._knobs.cpu_only:
            return (host,)
        return (
            host,
            Device(
                kind="cuda",
                name="Scripted GPU",
                total_bytes=self._knobs.vram_total_mib * MIB,
                available_bytes=int(self.available_mib * MIB),
            ),
        )

    async def pieces(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        knobs = self._knobs
        prompt = prompt_of(ask)
        prompt_tokens = tokens_of(prompt)
        self._refuse(ask, prompt_tokens)
        if knobs.first_token_s > 0:
            await asyncio.sleep(knobs.first_token_s)
        call = self._tool_call(ask)
        if call is not None:
            yield End(
                finish_reason="tool_calls",
                usage=Usage(prompt_tokens=prompt_tokens, completion_tokens=8),
                tool_calls=(call,),
            )
            return
        sent = 0
        for piece in self._words(ask, prompt, prompt_tokens):
            if sent == knobs.error_event_after:
                raise EngineFailedError("scripted engine failure")
            if sent:
                await self._breathe(sent)
            sent += 1
            yield piece
        if sent == knobs.error_event_after:
            raise EngineFailedError("scripted engine failure")

    def _refuse(self, ask: Ask, prompt_tokens: int) -> None:
        """What the engine itself finds wrong with a request, once it has it."""
        knobs = self._knobs
        if knobs.category_of(ask.model) != ask.category:
            raise WrongCategoryError
        if prompt_tokens > knobs.context_tokens:
            raise AskRefusedError(
                f"Prompt sequence length is greater than {knobs.context_tokens}, "
                "perhaps consider using `truncate_sequence`?"
            )
        if knobs.cpu_only and (ask.body.get("n") or 1) > 1:
            raise EngineFailedError("input tensor is not contiguous Tensor[dims 2, 9; f32]")

    async def _breathe(self, sent: int) -> None:
        pause_s = self._knobs.token_interval_s
        if self._loads:
            pause_s += self._knobs.loading_token_s
        if pause_s > 0:
            await asyncio.sleep(pause_s)
        elif not sent & 15:
            # Even at full speed others get a turn now and then.
            await asyncio.sleep(0)

    def _words(self, ask: Ask, prompt: str, prompt_tokens: int) -> Iterator[Piece]:
        knobs = self._knobs
        count, reason = self._length(ask)
        text = schema_text(ask.body)
        words = (text,) if text is not None else WORDS
        count = 1 if text is not None else count
        seed = zlib.crc32(f"{ask.model}\n{prompt}".encode()) % len(words)
        for index in range(knobs.reasoning_tokens):
            yield Reasoning(words[(seed + index) % len(words)])
        index = 0
        endless = knobs.endless and ask.max_tokens != 1
        stops = stops_of(ask.body)
        last: str | None = None
        while endless or index < count:
            last = words[(seed + index) % len(words)]
            index += 1
            if any(stop in last for stop in stops):
                last, reason = min((last.partition(stop)[0] for stop in stops), key=len), "stop"
                break
            if endless or index < count:
                yield last
        yield End(
            finish_reason="stop" if text is not None else reason,
            usage=Usage(
                prompt_tokens=prompt_tokens, completion_tokens=index + knobs.reasoning_tokens
            ),
            text=last,
        )

    def _length(self, ask: Ask) -> tuple[int, str]:
        wanted, most = self._knobs.tokens, ask.max_tokens
        if wanted is None:
            wanted = DEFAULT_TOKENS if most is None else min(most, MOST_TOKENS)
            return wanted, "length" if wanted == most else "stop"
        if most is not None and most < wanted:
            return most, "length"
        return wanted, "stop"

    def _tool_call(self, ask: Ask) -> ToolCall | None:
        tools: list[Json] = ask.body.get("tools") or []
        choice = ask.body.get("tool_choice")
        messages = ask.body.get("messages")
        last = messages[-1] if isinstance(messages, list) and messages else {}
        if not tools or choice == "none" or last.get("role") == "tool":
            return None
        trigger = self._knobs.tool_trigger
        named = choice["function"]["name"] if isinstance(choice, dict) else None
        triggered = trigger is not None and trigger in text_of(last.get("content"))
        insisted = named is not None or choice == "required"
        if insisted and not self._knobs.tool_calls:
            raise EngineFailedError("Tool choice was required but no tools were called.")
        if not (insisted or (triggered and self._knobs.tool_calls)):
            return None
        tool = next((t for t in tools if t["function"]["name"] == named), tools[0])["function"]
        arguments = self._knobs.tool_arguments
        if arguments is None:
            arguments = sample(tool.get("parameters") or {"type": "object"})
        digest = hashlib.sha256(json.dumps([tool["name"], arguments]).encode()).hexdigest()
        return ToolCall(
            id=f"call-{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}",
            name=tool["name"],
            arguments=json.dumps(arguments),
        )

    async def embed(self, model: str, inputs: Sequence[str]) -> tuple[list[list[float]], int]:
        if self._knobs.category_of(model) != "embedding":
            raise WrongCategoryError
        vectors = [self._vector(f"{model}\n{text}") for text in inputs]
        return vectors, sum(tokens_of(text) for text in inputs)

    def _vector(self, text: str) -> list[float]:
        size = self._knobs.embedding_size
        stream = hashlib.shake_128(text.encode()).digest(size)
        values = [byte - 127.5 for byte in stream]
        length = sum(value * value for value in values) ** 0.5
        return [value / length for value in values]

    async def count_tokens(self, model: str, body: Json) -> int:  # noqa: ARG002 (one tokenizer)
        return tokens_of(prompt_of(Ask(kind="chat", model="", body=body)))

    def processes(self) -> dict[str, int]:
        return {}


def text_of(content: object) -> str:
    """The text of a message's content, string or parts."""
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def prompt_of(ask: Ask) -> str:
    """All text the model would read."""
    if ask.kind == "text":
        return str(ask.body["prompt"])
    messages = ask.body["messages"]
    if isinstance(messages, str):
        return messages
    return "\n".join(text_of(message.get("content")) for message in messages)


def stops_of(body: Json) -> list[str]:
    """The strings an answer ends before; here each is looked for in one word at a time."""
    stop = body.get("stop")
    return [stop] if isinstance(stop, str) else list(stop or ())


def tokens_of(text: str) -> int:
    """A plausible count: four characters each, one at least."""
    return len(text) // 4 + 1


def schema_text(body: Json) -> str | None:
    """The JSON text a `response_format` asks for, or None."""
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_object":
        return json.dumps({"answer": "amber"})
    if wanted.get("type") == "json_schema":
        return json.dumps(sample((wanted.get("json_schema") or {}).get("schema") or {}))
    return None


def sample(schema: Json) -> Any:
    """The smallest value that satisfies a plain JSON schema."""
    if "const" in schema or "enum" in schema:
        return schema["const"] if "const" in schema else schema["enum"][0]
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind == "object" or "properties" in schema:
        properties: Json = schema.get("properties") or {}
        return {
            name: sample(properties.get(name) or {}) for name in schema.get("required") or ()
        }
    plain = {"integer": 1, "number": 1.5, "boolean": True, "array": [], "null": None}
    return plain.get(str(kind), "amber")
