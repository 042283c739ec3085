"""Where the log is read: the running gateway, or a database file. Both answer the same questions alike."""

import argparse
from pathlib import Path
from typing import Protocol

from cortex.adminapi import EventQuery, EventsBody, HistoryBody, HistoryQuery, StatsBody
from cortex.cli.bodies import understood
from cortex.cli.client import Client
from cortex.cli.endpoint import resolve
from cortex.cli.failures import UnreachableError

HISTORY = "/cortex/v1/history"
EVENTS = "/cortex/v1/events"


class Source(Protocol):
    """Answers a page at a time."""

    def history(self, query: HistoryQuery) -> HistoryBody: ...

    def stats(self, query: HistoryQuery) -> StatsBody: ...

    def events(self, query: EventQuery) -> EventsBody: ...


class Gateway:
    """The running gateway as a source."""

    def __init__(self, client: Client, offline: str = "") -> None:
        """`offline`: how the question would be answered without it; "" = not at all."""
        self.client = client
        self._offline = offline

    def history(self, query: HistoryQuery) -> HistoryBody:
        return understood(HistoryBody, self._get(HISTORY, query), self.client)

    def stats(self, query: HistoryQuery) -> StatsBody:
        return understood(StatsBody, self._get(f"{HISTORY}/stats", query), self.client)

    def events(self, query: EventQuery) -> EventsBody:
        return understood(EventsBody, self._get(EVENTS, query), self.client)

    def _get(self, path: str, query: HistoryQuery | EventQuery) -> object:
        try:
            return self.client.get(path, query.model_dump(exclude_none=True))
        except UnreachableError as error:
            if not self._offline:
                raise
            instead = f"`{self._offline}` reads the database file without it"
            raise UnreachableError(f"{error}; {instead}") from error


def source_of(args: argparse.Namespace) -> Source:
    """The file that --db names, the configured one, or the gateway."""
    if args.db is None:
        return Gateway(Client(resolve(args)), f"cortex {args.verb} --db")
    from cortex.cli.history_file import FileSource, configured_file

    return FileSource(Path(args.db) if args.db else configured_file(args.config, args.verb))


def newest_requests(source: Source, query: HistoryQuery) -> HistoryBody:
    """The newest rows that pass. A page of a search reads so far and no further; it is told to go on."""
    first = page = source.history(query)
    rows = list(first.rows)
    while page.next is not None and len(rows) < query.limit:
        rest = {"before": page.next, "limit": query.limit - len(rows)}
        page = source.history(query.model_copy(update=rest))
        rows += page.rows
    return HistoryBody(rows=rows, last_id=first.last_id)


def newest_events(source: Source, query: EventQuery) -> EventsBody:
    """As `newest_requests`, of events."""
    page = source.events(query)
    rows = list(page.rows)
    while page.next is not None and len(rows) < query.limit:
        rest = {"before_id": page.next, "limit": query.limit - len(rows)}
        page = source.events(query.model_copy(update=rest))
        rows += page.rows
    return EventsBody(rows=rows)
