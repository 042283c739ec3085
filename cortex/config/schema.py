"""The shape of `cortex.toml`. Frozen: a reload makes a new `Config` and swaps one reference."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)

from cortex.config.addresses import (
    address,
    collector_of,
    endpoint_of,
    host_name,
    origin,
    plain_name,
    seconds_or_off,
    some_of,
)

Address = Annotated[str, AfterValidator(address)]
Endpoint = Annotated[str, AfterValidator(endpoint_of)]
HostName = Annotated[str, AfterValidator(host_name)]
Origin = Annotated[str, AfterValidator(origin)]
Name = Annotated[str, AfterValidator(plain_name)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
SecondsOrOff = Annotated[Seconds | None, BeforeValidator(seconds_or_off)]
OtlpEndpoint = Annotated[str, AfterValidator(collector_of)]
Count = Annotated[int, Field(ge=1)]
KindName = Literal["chat", "vision", "embeddings", "image", "speech"]
"""As `core.traits.Kind`, which a test holds it to."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Gateway(Section):
    """Where cortex listens."""

    listen: Address = Field("0.0.0.0:8000", description="Address of the public API.")
    metrics_listen: Address | None = Field(
        "127.0.0.1:9100", description="Address of /metrics, never on the public port."
    )
    hosts: tuple[HostName, ...] = Field(
        (),
        description="Names, without a port, under which pages may reach a gateway without keys and"
        " this machine's user its admin API; besides localhost, addresses and the machine's own.",
    )
    cors_origins: tuple[Origin, ...] | None = Field(
        None,
        description="Origins whose pages may use the inference routes from a browser, as patterns"
        " (`https://*.example.com`, `*`). Default: with keys any; without keys those of this"
        " machine and of apps (`app:`, `tauri:`, browser extensions).",
    )


class State(Section):
    """The SQLite file."""

    path: Path | None = Field(
        None,
        description="Default: cortex.db in $STATE_DIRECTORY, else in the XDG state directory.",
    )
    request_retention_days: Annotated[float, Field(gt=0)] = Field(
        30.0, description="Rows of the request log and events older than this are pruned."
    )


class Tracing(Section):
    """Traces of requests, by OpenTelemetry's SDK (the extra `otel`)."""

    endpoint: OtlpEndpoint | None = Field(
        None,
        description="An OTLP collector over HTTP, `http://collector:4318`. Default: no traces.",
    )
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0,
        description="Share of the traces begun here that are kept; a client's decision counts more.",
    )


class Polling(Section):
    """How often nodes are asked what they hold."""

    interval_s: Seconds = Field(5.0, description="Between two polls of one node.")
    timeout_s: Seconds = Field(4.0, description="Deadline of one poll.")
    failures_before_down: Count = Field(3, description="Missed polls in a row that end a node.")


class Limits(Section):
    """Bounds on waiting and sizes; nothing waits for ever."""

    max_body_mb: Annotated[float, Field(gt=0, le=1024)] = Field(
        50.0, description="Largest request body, in MiB; nodes refuse more than 50."
    )
    max_bodies_mb: Annotated[float, Field(gt=0)] = Field(
        1024.0,
        description="Request bodies held at once, in MiB; one more is answered 503, except alone.",
    )
    max_answer_mb: Annotated[float, Field(gt=0, le=1024)] = Field(
        64.0,
        description="Largest answer that is put together before it is sent, in MiB of what its node"
        " sends: one that is not streamed, or is translated. Streams have no bound.",
    )
    max_in_flight_per_model: Count = Field(
        32, description="Requests at once per (node, model); mistral.rs batches 32 by default."
    )
    max_in_flight_per_node: Count | None = Field(
        None, description="Requests at once per node, over all its models."
    )
    max_queue: Annotated[int, Field(ge=0)] = Field(
        1024, description="Requests waiting per model; one more is answered 429."
    )
    queue_timeout_s: Seconds = Field(
        300.0, description="Longest wait for a slot; the time of a load does not count."
    )
    load_timeout_s: Seconds = Field(600.0, description="Longest load of a model.")
    head_timeout_s: Seconds = Field(
        10.0, description="Time a client has to send the head of a request."
    )
    connect_timeout_s: Seconds = Field(5.0, description="Longest connection attempt to a node.")
    answer_timeout_s: Seconds = Field(
        1800.0,
        description="Longest time for a chat, completion or response that is not streamed, from when"
        " its node is asked.",
    )
    idle_timeout_s: Seconds = Field(
        300.0, description="Longest gap between real bytes; keep-alives do not count."
    )
    drain_timeout_s: Seconds = Field(30.0, description="Time running requests get at shutdown.")

    @property
    def max_answer_bytes(self) -> int:
        return int(self.max_answer_mb * 1024 * 1024)


class Eviction(Section):
    """What makes room for a model that is not resident."""

    strategy: Literal["lru", "priority", "forecast"] = Field(
        "lru",
        description="`lru`: least recently used first; `priority`: lowest priority first; `forecast`:"
        " first what is expected to cost the fewest seconds.",
    )
    defrag_after_cycles: Annotated[int, Field(ge=0)] = Field(
        50, description="Unload cycles after which a node is due for a restart; 0 = never."
    )
    idle_unload_s: SecondsOrOff = Field(None, description='Unload after this idle time; "off".')
    min_residency_s: Annotated[float, Field(ge=0)] | None = Field(
        None,
        description="A model is not evicted sooner after its load. Default: as long as it took to"
        " load, three times as long while it is in demand.",
    )


class Model(Section):
    """One `[models."ID"]`."""

    vram_mb: Count | None = Field(None, description="Memory it needs, in MiB; else learned.")
    priority: int = Field(
        100,
        description="Higher is kept longer under `priority`; a weight, in percent, under `forecast`.",
    )
    aliases: tuple[str, ...] = Field((), description="Other names that clients may use for it.")
    max_in_flight: Count | None = Field(
        None, description="Requests at once per copy; else `limits.max_in_flight_per_model`."
    )
    idle_unload_s: SecondsOrOff = Field(
        None, description='Unload after this idle time; "off"; else `eviction.idle_unload_s`.'
    )
    nodes: tuple[str, ...] | None = Field(
        None, description="Where it may run; default anywhere."
    )
    max_copies: Count | None = Field(
        None,
        description="Copies up to which one more is loaded where every copy is full; default as many"
        " as free memory holds.",
    )
    context_tokens: Count | None = Field(
        None,
        description="The longest prompt with its answer; longer ones are refused before a load."
        " Default: as nodes and agents tell.",
    )
    kinds: Annotated[tuple[KindName, ...], AfterValidator(some_of)] | None = Field(
        None,
        description="All that it can be asked for: `chat`, `vision`, `embeddings`, `image`, `speech`;"
        " anything else is refused. Default: as nodes and agents tell.",
    )


class Key(Section):
    """One API key, in exactly one of three forms."""

    name: Name = Field(description="How metrics and the request log call its holder.")
    key: SecretStr | None = Field(None, description="The key itself.")
    key_file: Path | None = Field(None, description="A file that holds the key.")
    key_sha256: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")] | None = Field(
        None, description="The key's SHA-256 in hexadecimal: `printf %s KEY | sha256sum`."
    )
    role: Literal["client", "admin"] = Field(
        "client", description="`admin` may also change the fleet and read its history."
    )
    models: tuple[Annotated[str, Field(min_length=1)], ...] | None = Field(
        None,
        description="Patterns (`*`, `?`, `[ab]`) of ids or aliases that it may use; default all.",
    )
    max_concurrent: Count | None = Field(None, description="Requests at once.")
    requests_per_minute: Count | None = Field(
        None, description="Inference requests; a minute's worth may come at once."
    )
    tokens_per_minute: Count | None = Field(
        None,
        description="Prompt and completion; counted after the answer, so a debt delays the next.",
    )
    tokens_per_day: Count | None = Field(
        None, description="The same, from one midnight to the next (UTC), over restarts."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(form is not None for form in (self.key, self.key_file, self.key_sha256)) != 1:
            raise ValueError("exactly one of key, key_file and key_sha256")
        return self


class Tls(Section):
    """TLS on `gateway.listen`, 1.2 or newer; the files are read again on SIGHUP."""

    certificate: Path | None = Field(
        None, description="PEM file: the certificate, then those that vouch for it."
    )
    key: Path | None = Field(
        None,
        description="PEM file of its key, without a passphrase; default the certificate's file.",
    )

    @model_validator(mode="after")
    def _key_of_something(self) -> Self:
        if self.key is not None and self.certificate is None:
            raise ValueError("a certificate beside the key")
        return self


class Auth(Section):
    """API keys; with neither keys nor a file of them, the API is open, and the admin API this machine's."""

    file: Path | None = Field(
        None,
        description="Further keys, which `cortex keys` keeps; from where this file is. Default:"
        " keys.toml, where there is one.",
    )
    keys: tuple[Key, ...] = Field((), description="One table per key.")


class Agent(Section):
    """Agents beside nodes."""

    token_file: Path | None = Field(
        None,
        description="A file with the token that agents show; without it reports are refused.",
    )


class Node(Section):
    """One `[[nodes]]`."""

    name: Name = Field(description="How everything calls this node.")
    endpoint: Endpoint = Field(
        description="Where it listens, as a URL or as `unix:/run/mistralrs.sock`; a path in front of"
        " `/v1` is kept, no other node may have it."
    )
    vram_mb: Count | None = Field(
        None, description="Device memory, in MiB; else the node's own."
    )
    pinned: tuple[str, ...] = Field(
        (), description="Models that are never evicted here, and brought back when absent."
    )
    dialect: Literal["openai", "anthropic"] = Field("openai", description="What it speaks.")
    lifecycle: Literal["auto", "on", "off"] = Field(
        "auto",
        description="May models be loaded and unloaded here? `auto`: not where that destroys them.",
    )
    api_key_file: Path | None = Field(
        None,
        description="A file with the key that this node wants; clients' keys never reach it.",
    )
    max_in_flight: Count | None = Field(
        None, description="Requests at once here; else `limits.max_in_flight_per_node`."
    )


class Config(Section):
    """The whole file."""

    gateway: Gateway = Gateway()
    state: State = State()
    polling: Polling = Polling()
    tracing: Tracing = Tracing()
    limits: Limits = Limits()
    eviction: Eviction = Eviction()
    models: dict[str, Model] = {}
    aliases: dict[str, str] = {}
    auth: Auth = Auth()
    tls: Tls = Tls()
    agent: Agent = Agent()
    nodes: tuple[Node, ...] = ()


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The schema classes that an annotation is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)
