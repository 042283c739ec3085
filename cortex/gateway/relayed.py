"""What a relay has to say once it has ended: to the account, and of the node."""

from dataclasses import dataclass

from cortex.core.errors import CortexError
from cortex.core.stream import UNREPORTED, Usage


@dataclass(slots=True)
class Relayed:
    """What became of one answer, once its first byte was sent."""

    failure: CortexError | None = None
    """Why it ended early; the client has been told. None = it is whole."""
    usage: Usage = UNREPORTED
    response_id: str | None = None
    sent_bytes: int = 0
    streamed: bool = False
    """The node gave it token by token."""
