"""Committed events for whoever follows them; a slow reader loses the oldest and holds nobody up."""

import asyncio
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Self

from cortex.adminapi import EventRow


class Subscription:
    """One reader of events. Iterating ends when the store closes and all was read."""

    def __init__(self, max_rows: int) -> None:
        self._rows: deque[EventRow] = deque(maxlen=max_rows)
        self._some = asyncio.Event()
        self._ended = False

    def publish(self, row: EventRow) -> None:
        self._rows.append(row)
        self._some.set()

    def end(self) -> None:
        self._ended = True
        self._some.set()

    def take(self) -> list[EventRow]:
        """What is there now, oldest first, without waiting."""
        rows = list(self._rows)
        self._rows.clear()
        return rows

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> EventRow:
        while not self._rows:
            if self._ended:
                raise StopAsyncIteration
            self._some.clear()
            await self._some.wait()
        return self._rows.popleft()


class Subscribers:
    """Every subscription that somebody still holds; one that is dropped needs no goodbye."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._all: weakref.WeakSet[Subscription] = weakref.WeakSet()
        self._ended = False

    def __len__(self) -> int:
        return len(self._all)

    def add(self) -> Subscription:
        subscription = Subscription(self._max_rows)
        if self._ended:
            subscription.end()
        self._all.add(subscription)
        return subscription

    def publish(self, rows: Iterable[EventRow]) -> None:
        for row in rows:
            for subscription in self._all:
                subscription.publish(row)

    def end(self) -> None:
        self._ended = True
        for subscription in self._all:
            subscription.end()
