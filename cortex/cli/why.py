"""`cortex why`: the story of one request."""

import argparse
from collections.abc import Sequence

from rich.text import Text

from cortex.adminapi import EventQuery, EventRow, HistoryQuery, HistoryRow
from cortex.cli import why_view
from cortex.cli.bodies import as_json
from cortex.cli.client import not_cortex
from cortex.cli.exit_codes import Exit
from cortex.cli.failures import CliError
from cortex.cli.log_source import Gateway, Source, newest_events, newest_requests, source_of
from cortex.cli.tables import Screen
from cortex.cli.text import safe
from cortex.cli.why_story import (
    Story,
    end_ms,
    loads_awaited,
    nodes_involved,
    since_ms,
    story_of,
)
from cortex.liveapi import LiveFrame, LiveRequest

LIVE = "/cortex/v1/live"
MOST_REQUESTS = 10
"""Of one id: clients that send their own may repeat it."""
MOST_EVENTS = 1000


def run(args: argparse.Namespace) -> int:
    """Tell of every request with this id, the newest last.

    Raises:
        CliError: The log has none.
    """
    source = source_of(args)
    query = HistoryQuery(request_id=args.request_id, limit=MOST_REQUESTS)
    found = newest_requests(source, query).rows[::-1]
    if isinstance(source, Gateway):
        found += under_way(source, args.request_id)
    if not found:
        raise CliError(
            f"the log has no request {args.request_id}: it is older than"
            " `state.request_retention_days`, went to another gateway, or ended with a gateway that was killed"
        )
    stories = [_told(source, row) for row in found]
    if args.json:
        print(as_json({"requests": [_body(story) for story in stories]}))
        return Exit.OK
    screen = Screen()
    if len(stories) > 1:
        screen.show(
            Text(f"{len(stories)} requests have the id {safe(args.request_id)}"), Text()
        )
    for at, story in enumerate(stories):
        row = story.request
        screen.show(*([Text()] if at else []), why_view.headline(row), why_view.summary(row))
        screen.show(Text(), screen.table(why_view.COLUMNS, why_view.rows(story)))
    return Exit.OK


def under_way(gateway: Gateway, request_id: str) -> list[HistoryRow]:
    """Requests of this id that have not ended, as if they did now, with what they wait for as their message."""
    with gateway.client.stream(LIVE) as events:
        state = next(events, None)
    try:
        frame = LiveFrame.model_validate_json(state.data if state is not None else "")
    except ValueError as error:
        raise not_cortex(gateway.client.endpoint, "unexpected LiveFrame") from error
    return [
        _as_row(request, frame)
        for request in frame.requests.values()
        if request is not None and request.request_id == request_id
    ]


def _as_row(request: LiveRequest, frame: LiveFrame) -> HistoryRow:
    queue = frame.queues.get(request.model or "") if request.state == "waiting" else None
    waited_ms = frame.at_ms - request.started_at_ms
    same = request.model_dump(include=set(HistoryRow.model_fields))
    return HistoryRow(
        id=0,
        outcome=request.state,
        duration_ms=max(0, waited_ms),
        error_message=None if queue is None else queue.reason,
        **same,
    )


def _told(source: Source, row: HistoryRow) -> Story:
    """The story of one row, with what the log has around it."""
    if row.model is None:
        return story_of(row, (), ())
    until_ms = end_ms(row) + 1
    of_model = _events(
        source, EventQuery(model=row.model, until_ms=until_ms, limit=MOST_EVENTS)
    )
    loads = loads_awaited(row, of_model)
    meanwhile = EventQuery(since_ms=since_ms(row, loads), until_ms=until_ms, limit=MOST_EVENTS)
    asked: list[dict[str, str]] = [{"node": node} for node in nodes_involved(row, loads)]
    beside = [
        event
        for which in (*asked, {"kind": "start"})
        for event in _events(source, meanwhile.model_copy(update=which))
    ]
    return story_of(row, of_model, beside)


def _events(source: Source, query: EventQuery) -> Sequence[EventRow]:
    """Oldest first."""
    return newest_events(source, query).rows[::-1]


def _body(story: Story) -> dict[str, object]:
    return {
        "request": story.request.model_dump(),
        "left": None if story.left is None else story.left.model_dump(),
        "events": [event.model_dump() for event in story.events],
    }
