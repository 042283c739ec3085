"""What one look at a node told, for whoever sets a fleet up or wonders what is wrong with it."""

from dataclasses import dataclass
from enum import StrEnum

from cortex.core.listing import NOTHING_LISTED, Listing, NodeInfo


class Trouble(StrEnum):
    """Why a look at a node told nothing."""

    UNREACHABLE = "unreachable"
    SILENT = "silent"
    """No connection in time, or no answer."""
    KEY = "key"
    """It wants a key, or another one."""
    GATEWAY = "gateway"
    """A cortex answers there."""
    STRANGE = "strange"
    """Something answers there that is no mistral.rs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """One node as it was just seen."""

    trouble: Trouble | None = None
    """None = it listed its models."""
    said: str = ""
    """What the trouble is, in words."""
    listing: Listing = NOTHING_LISTED
    answer_s: float = 0.0
    """How long the listing took."""
    info: NodeInfo | None = None
    """None = it gave none."""
    no_info_reason: str = ""
    skew_s: float | None = None
    """How far its clock is ahead of ours; None = it does not say what time it is."""
