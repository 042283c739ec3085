"""What one release of mistral.rs can and cannot do, as far as a gateway sees it."""

from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Capability flags of one version. The flags default to the newest tree."""

    name: str
    version: str
    """`build.version` of `/v1/system/info`."""
    git_revision: str
    unload_works: bool = True
    """Before 0.9.1, `unload` destroyed the model of a node that was started from a file."""
    has_system_info: bool = True
    """`/v1/system/info`; 0.8.1 was seen without."""
    has_messages: bool = True
    """`/v1/messages`, `count_tokens`, `/metrics`, skills and calibration, since 0.8.4."""
    has_sessions: bool = True
    """Sessions, files and agent approvals, since 0.8.2."""
    has_lora: bool = True
    """LoRA routes, since 0.9.1."""
    echoes_request_id: bool = True
    """`x-request-id`, since 0.8.11."""
    readable_errors: bool = True
    """Before 0.9.1 the texts were Rust's debug form, and a vanished model was a 500."""
    json_stream_errors: bool = True
    """After 0.9.2 a mid-stream error is JSON; before, the bare text follows `data: `."""
    cut_streams_end: bool = True
    """In 0.7.0 a stream cut by `unload` or an error sent keep-alives for ever."""
    created_in_ms: bool = False
    """In 0.7.0 a chunk's `created` was in milliseconds."""
    count_tokens_by_default: bool = True
    """Since 0.9.1 `count_tokens` uses the default model's tokenizer."""
    has_capacity_gauge: bool = True
    """The gauges for capacity and pending admission, after 0.9.2."""


HEAD: Final = Profile(name="head", version="0.9.2", git_revision="9e922623f")
V0_9_2: Final = replace(
    HEAD,
    name="v0.9.2",
    git_revision="4c1f0a7d2",
    json_stream_errors=False,
    has_capacity_gauge=False,
)
V0_9_0: Final = replace(
    V0_9_2,
    name="v0.9.0",
    version="0.9.0",
    git_revision="b7d2c9e10",
    unload_works=False,
    has_lora=False,
    readable_errors=False,
    count_tokens_by_default=False,
)
V0_8_4: Final = replace(
    V0_9_0, name="v0.8.4", version="0.8.4", git_revision="51a6e0f38", echoes_request_id=False
)
V0_8_1: Final = replace(
    V0_8_4,
    name="v0.8.1",
    version="0.8.1",
    git_revision="a60d1c7be",
    has_messages=False,
    has_sessions=False,
    has_system_info=False,
)
V0_7_0: Final = replace(
    V0_8_1,
    name="v0.7.0",
    version="0.7.0",
    git_revision="e3907bb64",
    has_system_info=True,
    cut_streams_end=False,
    created_in_ms=True,
)

PROFILES: Final = {p.name: p for p in (V0_7_0, V0_8_1, V0_8_4, V0_9_0, V0_9_2, HEAD)}
