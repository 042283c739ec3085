"""How many bytes of request bodies are held at once: what waits in queues must not fill the memory."""

from typing import Protocol

from cortex.core.errors import CapacityError

RETRY_S = 2.0


class Holder(Protocol):
    """A request, as far as it is known here."""

    held_bytes: int


class Room:
    """Counts what arrives, until it is let go or its request has ended."""

    def __init__(self) -> None:
        self.held_bytes = 0

    def take(self, holder: Holder, size: int, limit_bytes: int) -> None:
        """Hold `size` bytes more for this request; one that is alone is never refused.

        Raises:
            CapacityError: The others hold too much.
        """
        mine = holder.held_bytes
        if mine != self.held_bytes and self.held_bytes + size > limit_bytes:
            raise full()
        holder.held_bytes = mine + size
        self.held_bytes += size

    def leave(self, holder: Holder) -> None:
        """It holds nothing any more; more than once does no harm."""
        self.held_bytes -= holder.held_bytes
        holder.held_bytes = 0


def full() -> CapacityError:
    return CapacityError(
        "this gateway holds as many request bodies as it may", retry_after_s=RETRY_S
    )
