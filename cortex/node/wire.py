"""mistral.rs's JSON, read leniently: fields come and go between versions (contract §8)."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

from cortex.core.errors import NodeProtocolError
from cortex.core.ids import ModelId
from cortex.core.listing import LifecycleAnswer, Listing, NodeInfo, ReportedStatus
from cortex.core.traits import Kind, Traits, plausible_context

MIB = 1024 * 1024
MAX_MODELS = 500
"""A listing longer than this is not believed: an engine serves a handful, and each one is a series
of several metrics, a line of the page and an entry of every status.
"""
MAX_ID_LENGTH = 256
MAX_WORDS = 1000
"""Of a node's own words about a failure, in characters."""
MAX_WORD_LENGTH = 64
"""Of a version, or of the name of a device."""
MAX_MEMORY_BYTES = 1 << 50
"""A device with more is not believed."""
MAX_DEVICES = 256
MAX_INSTANT_S = 100_000_000_000


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore")


_T = TypeVar("_T", bound=_Wire)


class _Entry(_Wire):
    id: str
    created: int | None = None
    status: str | None = None
    # mistral.rs says neither; vLLM and SGLang the first, others the second.
    max_model_len: Any = None
    context_length: Any = None


class _Models(_Wire):
    # Without FailFast a million wrong entries would become a million errors.
    data: Annotated[list[_Entry], FailFast(), Field(max_length=MAX_MODELS)]


class _Lifecycle(_Wire):
    status: str
    error: str | None = None


class _UiEntry(_Wire):
    name: str
    kind: str = ""


class _UiModels(_Wire):
    models: Annotated[list[_UiEntry], FailFast(), Field(max_length=MAX_MODELS)]


class _Device(_Wire):
    kind: str = "cpu"
    name: str | None = None
    total_memory_bytes: int | None = None
    available_memory_bytes: int | None = None


class _Build(_Wire):
    version: str | None = None
    git_revision: str | None = None


class _Memory(_Wire):
    total_bytes: int | None = None


class _SystemInfo(_Wire):
    devices: Annotated[list[_Device], FailFast(), Field(max_length=MAX_DEVICES)] = []
    build: _Build = _Build()
    memory: _Memory | None = None
    hf_cache_path: str | None = None


def read_listing(body: bytes) -> Listing:
    """Read `GET /v1/models`: drops `default`, lets `loaded` win over a leaked `reloading`.

    An entry without `status` (versions before the lifecycle API) is loaded, for a node lists
    nothing else. A status that is not a word we know counts as unloaded.
    """
    entries = _parse(_Models, body).data
    models: dict[ModelId, ReportedStatus] = {}
    duplicated: set[ModelId] = set()
    traits: dict[ModelId, Traits] = {}
    created = None
    ignored = 0
    for entry in entries:
        created = _seconds(entry.created) if created is None else created
        if entry.id == "default":
            continue
        if not _plausible(entry.id, MAX_ID_LENGTH):
            ignored += 1
            continue
        model = ModelId(entry.id)
        context = plausible_context(entry.max_model_len) or plausible_context(
            entry.context_length
        )
        if context is not None:
            traits[model] = Traits(context_tokens=context)
        status = _status(entry.status)
        if model in models:
            duplicated.add(model)
            if models[model] is ReportedStatus.LOADED:
                continue
        models[model] = status
    return Listing(
        created_at_s=created,
        models=models,
        duplicated=frozenset(duplicated),
        traits=traits,
        remark=_ignored(ignored) if ignored else "",
    )


def read_kinds(body: bytes) -> dict[ModelId, frozenset[Kind]]:
    """Read `GET /ui/api/list_models` of mistral.rs, its page's list of models as they were at its start.

    What is no word that we know says nothing.
    """
    return {
        ModelId(entry.name): _KINDS[entry.kind.lower()]
        for entry in _parse(_UiModels, body).models
        if entry.kind.lower() in _KINDS and _plausible(entry.name, MAX_ID_LENGTH)
    }


_KINDS = {
    "text": frozenset({Kind.CHAT}),
    "vision": frozenset({Kind.CHAT, Kind.VISION}),
    "multimodal": frozenset({Kind.CHAT, Kind.VISION}),
    "embedding": frozenset({Kind.EMBEDDINGS}),
    "diffusion": frozenset({Kind.IMAGE}),
    "speech": frozenset({Kind.SPEECH}),
}


def read_lifecycle(body: bytes) -> LifecycleAnswer:
    """Read the body of a status, unload or reload call; its HTTP code carries no meaning."""
    answer = _parse(_Lifecycle, body)
    try:
        status = ReportedStatus(answer.status)
    except ValueError as exc:
        raise NodeProtocolError(f"unknown lifecycle status {answer.status[:40]!r}") from exc
    return LifecycleAnswer(status=status, error=answer.error and answer.error[:MAX_WORDS])


def read_system_info(body: bytes) -> NodeInfo:
    """Read `GET /v1/system/info`; memory is the sum over accelerators, CPU devices left out."""
    info = _parse(_SystemInfo, body)
    gpus = [device for device in info.devices if device.kind != "cpu"]
    return NodeInfo(
        version=_word(info.build.version),
        git_revision=_word(info.build.git_revision),
        vram_total_mib=_sum_mib([device.total_memory_bytes for device in gpus]),
        free_mib=_sum_mib([device.available_memory_bytes for device in gpus]),
        ram_total_mib=_sum_mib([info.memory.total_bytes if info.memory is not None else None]),
        files_path=info.hf_cache_path,
        accelerators=tuple(_word(device.name) or _word(device.kind) or "?" for device in gpus),
    )


def _parse(shape: type[_T], body: bytes) -> _T:
    try:
        return shape.model_validate_json(body)
    except ValidationError as exc:
        why = _complaint(exc)
    # Raised out here, without a cause: pydantic's error holds all that was read.
    raise NodeProtocolError(why)


def _complaint(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "too_long" and first["loc"] == ("data",):
        return f"listed more than {MAX_MODELS} models"
    where = ".".join(str(part) for part in first["loc"])
    return f"unexpected answer: {where} {first['msg']}".strip()


def _status(word: str | None) -> ReportedStatus:
    if word is None:
        return ReportedStatus.LOADED
    try:
        return ReportedStatus(word)
    except ValueError:
        return ReportedStatus.UNLOADED


def _seconds(created: int | None) -> int | None:
    """Before mistral.rs 0.8.0 some instants were in milliseconds."""
    if created is not None and created > MAX_INSTANT_S:
        created //= 1000
    return created if created is not None and 0 <= created < MAX_INSTANT_S else None


def _sum_mib(parts: list[int | None]) -> int | None:
    """Over what was reported; None where nothing was, or what no machine has."""
    known = [part for part in parts if part is not None]
    if not known or not all(0 <= part <= MAX_MEMORY_BYTES for part in known):
        return None
    total = sum(known)
    return total // MIB if total <= MAX_MEMORY_BYTES else None


def _plausible(text: str, longest: int) -> bool:
    return 0 < len(text) <= longest and text.isprintable()


def _word(text: str | None) -> str | None:
    return text if text is not None and _plausible(text, MAX_WORD_LENGTH) else None


def _ignored(count: int) -> str:
    return (
        f"{count} of its model ids {'is' if count == 1 else 'are'} not believed:"
        " too long, or not printable"
    )
