"""Clients in turn, each first come, first served."""

import itertools
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from cortex.fleet.fairqueue import FairQueue


@dataclass(frozen=True)
class Entry:
    client: str
    since_s: float


def served(entries: list[Entry]) -> list[Entry]:
    queue: FairQueue[Entry] = FairQueue()
    for entry in entries:
        queue.add(entry)
    order = []
    while queue:
        head = queue.head
        assert queue.oldest_s == min(e.since_s for e in entries if e not in order)
        queue.leave(head, served=True)
        order.append(head)
    return order


def test_a_flood_delays_another_by_one() -> None:
    flood = [Entry("a", n) for n in range(5)]
    late = [Entry("b", 10), Entry("b", 11)]
    assert served(flood + late) == [
        flood[0], late[0], flood[1], late[1], flood[2], flood[3], flood[4],
    ]  # fmt: skip


@given(st.lists(st.sampled_from("abc"), max_size=30))
def test_nobody_waits_for_more_than_one_of_each_other_between_two(clients: list[str]) -> None:
    entries = [Entry(client, number) for number, client in enumerate(clients)]
    order = served(entries)
    assert sorted(order, key=lambda e: e.since_s) == entries
    for client in set(clients):
        mine = [entry for entry in order if entry.client == client]
        assert mine == sorted(mine, key=lambda e: e.since_s)
        places = [place for place, entry in enumerate(order) if entry.client == client]
        assert all(b - a <= len(set(clients)) for a, b in itertools.pairwise(places))


def test_one_that_gives_up_does_not_cost_its_client_the_turn() -> None:
    queue: FairQueue[Entry] = FairQueue()
    first, second, other = Entry("a", 0), Entry("a", 1), Entry("b", 2)
    for entry in (first, second, other):
        queue.add(entry)
    queue.leave(first, served=False)
    assert queue.head is second


def test_a_full_queue_displaces_the_newest_of_the_largest_share() -> None:
    queue: FairQueue[Entry] = FairQueue()
    for number in range(4):
        queue.add(Entry("a", number))
    assert queue.to_displace("b") == Entry("a", 3)
    assert queue.to_displace("a") is None
    queue.add(Entry("b", 9))
    assert queue.to_displace("b") == Entry("a", 3)
    queue.add(Entry("b", 10))
    queue.add(Entry("b", 11))
    assert queue.to_displace("b") is None
