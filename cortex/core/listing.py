"""What a node says of itself, once its wire format has been read and its traps removed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cortex.core.ids import ModelId
from cortex.core.traits import Traits


class ReportedStatus(StrEnum):
    """The `status` word of mistral.rs's lifecycle calls and listing.

    The HTTP code of those calls is always 200 and means nothing.
    """

    LOADED = "loaded"
    UNLOADED = "unloaded"
    RELOADING = "reloading"
    NOT_FOUND = "not_found"
    NO_LOADER_CONFIG = "no_loader_config"
    INTERNAL_ERROR = "internal_error"


class Work(StrEnum):
    """What a model can be asked for."""

    CHAT = "chat"
    EMBEDDINGS = "embeddings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One `GET /v1/models`: one entry per id, without `default`."""

    created_at_s: int | None
    """Process start of the node; the same for all entries."""
    models: Mapping[ModelId, ReportedStatus] = field(default_factory=dict)
    """`loaded` wins where an id was listed twice."""
    duplicated: frozenset[ModelId] = frozenset()
    """Ids that were listed twice: their `reloading` flag has leaked."""
    traits: Mapping[ModelId, Traits] = field(default_factory=dict)
    """What is said of them beside."""
    remark: str = ""
    """What was left out of it, for people."""

    @property
    def loaded(self) -> list[ModelId]:
        """The models that are loaded."""
        loaded = ReportedStatus.LOADED
        return [model for model, status in self.models.items() if status is loaded]


NOTHING_LISTED = Listing(created_at_s=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """One `GET /v1/system/info`. Memory is summed over accelerators; a node without one reports None."""

    version: str | None
    git_revision: str | None = None
    vram_total_mib: int | None = None
    free_mib: int | None = None
    ram_total_mib: int | None = None
    """Of the machine; None = not reported."""
    files_path: str | None = None
    """Where it keeps the files that it fetches."""
    accelerators: tuple[str, ...] = ()
    """What they call themselves, one entry each; its kind where one has no name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleAnswer:
    """The body of a status, unload or reload call."""

    status: ReportedStatus
    error: str | None = None
