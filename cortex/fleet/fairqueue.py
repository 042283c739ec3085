"""A bounded queue that serves its owners in turn, the clients of each in turn, each first come, first served."""

from collections import OrderedDict, deque
from collections.abc import Iterator
from itertools import chain
from typing import Generic, Protocol, TypeVar


class Entry(Protocol):
    """Something that waits on behalf of a client, since some instant."""

    @property
    def client(self) -> str:
        """`OWNER` or `OWNER NAME`: a key, or an address and a program on it."""
        ...

    @property
    def since_s(self) -> float: ...


E = TypeVar("E", bound=Entry)
_Clients = OrderedDict[str, deque[E]]


class FairQueue(Generic[E]):
    """Round robin twice: a flood of one owner delays another by one entry a turn.

    However many clients an owner calls itself, they share one turn: a name is free, an address or
    a key is not.
    """

    def __init__(self) -> None:
        self._owners: OrderedDict[str, _Clients[E]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[E]:
        for clients in self._owners.values():
            yield from chain.from_iterable(clients.values())

    @property
    def head(self) -> E:
        """Whose turn it is. It stays the head until it leaves."""
        clients = next(iter(self._owners.values()))
        return next(iter(clients.values()))[0]

    @property
    def oldest_s(self) -> float:
        """Since when the entry that has waited longest waits."""
        return min(
            entries[0].since_s
            for clients in self._owners.values()
            for entries in clients.values()
        )

    def add(self, entry: E) -> None:
        clients = self._owners.setdefault(_owner(entry.client), OrderedDict())
        clients.setdefault(entry.client, deque()).append(entry)
        self._size += 1

    def leave(self, entry: E, *, served: bool) -> None:
        """Take `entry` out; owner and client of one that was served go to the end of their rounds."""
        owner = _owner(entry.client)
        clients = self._owners[owner]
        entries = clients[entry.client]
        entries.remove(entry)
        self._size -= 1
        if not entries:
            del clients[entry.client]
        elif served:
            clients.move_to_end(entry.client)
        if not clients:
            del self._owners[owner]
        elif served:
            self._owners.move_to_end(owner)

    def to_displace(self, client: str) -> E | None:
        """Who gives up a place in a full queue for `client`; None = `client` has its fair share.

        The newest entry of the owner with the most, where that of `client` would still have fewer;
        among the clients of one owner by the same rule.
        """
        owner = _owner(client)
        own = self._owners.get(owner, OrderedDict())
        most = max(self._owners.values(), key=_count, default=own)
        if most is own or _count(own) + 1 >= _count(most):
            return _largest_but(own, client)
        return max(most.values(), key=len)[-1]


def _owner(client: str) -> str:
    return client.partition(" ")[0]


def _count(clients: _Clients[E]) -> int:
    return sum(map(len, clients.values()))


def _largest_but(clients: _Clients[E], client: str) -> E | None:
    largest = max(clients.values(), key=len, default=None)
    if largest is None or len(clients.get(client, ())) + 1 >= len(largest):
        return None
    return largest[-1]
