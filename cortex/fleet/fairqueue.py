"""A bounded queue that serves its clients in turn, each of them first come, first served."""

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Entry(Protocol):
    """Something that waits on behalf of a client, since some instant."""

    @property
    def client(self) -> str: ...
    @property
    def since_s(self) -> float: ...


E = TypeVar("E", bound=Entry)


class FairQueue(Generic[E]):
    """Round robin over clients: a flood of one client delays another by one entry a turn."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, deque[E]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[E]:
        for entries in self._clients.values():
            yield from entries

    @property
    def head(self) -> E:
        """Whose turn it is. It stays the head until it leaves."""
        return next(iter(self._clients.values()))[0]

    @property
    def oldest_s(self) -> float:
        """Since when the entry that has waited longest waits."""
        return min(entries[0].since_s for entries in self._clients.values())

    def add(self, entry: E) -> None:
        self._clients.setdefault(entry.client, deque()).append(entry)
        self._size += 1

    def leave(self, entry: E, *, served: bool) -> None:
        """Take `entry` out; the client of one that was served goes to the end of the round."""
        entries = self._clients[entry.client]
        entries.remove(entry)
        self._size -= 1
        if not entries:
            del self._clients[entry.client]
        elif served:
            self._clients.move_to_end(entry.client)

    def to_displace(self, client: str) -> E | None:
        """Who gives up a place in a full queue for `client`; None = `client` has its fair share.

        The newest entry of the client with the most, where `client` would still have fewer.
        """
        most = max(self._clients.values(), key=len, default=None)
        if most is None or len(self._clients.get(client, ())) + 1 >= len(most):
            return None
        return most[-1]
