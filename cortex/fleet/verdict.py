"""What a request found out about the node that it was sent to."""

from dataclasses import dataclass

from cortex.core.snapshot import ModelStatus
from cortex.core.traits import Traits


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Given with a lease when it ends."""

    failure: str | None = None
    """What the node did wrong; feeds its breaker."""
    client: str | None = None
    """Whose request may be to blame for the `failure` instead."""
    count: bool = True
    """False leaves the breaker alone: the caller went away, or was at fault."""
    used: bool = False
    """The model did something for somebody, which counts for the order of last use."""
    contradicts: ModelStatus | None = None
    """The node refused for a model that was thought loaded: what it is instead."""
    declined: Traits | None = None
    """What its refusal of the request tells of the model."""
    unreachable: str | None = None
    """Why it could not be connected to."""
    ask_node: bool = False
    """Something it did contradicts what is believed of it: poll it now."""


UNHEARD = Verdict(count=False, used=True)
"""The client went away, or cortex has a bug."""
UNUSED = Verdict(count=False)
"""Nobody wanted an answer: the model was to be loaded, and is."""
SERVED = Verdict(used=True)
