"""A chat completions stream put together to the answer that the node would have given whole.

A node that streams stops when its client hangs up, and is heard while it works; one that answers
whole does neither. All values are the node's own: text and arguments joined, counts as it gave them.
"""

from typing import Any

from cortex.core.sse import Event, SseReader
from cortex.core.stream import DONE
from cortex.core.translate.calls import Calls
from cortex.core.translate.deltas import Deltas
from cortex.core.translate.reading import TruncatedError, json_of, refuse_giving_up

Json = dict[str, Any]


class ChatGather:
    """One answer. `feed` it the node's bytes, then `end` it; then it is `whole`."""

    def __init__(self) -> None:
        self._reader = SseReader()
        self._deltas = Deltas()
        self._fields: Json = {}
        self._choice: Json = {"index": 0, "finish_reason": None}
        self._message: Json = {}
        #: Pieces of texts, by field: adding to a string copies all that came before.
        self._texts: dict[str, list[str]] = {}
        self._calls = Calls()
        self._logprobs: dict[str, list[Any]] = {}
        self._begun = False
        self.heard = 0
        """Events of the node that were more than a sign of life."""
        self.done = False
        """The end has been told."""

    def feed(self, data: bytes) -> None:
        """Take in what has come.

        Raises:
            ComplaintError: The node reported an error.
            TruncatedError: It gave up, in so many words.
            EventTooLongError: An event, or the tool calls, are without end.
        """
        texts = None if self._reader.under_way else self._deltas.texts(data)
        if texts is not None and not self.done:
            self.heard += len(texts)
            self._texts["content"] += texts
            return
        for event in self._reader.feed(data):
            self._take(event)
        self._deltas.learn(data)

    def end(self) -> None:
        """The node's bytes have ended.

        Raises:
            TruncatedError: Before it told of any end.
        """
        rest = self._reader.rest()
        if rest is not None and rest.data.strip() == DONE:
            self._take(rest)
        told = bool(self._choice["finish_reason"])
        if not self._begun or not (self.done or told):
            raise TruncatedError("the node ended the stream in the middle")
        if not told and not all(call.is_whole for call in self._calls):
            raise TruncatedError("the node ended a tool call in the middle")

    @property
    def usage(self) -> object:
        """As the node gave it."""
        return self._fields.get("usage")

    def whole(self) -> Json:
        """The `chat.completion`."""
        message = dict(self._message)
        message.update({name: "".join(pieces) for name, pieces in self._texts.items()})
        if self._calls:
            message["tool_calls"] = [call.whole() for call in self._calls]
        elif message.get("content") is None:
            # Without a call there is an answer, if an empty one.
            message["content"] = ""
        choice = self._choice | {"message": message}
        if not choice["finish_reason"]:
            choice["finish_reason"] = "tool_calls" if self._calls else "stop"
        if self._logprobs:
            choice["logprobs"] = self._logprobs
        return {**self._fields, "object": "chat.completion", "choices": [choice]}

    def _take(self, event: Event) -> None:
        data = event.data.strip()
        if self.done or not data:
            return
        if data == DONE:
            self.done = True
            return
        chunk = json_of(event)
        self.heard += chunk.get("type") != "ping"
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            return  # mistral.rs's own named events
        self._begun = True
        _fill(self._fields, chunk, ("choices", "object", "error"))
        for choice in choices:
            if isinstance(choice, dict) and not choice.get("index"):
                self._take_choice(choice)

    def _take_choice(self, choice: Json) -> None:
        delta, logprobs = choice.get("delta"), choice.get("logprobs")
        if isinstance(delta, dict):
            self._take_delta(delta)
        if isinstance(logprobs, dict):
            for name, tokens in logprobs.items():
                if isinstance(tokens, list):
                    self._logprobs.setdefault(name, []).extend(tokens)
        _fill(self._choice, choice, ("delta",))
        refuse_giving_up(str(self._choice["finish_reason"]))

    def _take_delta(self, delta: Json) -> None:
        for name, value in delta.items():
            if name == "tool_calls":
                self._calls.take(value)
                self._message.setdefault(name, None)
            elif name == "role" or not isinstance(value, str):
                _fill(self._message, {name: value}, ())
            else:
                self._texts.setdefault(name, []).append(value)
                self._message.setdefault(name, None)


def _fill(into: Json, given: Json, but: tuple[str, ...]) -> None:
    """Take over what is told: null says nothing against a value, and the first words of a head count."""
    for name, value in given.items():
        if name not in but and (value not in (None, "") or name not in into):
            if name in _HEAD and into.get(name) is not None:
                continue
            into[name] = value


_HEAD = frozenset({"id", "created", "model", "system_fingerprint", "role"})
"""The same in every chunk."""
