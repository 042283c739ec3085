"""One chat, asked by a command: the answer as it comes, and what it took."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from cortex.cli.client import Client
from cortex.cli.failures import CliError
from cortex.cli.text import safe

PATH = "/v1/chat/completions"
END = "[DONE]"

Message = Mapping[str, str]


class Kind(Enum):
    """What a piece of an answer is."""

    SAID = "said"
    THOUGHT = "thought"


Show = Callable[[str, Kind], None]


@dataclass(slots=True)
class Answer:
    """An answer as far as it came. Durations count from when it was asked for, in seconds."""

    model: str
    text: str = ""
    thinking: str = ""
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    pieces: int = 0
    ttft_s: float | None = None
    """Until the first piece; None = none came."""
    duration_s: float = 0.0

    @property
    def tokens_per_s(self) -> float | None:
        """After the first; where the node did not count, a piece counts as a token."""
        tokens = self.completion_tokens or self.pieces
        if self.ttft_s is None or tokens < 2 or self.duration_s <= self.ttft_s:
            return None
        return (tokens - 1) / (self.duration_s - self.ttft_s)


def messages_of(system: str | None, said: Sequence[Message], question: str) -> list[Message]:
    """What the model is told first, what was said so far, and the question."""
    first = [{"role": "system", "content": system}] if system else []
    return [*first, *said, {"role": "user", "content": question}]


def hear(
    client: Client,
    messages: Sequence[Message],
    answer: Answer,
    show: Show,
    options: Mapping[str, object],
) -> None:
    """Ask `answer.model` and fill `answer` in, so that an interrupted caller has what came until then.

    Raises:
        CliError: The gateway refused, or the answer failed or broke off; `answer` has what came.
    """
    body = {
        "model": answer.model,
        "messages": list(messages),
        "stream": True,
        "stream_options": {"include_usage": True},
        **options,
    }
    began_s = time.monotonic()
    ended = False
    try:
        with client.stream(PATH, body=body) as events:
            for event in events:
                if event.data == END:
                    ended = True
                    break
                _take(_chunk(event.data), answer, show, began_s)
    finally:
        answer.duration_s = time.monotonic() - began_s
    if not ended:
        raise CliError("the answer broke off")


def _chunk(data: str) -> Mapping[str, object]:
    """One chunk; empty where it is none.

    Raises:
        CliError: It is an error.
    """
    try:
        chunk = json.loads(data)
    except ValueError:
        return {}
    if not isinstance(chunk, dict):
        return {}
    error = chunk.get("error")
    if error:
        said = error.get("message") or error.get("code") if isinstance(error, dict) else error
        raise CliError(f"the answer failed: {safe(said or error)}")
    return chunk


def _take(chunk: Mapping[str, object], answer: Answer, show: Show, began_s: float) -> None:
    usage = chunk.get("usage")
    if isinstance(usage, dict):
        _count_tokens(usage, answer)
    choices = chunk.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return
    answer.finish_reason = _text(choice.get("finish_reason")) or answer.finish_reason
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return
    thought, said = _text(delta.get("reasoning_content")), _text(delta.get("content"))
    if answer.ttft_s is None and (thought or said):
        answer.ttft_s = time.monotonic() - began_s
    answer.pieces += bool(thought or said)
    answer.thinking += thought
    answer.text += said
    for piece, kind in ((thought, Kind.THOUGHT), (said, Kind.SAID)):
        if piece:
            show(piece, kind)


def _count_tokens(usage: Mapping[str, object], answer: Answer) -> None:
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    answer.prompt_tokens = _count(usage.get("prompt_tokens"))
    answer.cached_tokens = _count(cached)
    answer.completion_tokens = _count(usage.get("completion_tokens"))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
