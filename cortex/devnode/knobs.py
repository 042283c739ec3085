"""The settings a test turns while a node runs: speed, sizes and ways to misbehave."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from cortex.devnode.oddities import Oddity


@dataclass(slots=True, kw_only=True)
class Knobs:
    """Read at the moment they matter, so a change acts on the next request or chunk.

    Where a mapping is allowed its keys are model ids. `None` means off. The `*_after*` knobs
    count chunks of one stream: 0 acts after the headers, before the first chunk.
    """

    # Loading and memory.
    boot_s: float = 0.0
    """From start until the port opens."""
    load_s: float | dict[str, float] = 0.0
    load_fail: str | dict[str, str] | None = None
    """Message of a load that fails."""
    load_fail_times: int | None = None
    """How many loads fail before they succeed again; None: every one."""
    requests_load: bool = True
    """A request for an unloaded model has it loaded; before 0.7.0 it was refused."""
    silent_reload_share: float = 0.75
    """Share of `reload` calls to a quiet node during which it reads nothing and accepts nobody.

    A load that a request sets off never does (contract §2.2).
    """
    size_mib: int | dict[str, int] = 1024
    """What a resident model holds of the device's memory; models not in a mapping hold 1024."""
    vram_total_mib: int = 24_576
    release_delay_s: float = 0.05
    """From the answer to `unload` until memory comes back."""
    leak_pct: float = 0.0
    """Share of a model's size that an unload never gives back."""
    unload_gap_s: float = 0.0
    """How long an unloading model is in neither map; `unload` answers at its end."""

    # Generation.
    category: str | dict[str, str] = "text"
    """What a model is made for: text, embedding, image or speech; models not in a mapping, text."""
    plain_template: bool = False
    """The chat template adds a message's content to a string: it takes no list of parts."""
    cpu_only: bool = False
    """No device but the CPU, of which no memory is reported, and where a batch of equal prompts fails."""
    tokens: int | None = None
    """Length of an answer; None: `max_tokens` up to 256, else 8."""
    first_token_s: float = 0.0
    token_interval_s: float = 0.0
    endless: bool = False
    """Generate for ever, unless a single token is asked for."""
    reasoning_tokens: int = 0
    tool_trigger: str | None = None
    """Call the first tool when the last message contains this text."""
    tool_calls: bool = True
    """Off: the model calls no tool, whatever is asked. To insist on a call then fails."""
    tool_arguments: dict[str, Any] | None = None
    """Arguments of tool calls; None: a minimal object made from the tool's schema."""
    context_tokens: int = 131_072
    max_seqs: int = 32
    """Requests one engine serves at once, the rest queue; read when a model is loaded."""
    loading_token_s: float = 0.0
    """What a load adds to every token of the node's other models."""
    embedding_size: int = 16

    # Slowness of the node itself.
    answer_delay_s: float = 0.0
    """Before the headers of an inference answer."""
    info_delay_s: float = 0.2
    listing_delay_s: float = 0.0
    listing_late_s: float = 0.0
    """A listing is made at once and sent so much later, when it may be true no more."""
    count_tokens_delay_s: float = 0.0
    keepalive_s: float = 10.0
    """Idle time after which a stream gets a comment; 0: never."""

    # Misbehaviour.
    oddity: Oddity | None = None
    """Something that another make of nodes does to a stream; `oddities.py` has them."""
    stall: bool = False
    """Accept inference requests and never send a byte."""
    drop_after_chunks: int | None = None
    """Abort the connection."""
    eof_after_chunks: int | None = None
    """End the body cleanly, without a terminator."""
    error_event_after: int | None = None
    """The engine fails: an error event in a stream, a 500 with `partial_response` otherwise."""
    stall_after_chunks: int | None = None
    """Silence, without keep-alives, and no end."""
    endless_keepalives: int | None = None
    """Nothing but comments every `keepalive_s`, and no end."""
    crash_after_chunks: int | None = None
    """The process exits with 1; an in-process node closes its port and every connection."""
    http_error: dict[str, Any] | None = None
    """Answer the next requests with an error instead of work.

    Keys: `status` (500), `shape` (a key of `errors.SHAPES`, "message"), `message`, `times` (1;
    null: always), `path` (prefix; default: the inference routes).
    """
    refuse: bool = False
    """Close the listening socket; connections already open go on."""
    refuse_s: float = 0.0
    """Close the listening socket for so long."""

    def update(self, values: Mapping[str, object]) -> None:
        """Set knobs by name, all or none.

        Raises:
            ValueError: An unknown knob, or a value of the wrong type.
        """
        hints = get_type_hints(Knobs)
        for name, value in values.items():
            if name not in hints:
                raise ValueError(f"unknown knob {name!r}; there are {', '.join(sorted(hints))}")
            if not _fits(value, hints[name]):
                raise ValueError(f"knob {name!r} does not take {value!r}")
        for name, value in values.items():
            setattr(self, name, value)

    def as_dict(self) -> dict[str, object]:
        """Every knob with its current value."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def load_s_of(self, model: str) -> float:
        """Seconds a load of `model` takes."""
        return self.load_s.get(model, 0.0) if isinstance(self.load_s, dict) else self.load_s

    def size_mib_of(self, model: str) -> int:
        """MiB that `model` holds when resident."""
        return (
            self.size_mib.get(model, 1024) if isinstance(self.size_mib, dict) else self.size_mib
        )

    def category_of(self, model: str) -> str:
        """What `model` is made for."""
        if isinstance(self.category, dict):
            return self.category.get(model, "text")
        return self.category

    def take_load_failure(self, model: str) -> str | None:
        """The message with which this load of `model` fails, counting down the times left."""
        fail = self.load_fail
        message = fail.get(model) if isinstance(fail, dict) else fail
        if message is None or self.load_fail_times == 0:
            return None
        if self.load_fail_times is not None:
            self.load_fail_times -= 1
        return message


def _fits(value: object, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin is Literal:
        return value in get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if origin is dict:
        item = get_args(hint)[1]
        return isinstance(value, dict) and all(_fits(v, item) for v in value.values())
    if hint is Any:
        return True
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)
