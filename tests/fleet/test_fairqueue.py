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


def test_an_owner_has_one_turn_however_many_it_calls_itself() -> None:
    flood = [Entry(f"10.0.0.1 curl/{n}", n) for n in range(4)]
    late = [Entry("10.0.0.2 sdk", 10), Entry("10.0.0.2 sdk", 11)]
    assert served(flood + late) == [
        flood[0], late[0], flood[1], late[1], flood[2], flood[3],
    ]  # fmt: skip


def test_the_clients_of_one_owner_take_turns() -> None:
    flood = [Entry("10.0.0.1 batch", n) for n in range(3)]
    late = [Entry("10.0.0.1 editor", 10)]
    assert served(flood + late) == [flood[0], late[0], flood[1], flood[2]]


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["", " x", " y"])), max_size=30)
)
def test_owners_wait_for_each_other_once_a_turn(asked: list[tuple[str, str]]) -> None:
    entries = [Entry(owner + name, number) for number, (owner, name) in enumerate(asked)]
    order = served(entries)
    assert sorted(order, key=lambda e: e.since_s) == entries
    for owner in {owner for owner, _ in asked}:
        places = [place for place, entry in enumerate(order) if entry.client[0] == owner]
        assert all(b - a <= 2 for a, b in itertools.pairwise(places))


def test_a_full_queue_displaces_the_newest_of_the_owner_with_the_most() -> None:
    queue: FairQueue[Entry] = FairQueue()
    for number in range(4):
        queue.add(Entry(f"a {number % 3}", number))
    assert queue.to_displace("b x") == Entry("a 0", 3)
    # As another client of the same owner: not one more than the others have.
    assert queue.to_displace("a new") == Entry("a 0", 3)
    queue.add(Entry("b x", 10))
    queue.add(Entry("b y", 11))
    queue.add(Entry("b z", 12))
    assert queue.to_displace("b new") is None
    assert queue.to_displace("c") == Entry("a 0", 3)
