"""mistral.rs's JSON, read leniently: fields come and go between versions (contract §8)."""

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cortex.core.errors import NodeProtocolError
from cortex.core.ids import ModelId
from cortex.core.listing import LifecycleAnswer, Listing, NodeInfo, ReportedStatus

MIB = 1024 * 1024
MAX_MODELS = 10_000
"""A listing longer than this is not believed."""
MAX_ID_LENGTH = 512


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore")


_T = TypeVar("_T", bound=_Wire)


class _Entry(_Wire):
    id: str
    created: int | None = None
    status: str | None = None


class _Models(_Wire):
    data: list[_Entry]


class _Lifecycle(_Wire):
    status: str
    error: str | None = None


class _Device(_Wire):
    kind: str = "cpu"
    total_memory_bytes: int | None = None
    available_memory_bytes: int | None = None


class _Build(_Wire):
    version: str | None = None
    git_revision: str | None = None


class _SystemInfo(_Wire):
    devices: list[_Device] = []
    build: _Build = _Build()


def read_listing(body: bytes) -> Listing:
    """Read `GET /v1/models`: drops `default`, lets `loaded` win over a leaked `reloading`.

    An entry without `status` (versions before the lifecycle API) is loaded, for a node lists
    nothing else. A status that is not a word we know counts as unloaded.
    """
    entries = _parse(_Models, body).data
    if len(entries) > MAX_MODELS:
        raise NodeProtocolError(
            f"listed {len(entries)} models; at most {MAX_MODELS} are believed"
        )
    models: dict[ModelId, ReportedStatus] = {}
    duplicated: set[ModelId] = set()
    created = None
    for entry in entries:
        created = _seconds(entry.created) if created is None else created
        if entry.id == "default" or not _plausible(entry.id):
            continue
        model = ModelId(entry.id)
        status = _status(entry.status)
        if model in models:
            duplicated.add(model)
            if models[model] is ReportedStatus.LOADED:
                continue
        models[model] = status
    return Listing(created_at_s=created, models=models, duplicated=frozenset(duplicated))


def read_lifecycle(body: bytes) -> LifecycleAnswer:
    """Read the body of a status, unload or reload call; its HTTP code carries no meaning."""
    answer = _parse(_Lifecycle, body)
    try:
        status = ReportedStatus(answer.status)
    except ValueError as exc:
        raise NodeProtocolError(f"unknown lifecycle status {answer.status[:40]!r}") from exc
    return LifecycleAnswer(status=status, error=answer.error)


def read_system_info(body: bytes) -> NodeInfo:
    """Read `GET /v1/system/info`; memory is the sum over accelerators, CPU devices left out."""
    info = _parse(_SystemInfo, body)
    gpus = [device for device in info.devices if device.kind != "cpu"]
    totals = [
        device.total_memory_bytes for device in gpus if device.total_memory_bytes is not None
    ]
    free = [
        device.available_memory_bytes
        for device in gpus
        if device.available_memory_bytes is not None
    ]
    return NodeInfo(
        version=info.build.version,
        git_revision=info.build.git_revision,
        vram_total_mib=sum(totals) // MIB if totals else None,
        free_mib=sum(free) // MIB if free else None,
    )


def _parse(shape: type[_T], body: bytes) -> _T:
    try:
        return shape.model_validate_json(body)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise NodeProtocolError(f"unexpected answer: {where} {first['msg']}".strip()) from exc


def _status(word: str | None) -> ReportedStatus:
    if word is None:
        return ReportedStatus.LOADED
    try:
        return ReportedStatus(word)
    except ValueError:
        return ReportedStatus.UNLOADED


def _seconds(created: int | None) -> int | None:
    """Before mistral.rs 0.8.0 some instants were in milliseconds."""
    return created // 1000 if created is not None and created > 100_000_000_000 else created


def _plausible(model_id: str) -> bool:
    return 0 < len(model_id) <= MAX_ID_LENGTH and model_id.isprintable()
