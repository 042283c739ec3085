"""What the routes ask of an engine, and the values that cross between the two.

Both the scripted engine and the one over mistral.rs's own library satisfy `Engine`.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Json = dict[str, Any]
"""A decoded JSON object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One generation, whatever the route it came by."""

    kind: Literal["chat", "text"]
    model: str
    """The resolved id: no alias, not `default`."""
    body: Json
    """In the form of `/v1/chat/completions` (kind chat) or `/v1/completions` (kind text)."""
    max_tokens: int | None = None
    category: Literal["text", "image", "speech"] = "text"
    """What a model must be made for to take it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A whole tool call; `arguments` is JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens, and seconds from the engine's own clock."""

    prompt_tokens: int
    completion_tokens: int
    prompt_s: float = 0.0
    completion_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of thought, kept apart from the answer."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The last piece, always there when nothing failed."""

    finish_reason: str
    usage: Usage
    text: str | None = None
    tool_calls: Sequence[ToolCall] = ()


Piece = str | Reasoning | End


@dataclass(slots=True)
class Collected:
    """An answer put together from its pieces."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    end: End | None = None

    def add(self, piece: Piece) -> None:
        """Take the next piece."""
        if isinstance(piece, str):
            self.text.append(piece)
        elif isinstance(piece, Reasoning):
            self.reasoning.append(piece.text)
        else:
            self.end = piece
            if piece.text is not None:
                self.text.append(piece.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device of `/v1/system/info`; sizes in bytes."""

    kind: Literal["cpu", "cuda", "metal"]
    name: str
    total_bytes: int
    available_bytes: int
    ordinal: int = 0


class LoadFailedError(Exception):
    """A load that did not work; the text is the node's message."""


class Engine(Protocol):
    """Holds models in memory and generates with them. Knows nothing of HTTP or of statuses."""

    async def start(self, resident: Sequence[str]) -> None:
        """Boot with these models resident. Called again after `close` for a restart."""
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...

    async def load(self, model: str) -> None:
        """Bring a model in. Raises `LoadFailedError`."""
        ...

    def unload(self, model: str) -> None:
        """Begin to let a model go; returns before its memory is free."""
        ...

    def pieces(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        """Generate. Closing the generator stops the work.

        Raises:
            AskRefusedError: The engine does not take this request.
            EngineFailedError: It failed half-way.
        """
        ...

    async def embed(self, model: str, inputs: Sequence[str]) -> tuple[list[list[float]], int]:
        """One vector per input, and the prompt tokens of all. Raises `AskRefusedError`."""
        ...

    async def count_tokens(self, model: str, body: Json) -> int:
        """Tokens of a chat-shaped request. Raises `AskRefusedError`."""
        ...

    def devices(self) -> Sequence[Device]:
        """The devices and what is free on them."""
        ...

    def processes(self) -> dict[str, int]:
        """Process id by resident model, where models have processes of their own."""
        ...
